//! Components: what the operations of a document share.
//!
//! Each operation's schemas come as documents of their own, with their types under `$defs`. Here
//! they are brought together under one roof, each under its name. Equal ones meet; two different
//! ones with one name (a type as it is read and as it is written) are told apart by a suffix.

use std::collections::{BTreeMap, BTreeSet};

use schemars::Schema;
use serde_json::{Map, Value, json};

/// The name by which a schema's own root goes among its definitions.
const ROOT: &str = "#";

#[derive(Default)]
pub(super) struct Components {
    schemas: BTreeMap<String, Value>,
    responses: BTreeMap<String, Value>,
}

/// Whether a schema says what goes in or what comes out.
#[derive(Clone, Copy)]
pub(super) enum Role {
    Input,
    Output,
}

/// A schema whose definitions have moved into the components.
pub(super) struct Hoisted {
    /// How other places name it: a `$ref` for an object, itself for anything smaller.
    pub(super) reference: Value,
    names: BTreeMap<String, String>,
}

impl Hoisted {
    /// Lets the references of any part of the schema point to where the definitions are now.
    pub(super) fn rewrite(&self, part: &Value) -> Value {
        rewrite(part, &self.names)
    }
}

impl Components {
    /// Moves the definitions of a schema in, and the schema itself when it is an object.
    pub(super) fn hoist(&mut self, schema: &Schema, role: Role) -> Hoisted {
        let mut root = schema.as_value().clone();
        let mut definitions = BTreeMap::new();
        if let Some(object) = root.as_object_mut() {
            object.remove("$schema");
            if let Some(Value::Object(defs)) = object.remove("$defs") {
                definitions.extend(defs);
            }
        }
        let title = root
            .as_object_mut()
            .and_then(|object| object.remove("title"));
        let is_object = root.get("type").is_some_and(|t| t == "object");
        if is_object || refers_to_root(&root) || definitions.values().any(refers_to_root) {
            definitions.insert(ROOT.to_owned(), root.clone());
        }
        let title = title.as_ref().and_then(Value::as_str).unwrap_or("Schema");
        let names = self.settle_names(&definitions, title, role);
        for (definition, schema) in &definitions {
            self.schemas
                .insert(names[definition].clone(), rewrite(schema, &names));
        }
        let reference = match names.get(ROOT) {
            Some(name) => reference_to(name),
            None => rewrite(&root, &names),
        };
        Hoisted { reference, names }
    }

    /// Finds for each definition a name that is free or belongs to an equal schema. Renaming one
    /// changes those that refer to it, so it goes on until nothing clashes; each round moves one
    /// definition on to its next candidate, and beyond all names that are taken there is peace.
    fn settle_names(
        &self,
        definitions: &BTreeMap<String, Value>,
        title: &str,
        role: Role,
    ) -> BTreeMap<String, String> {
        let wanted = |definition: &str| {
            proper(if definition == ROOT {
                title
            } else {
                definition
            })
        };
        let mut tries: BTreeMap<&str, usize> = definitions
            .keys()
            .map(|definition| (definition.as_str(), 0))
            .collect();
        loop {
            let names: BTreeMap<String, String> = tries
                .iter()
                .map(|(&definition, &tried)| {
                    (
                        definition.to_owned(),
                        candidate(&wanted(definition), role, tried),
                    )
                })
                .collect();
            let mut used = BTreeSet::new();
            let clash = definitions.iter().find(|(definition, schema)| {
                let name = &names[*definition];
                let other = self.schemas.get(name);
                !used.insert(name.as_str())
                    || other.is_some_and(|other| *other != rewrite(schema, &names))
            });
            match clash {
                Some((definition, _)) => *tries.entry(definition).or_default() += 1,
                None => return names,
            }
        }
    }

    /// Keeps a response under a name of its own and refers to it.
    pub(super) fn response(&mut self, name: String, make: impl FnOnce() -> Value) -> Value {
        let reference = json!({ "$ref": format!("#/components/responses/{name}") });
        self.responses.entry(name).or_insert_with(make);
        reference
    }

    pub(super) fn finish(mut self, security_schemes: Map<String, Value>) -> Value {
        self.schemas.insert("Error".to_owned(), error_schema());
        json!({
            "schemas": self.schemas,
            "responses": self.responses,
            "headers": headers(),
            "securitySchemes": security_schemes,
        })
    }
}

/// `Vm`, `VmInput`, `VmInput2`, `VmInput3`, …
fn candidate(wanted: &str, role: Role, tried: usize) -> String {
    let suffix = match role {
        Role::Input => "Input",
        Role::Output => "Output",
    };
    match tried {
        // The form of failures has this name in every document.
        0 if wanted != "Error" => wanted.to_owned(),
        0 | 1 => format!("{wanted}{suffix}"),
        more => format!("{wanted}{suffix}{more}"),
    }
}

/// A component's name holds only these characters (OpenAPI 3.1, section 4.8.7.1).
fn proper(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    name.chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect()
}

fn reference_to(component: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{component}") })
}

fn refers_to_root(schema: &Value) -> bool {
    match schema {
        Value::Object(object) => {
            object.get("$ref").is_some_and(|r| r == ROOT) || object.values().any(refers_to_root)
        }
        Value::Array(parts) => parts.iter().any(refers_to_root),
        _ => false,
    }
}

fn rewrite(schema: &Value, names: &BTreeMap<String, String>) -> Value {
    match schema {
        Value::Object(object) => {
            let rewritten = object.iter().map(|(key, value)| {
                let name = value
                    .as_str()
                    .filter(|_| key == "$ref")
                    .map(|target| target.strip_prefix("#/$defs/").unwrap_or(target))
                    .and_then(|definition| names.get(definition));
                let value = match name {
                    Some(name) => Value::String(format!("#/components/schemas/{name}")),
                    None => rewrite(value, names),
                };
                (key.clone(), value)
            });
            Value::Object(rewritten.collect())
        }
        Value::Array(parts) => parts.iter().map(|part| rewrite(part, names)).collect(),
        other => other.clone(),
    }
}

fn error_schema() -> Value {
    json!({
        "type": "object",
        "description": "Every failure has this form.",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["code", "message", "retryable", "request_id"],
                "properties": {
                    "code": { "type": "string", "description": "For programs." },
                    "message": {
                        "type": "string",
                        "description": "For people: what is wrong and what to do.",
                    },
                    "retryable": {
                        "type": "boolean",
                        "description": "Whether the same request may succeed later.",
                    },
                    "request_id": {
                        "type": "string",
                        "description": "Under which the server's log has it.",
                    },
                    "details": { "description": "Facts for programs." },
                },
            },
        },
    })
}

fn headers() -> Value {
    json!({
        "RequestId": {
            "description": "Names this request in logs: the caller's own id when it is a sane one.",
            "schema": { "type": "string" },
        },
        "NextPage": {
            "description": "The address of the next page, rel=\"next\" (RFC 8288); left out on the last one.",
            "schema": { "type": "string" },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(value: Value) -> Schema {
        Schema::try_from(value).expect("a schema")
    }

    #[test]
    fn equal_types_meet_and_different_ones_of_one_name_are_told_apart() {
        let mut components = Components::default();
        let list = schema(json!({"title": "Array_of_Vm", "type": "array",
            "items": {"$ref": "#/$defs/Vm"},
            "$defs": {"Vm": {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}},
                      "A": {"type": "string"}}}));
        let one = schema(json!({"title": "Vm", "type": "object",
            "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "string"}}}));
        let other = schema(json!({"title": "Vm", "type": "object",
            "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"type": "integer"}}}));
        let list = components.hoist(&list, Role::Output).reference;
        assert_eq!(list["items"], reference_to("Vm"));
        assert_eq!(
            components.hoist(&one, Role::Output).reference,
            reference_to("Vm")
        );
        assert_eq!(
            components.hoist(&other, Role::Input).reference,
            reference_to("VmInput")
        );
        assert_eq!(
            components.schemas["VmInput"]["properties"]["a"],
            reference_to("AInput")
        );
        assert_eq!(
            components.schemas.keys().collect::<Vec<_>>(),
            ["A", "AInput", "Vm", "VmInput"]
        );
    }

    #[test]
    fn a_type_that_contains_itself_refers_to_itself() {
        let mut components = Components::default();
        let tree = schema(json!({"title": "Tree", "type": "object",
            "properties": {"left": {"$ref": "#"}}}));
        assert_eq!(
            components.hoist(&tree, Role::Output).reference,
            reference_to("Tree")
        );
        assert_eq!(
            components.schemas["Tree"]["properties"]["left"],
            reference_to("Tree")
        );
    }

    #[test]
    fn no_type_takes_the_name_of_the_form_of_failures() {
        let mut components = Components::default();
        let error = schema(json!({"title": "Error", "type": "object"}));
        let reference = components.hoist(&error, Role::Output).reference;
        assert_eq!(reference, reference_to("ErrorOutput"));
    }
}
