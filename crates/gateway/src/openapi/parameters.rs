//! An input, taken apart: what is in the path, in the query string and in the body.

use std::collections::BTreeSet;

use hostler_operations::{Method, Registered};
use serde_json::{Map, Value, json};

use super::components::{Components, Role};
use super::operation::Form;
use crate::input::{self, IDEMPOTENCY_FIELD, IDEMPOTENCY_HEADER};

/// What an operation takes in one of its forms.
pub(super) struct Taken {
    pub(super) parameters: Vec<Value>,
    pub(super) body: Option<Value>,
}

pub(super) fn taken(operation: &Registered, form: &Form, components: &mut Components) -> Taken {
    let schema = operation.input_schema();
    let raw = schema.as_value();
    let hoisted = components.hoist(schema, Role::Input);
    let required: BTreeSet<&str> = required(raw).collect();
    let in_path: BTreeSet<&str> = form.path_fields.iter().map(String::as_str).collect();
    let in_query = takes_query(&form.method);

    let mut parameters = Vec::new();
    for (name, property) in input::properties(raw) {
        if !in_path.contains(name) && !in_query {
            continue;
        }
        let place = if in_path.contains(name) {
            "path"
        } else {
            "query"
        };
        let needed = place == "path" || required.contains(name);
        let mut parameter = json!({ "name": name, "in": place, "required": needed });
        if let Some(description) = property.get("description") {
            parameter["description"] = description.clone();
        }
        let schema = hoisted.rewrite(property);
        if input::resolve(raw, property)
            .get("type")
            .is_some_and(|t| t == "object")
        {
            parameter["content"] = json!({ "application/json": { "schema": schema } });
        } else {
            parameter["schema"] = schema;
        }
        parameters.push(parameter);
    }
    let properties = input::properties(raw);
    if let Some((_, key)) = properties
        .iter()
        .find(|(name, _)| *name == IDEMPOTENCY_FIELD)
    {
        parameters.push(json!({
            "name": IDEMPOTENCY_HEADER.as_str(),
            "in": "header",
            "description": format!("The same as `{IDEMPOTENCY_FIELD}`."),
            "schema": hoisted.rewrite(key),
        }));
    }
    let body = (!in_query).then(|| match in_path.is_empty() {
        true => body(hoisted.reference, !required.is_empty()),
        false => {
            let rest = hoisted.rewrite(&without(raw, &in_path));
            body(rest, required.difference(&in_path).next().is_some())
        }
    });
    Taken { parameters, body }
}

/// Whether what is not in the path goes into the query string.
fn takes_query(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::DELETE].contains(method)
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    let names = schema.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str)
}

fn body(schema: Value, required: bool) -> Value {
    json!({ "required": required, "content": { "application/json": { "schema": schema } } })
}

/// The schema without the fields that the path holds.
fn without(schema: &Value, fields: &BTreeSet<&str>) -> Value {
    let mut rest: Map<String, Value> = schema.as_object().cloned().unwrap_or_default();
    for keyword in ["$schema", "$defs", "title"] {
        rest.remove(keyword);
    }
    if let Some(Value::Object(properties)) = rest.get_mut("properties") {
        properties.retain(|name, _| !fields.contains(name.as_str()));
    }
    if let Some(Value::Array(required)) = rest.get_mut("required") {
        required.retain(|name| name.as_str().is_none_or(|name| !fields.contains(name)));
    }
    Value::Object(rest)
}
