//! Which way a schema is for. One schema of a document often stands for both: what only an answer
//! has is `readOnly`, what only a request has is `writeOnly`, and being `required` holds for either
//! in its own direction alone (OpenAPI 3.0, Schema Object).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::document::Document;

/// How many schemas that are applied to one value are looked through for what they hide.
const MAX_TOGETHER: usize = 64;

/// How the name of a definition ends whose form for answers is another than that for requests. No
/// other name of a definition has a dot.
const OF_OUTPUT: &str = ".Output";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Input,
    Output,
}

impl Role {
    /// Whether a property with this schema does not go this way.
    pub(super) fn hides(self, schema: &Map<String, Value>) -> bool {
        let keyword = match self {
            Self::Input => "readOnly",
            Self::Output => "writeOnly",
        };
        schema.get(keyword) == Some(&Value::Bool(true))
    }
}

/// What is applied to the same value as this schema by references and `allOf`, itself included.
pub(super) fn together<'d>(
    document: &'d Document,
    schema: &'d Value,
) -> Vec<&'d Map<String, Value>> {
    let mut all: Vec<&Map<String, Value>> = Vec::new();
    let mut waiting = vec![schema];
    while let Some(schema) = waiting.pop() {
        let Some(schema) = schema.as_object() else {
            continue;
        };
        let is_known = all.iter().any(|known| std::ptr::eq(*known, schema));
        if is_known || all.len() == MAX_TOGETHER {
            continue;
        }
        all.push(schema);
        if let Some(Value::String(reference)) = schema.get("$ref") {
            waiting.extend(document.at(reference));
        }
        if let Some(Value::Array(branches)) = schema.get("allOf") {
            waiting.extend(branches.iter().take(MAX_TOGETHER));
        }
    }
    all
}

/// Gives definitions that are not the same both ways names of their own, for answers. Which those
/// are depends on nothing but themselves, so that one name is one schema in all operations.
pub(super) fn tell_apart(root: &mut Value, definitions: &mut Map<String, Value>) {
    let directed = directed(definitions);
    let renamed = std::mem::take(definitions).into_iter();
    let renamed = renamed.map(|(name, mut schema)| {
        refer(&mut schema, &directed);
        match directed.contains(&name) {
            true => (name + OF_OUTPUT, schema),
            false => (name, schema),
        }
    });
    *definitions = renamed.collect();
    refer(root, &directed);
}

/// The names of definitions that have a direction, or refer to one that has.
fn directed(definitions: &Map<String, Value>) -> BTreeSet<String> {
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut waiting = Vec::new();
    for (name, schema) in definitions {
        each(schema, &mut |keyword, value| match (keyword, value) {
            ("$ref", Value::String(reference)) => {
                users.entry(definition(reference)).or_default().push(name);
            }
            ("readOnly" | "writeOnly", Value::Bool(true)) => waiting.push(name.as_str()),
            _ => {}
        });
    }
    let mut directed = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if directed.insert(name.to_owned()) {
            waiting.extend(users.get(name).into_iter().flatten());
        }
    }
    directed
}

/// Lets references to these definitions have the names that they have for answers.
fn refer(schema: &mut Value, directed: &BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            for (keyword, value) in fields {
                match value {
                    Value::String(reference)
                        if keyword == "$ref" && directed.contains(definition(reference)) =>
                    {
                        reference.push_str(OF_OUTPUT);
                    }
                    value => refer(value, directed),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| refer(item, directed)),
        _ => {}
    }
}

/// The name of the definition that is referred to.
fn definition(reference: &str) -> &str {
    reference.trim_start_matches("#/$defs/")
}

/// Each keyword of a schema and of all within it.
fn each<'s>(schema: &'s Value, look: &mut dyn FnMut(&'s str, &'s Value)) {
    match schema {
        Value::Object(fields) => {
            for (keyword, value) in fields {
                look(keyword, value);
                each(value, look);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| each(item, look)),
        _ => {}
    }
}
