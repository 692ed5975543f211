//! `services/list` and `services/schema`: a registry describes itself, as operations like any
//! other, to each caller what that caller may use.

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use crate::call::Call;
use crate::declare::internal;
use crate::define::{Kind, Service, query, service};
use crate::error::NOT_FOUND;
use crate::errors;
use crate::registry::Registered;

pub(crate) fn operations() -> Service<()> {
    service("services")
        .with(query("list", list).open())
        .with(query("schema", schema).open())
}

/// Lists the operations that the caller may use.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListServices {}

/// An operation in a list.
#[derive(Serialize, JsonSchema)]
struct Summary {
    /// `service/operation`
    name: String,
    kind: Kind,
    description: String,
    /// REST routes, `METHOD /path`.
    rest: Vec<String>,
}

async fn list(_: &(), call: Call, _: ListServices) -> Result<Vec<Summary>, SchemaError> {
    let registry = call
        .registry()
        .ok_or_else(|| internal("the registry is gone"))?;
    let visible = registry
        .external()
        .filter(|o| o.access().check(call.identity()).is_ok());
    Ok(visible.map(|operation| summary(operation)).collect())
}

fn summary(operation: &Registered) -> Summary {
    Summary {
        name: operation.name().to_string(),
        kind: operation.kind(),
        description: operation.description().to_owned(),
        rest: operation
            .rest()
            .iter()
            .map(|r| format!("{} {}", r.method, r.path))
            .collect(),
    }
}

/// Shows the schemas of one operation's input, output and errors.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetSchema {
    /// `service/operation`
    operation: String,
}

/// All that a caller needs to call an operation.
#[derive(Serialize, JsonSchema)]
struct Described {
    #[serde(flatten)]
    summary: Summary,
    /// JSON Schema 2020-12.
    input: Schema,
    /// JSON Schema 2020-12.
    output: Schema,
    errors: Vec<DescribedError>,
}

#[derive(Serialize, JsonSchema)]
struct DescribedError {
    code: String,
    description: String,
    http_status: u16,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Schema>,
}

errors! {
    /// Why an operation could not be described.
    enum SchemaError {
        /// There is no such operation, or the caller may not use it.
        NotFound { operation: String } = NOT_FOUND,
            "there is no operation {operation:?}; services/list shows those that you may use";
    }
}

async fn schema(_: &(), call: Call, input: GetSchema) -> Result<Described, SchemaError> {
    let registry = call
        .registry()
        .ok_or_else(|| internal("the registry is gone"))?;
    let operation = registry
        .find(&input.operation)
        .filter(|o| o.access().check(call.identity()).is_ok())
        .ok_or(SchemaError::NotFound {
            operation: input.operation,
        })?;
    let errors = operation.errors().iter().map(|spec| DescribedError {
        code: spec.code.as_str().to_owned(),
        description: spec.description.clone(),
        http_status: spec.code.status().as_u16(),
        retryable: spec.code.is_retryable(),
        details: spec.details.clone(),
    });
    Ok(Described {
        summary: summary(operation),
        input: operation.input_schema().clone(),
        output: operation.output_schema().clone(),
        errors: errors.collect(),
    })
}
