//! Operations as tools: their descriptions, their calls, and what comes out.
//!
//! A tool's name is its operation's with an underscore for the slash (`books_get`); no word of an
//! operation's name has one, and model vendors allow it. A tool answers with an object, always: a
//! list comes as `items` with the cursor of its next page beside it, anything else as `result`.

use std::sync::Arc;

use hostler_operations::{
    CallError, ErrorObject, Identity, Kind, Method, Registered, Registry, Reply, RequestId,
    StatusCode,
};
use serde_json::{Map, Value, json};

use super::Asked;
use super::message::RpcError;
use crate::openapi::summary;
use crate::paging::pages;

/// What this caller may call, by name.
pub(super) fn list(registry: &Registry, caller: &Identity) -> Value {
    let permitted = registry
        .external()
        .filter(|operation| is_tool_of(operation, caller));
    permitted.map(|operation| describe(operation)).collect()
}

fn is_tool_of(operation: &Registered, caller: &Identity) -> bool {
    operation.kind() != Kind::Subscription && operation.access().check(Some(caller)).is_ok()
}

fn describe(operation: &Registered) -> Value {
    let name = operation.name();
    let mut tool = json!({
        "name": format!("{}_{}", name.service(), name.operation()),
        "title": summary(operation.description()),
        "description": operation.description(),
        "inputSchema": input_schema(operation),
        "annotations": annotations(operation),
    });
    if let Some(schema) = output_schema(operation) {
        tool["outputSchema"] = schema;
    }
    tool
}

fn input_schema(operation: &Registered) -> Value {
    let mut schema = operation.input_schema().as_value().clone();
    if let Value::Object(schema) = &mut schema {
        for told_already in ["$schema", "title", "description"] {
            schema.remove(told_already);
        }
        // Some inputs are only composed of objects, and do not say so at the top.
        schema.insert("type".to_owned(), "object".into());
    }
    schema
}

/// In which form an operation's output is an object.
enum Shape {
    /// It is one.
    Object,
    /// It is a list with pages.
    Pages,
    /// It is something else.
    Other,
}

impl Shape {
    fn of(operation: &Registered) -> Self {
        let kind = operation.output_schema().get("type");
        match kind.and_then(Value::as_str) {
            Some("object") => Self::Object,
            Some("array") if pages(operation) => Self::Pages,
            _ => Self::Other,
        }
    }
}

/// `None` for a schema that refers to its own root, which is somewhere else once it is wrapped.
fn output_schema(operation: &Registered) -> Option<Value> {
    let mut schema = operation.output_schema().as_value().clone();
    let object = schema.as_object_mut()?;
    object.remove("$schema");
    let field = match Shape::of(operation) {
        Shape::Object => return Some(schema),
        Shape::Pages => "items",
        Shape::Other => "result",
    };
    let definitions = object.remove("$defs");
    if schema.to_string().contains("\"$ref\":\"#\"") {
        return None;
    }
    let mut wrapped = json!({
        "type": "object",
        "properties": { field: schema },
        "required": [field],
    });
    if field == "items" {
        wrapped["properties"]["next_cursor"] = json!({
            "type": "string",
            "description": "Where the next page begins; absent on the last one.",
        });
    }
    if let Some(definitions) = definitions {
        wrapped["$defs"] = definitions;
    }
    Some(wrapped)
}

/// What is known of a tool's effects. What is not known is left out, and then a client expects the
/// worst (2026-07-28, schema, ToolAnnotations).
fn annotations(operation: &Registered) -> Value {
    if operation.kind() == Kind::Query {
        return json!({ "readOnlyHint": true });
    }
    let by = |method: Method| operation.rest().iter().any(|rest| rest.method == method);
    let mut hints = json!({ "readOnlyHint": false });
    // Deleting what is deleted already changes nothing more, as of PUT (RFC 9110, section 9.2.2).
    if operation.is_idempotent() || by(Method::DELETE) || by(Method::PUT) {
        hints["idempotentHint"] = true.into();
    }
    let creates = |rest: &hostler_operations::RestBinding| rest.success == StatusCode::CREATED;
    if by(Method::DELETE) || operation.name().operation() == "delete" {
        hints["destructiveHint"] = true.into();
    } else if operation.rest().iter().any(creates) {
        hints["destructiveHint"] = false.into();
    }
    hints
}

/// A tool that is to be called.
pub(super) struct Called {
    pub(super) operation: Arc<Registered>,
    pub(super) input: Value,
}

impl Called {
    /// What does not exist, is internal, or is not for this caller is one and the same.
    pub(super) fn read(registry: &Registry, asked: &mut Asked<'_>) -> Result<Self, RpcError> {
        let Some(name) = asked.params.get("name").and_then(Value::as_str) else {
            return Err(RpcError::invalid_params(
                "name must be the name of a tool; tools/list shows those that you may call",
            ));
        };
        let operation = name
            .split_once('_')
            .and_then(|(service, operation)| registry.find(&format!("{service}/{operation}")))
            .filter(|operation| is_tool_of(operation, &asked.caller.identity))
            .cloned();
        let Some(operation) = operation else {
            let name: String = name.chars().take(200).collect();
            return Err(RpcError::invalid_params(format!(
                "there is no tool {name:?}; tools/list shows those that you may call"
            )));
        };
        let input = match asked.params.remove("arguments") {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(input @ Value::Object(_)) => input,
            Some(_) => return Err(RpcError::invalid_params("arguments must be an object")),
        };
        Ok(Self { operation, input })
    }

    pub(super) fn name(&self) -> &str {
        self.operation.name().as_str()
    }
}

/// A call that succeeded. The text is for clients and models that read no structures.
pub(super) fn success(operation: &Registered, reply: Reply) -> Map<String, Value> {
    let structured = match Shape::of(operation) {
        Shape::Object => reply.output,
        Shape::Other => json!({ "result": reply.output }),
        Shape::Pages => {
            let mut page = json!({ "items": reply.output });
            if let Some(cursor) = reply.next_cursor {
                page["next_cursor"] = cursor.into();
            }
            page
        }
    };
    let mut result = content(&structured);
    result.insert("structuredContent".to_owned(), structured);
    result.insert("isError".to_owned(), false.into());
    result
}

/// A call that failed is a result too, so that the model reads why and can do better. It has no
/// structure of its own: a client would hold that against the output's schema.
pub(super) fn failure(error: &CallError, request_id: &RequestId) -> Map<String, Value> {
    let told = ErrorObject::from(error);
    let mut error = json!({
        "code": told.code,
        "message": told.message,
        "retryable": told.retryable,
        "request_id": request_id.as_str(),
    });
    if let Some(details) = told.details {
        error["details"] = details;
    }
    let mut result = content(&json!({ "error": error }));
    result.insert("isError".to_owned(), true.into());
    result
}

fn content(value: &Value) -> Map<String, Value> {
    let text = json!([{ "type": "text", "text": value.to_string() }]);
    Map::from_iter([("content".to_owned(), text)])
}
