//! One operation in one of its forms, as OpenAPI's Operation Object.

use hostler_operations::{Access, Method, Registered, Scope, StatusCode};
use http::HeaderName;
use serde_json::{Value, json};

use super::components::Components;
use super::parameters;
use super::responses;
use crate::answer::Surface;
use crate::target::operation_methods;

/// A way to reach an operation: its own path under a method, or a REST route.
pub(super) struct Form {
    pub(super) surface: Surface,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) path_fields: Vec<String>,
    pub(super) success: StatusCode,
    /// The media type of a success that is text and not JSON.
    pub(super) text: Option<&'static str>,
    /// Unique in the document: operation names are unique, and hold no dot.
    id: String,
}

/// Every way to reach an operation. The first REST route has the plainest id, since it is the one
/// that generated clients are written for.
pub(super) fn forms(operation: &Registered) -> Vec<Form> {
    let name = operation.name();
    let id = format!("{}.{}", name.service(), name.operation());
    let rest = operation.rest().iter().enumerate().map(|(at, rest)| Form {
        surface: Surface::Rest,
        method: rest.method.clone(),
        path: rest.path.clone(),
        path_fields: rest.path_fields().map(str::to_owned).collect(),
        success: rest.success,
        text: rest.text,
        id: if at == 0 {
            id.clone()
        } else {
            format!("{id}.{}", at + 1)
        },
    });
    let own = operation_methods(operation.kind())
        .iter()
        .map(|method| Form {
            surface: Surface::Operation,
            method: method.clone(),
            path: name.path(),
            path_fields: Vec::new(),
            success: StatusCode::OK,
            text: None,
            id: format!(
                "{id}.{}",
                if method == Method::GET {
                    "read"
                } else {
                    "call"
                }
            ),
        });
    rest.chain(own).collect()
}

pub(super) fn describe(
    operation: &Registered,
    form: &Form,
    credential_headers: &[HeaderName],
    components: &mut Components,
) -> Value {
    let taken = parameters::taken(operation, form, components);
    let mut described = json!({
        "operationId": form.id,
        "tags": [operation.name().service()],
        "summary": summary(operation.description()),
        "description": operation.description(),
        "security": security(operation.access(), credential_headers),
        "responses": responses::responses(operation, form, components),
    });
    if !taken.parameters.is_empty() {
        described["parameters"] = Value::Array(taken.parameters);
    }
    if let Some(body) = taken.body {
        described["requestBody"] = body;
    }
    described
}

/// The first sentence.
pub(crate) fn summary(description: &str) -> &str {
    let first = description.split(". ").next().unwrap_or(description);
    first.lines().next().unwrap_or(first).trim_end_matches('.')
}

/// Alternatives, each of which is enough by itself (OpenAPI 3.1, section 4.8.30; outside of OAuth
/// the names in it are the roles that are needed).
fn security(access: &Access, credential_headers: &[HeaderName]) -> Value {
    let roles: Vec<Vec<&Scope>> = match access {
        Access::Open => return json!([]),
        Access::AllOf(scopes) => vec![scopes.iter().collect()],
        Access::AnyOf(scopes) => scopes.iter().map(|scope| vec![scope]).collect(),
    };
    let schemes: Vec<&str> = ["bearer"]
        .into_iter()
        .chain(credential_headers.iter().map(HeaderName::as_str))
        .collect();
    let alternatives = roles.iter().flat_map(|scopes| {
        let scopes: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
        schemes.iter().map(move |scheme| json!({ *scheme: scopes }))
    });
    alternatives.collect()
}
