//! Schemas of the document as schemas of their own (JSON Schema 2020-12), for one direction: what one
//! refers to goes with it, under `$defs`.

use std::collections::{BTreeMap, HashMap, HashSet};

use schemars::Schema;
use serde_json::{Map, Value, json};

use super::document::{Document, size};
use super::role::{Role, tell_apart, together};

/// The most schemas within one, references included.
const MAX_SCHEMAS: usize = 10_000;

/// Keywords whose value is a schema.
const ONE: [&str; 10] = [
    "items",
    "additionalProperties",
    "not",
    "if",
    "then",
    "else",
    "contains",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
/// Keywords whose value is a list of schemas.
const LIST: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value is schemas by name.
const NAMED: [&str; 2] = ["properties", "dependentSchemas"];
/// Keywords whose schemas are applied to the same value as the one that has them.
const IN_PLACE: [&str; 8] = [
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
];
/// How deep those may be nested: each level is one of the validator's, which has a stack.
const MAX_IN_PLACE: usize = 16;
/// How many schemas may be applied to one value.
const MAX_APPLIED: usize = 1000;
/// Keywords that are taken as they are. Regular expressions are not: the API judges by its own.
const PLAIN: [&str; 19] = [
    "type",
    "enum",
    "const",
    "default",
    "format",
    "title",
    "description",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
];

/// Collects schemas, and what they refer to.
pub(super) struct Schemas<'d> {
    document: &'d Document,
    role: Role,
    /// With what the names of definitions begin, so that they are not those of other operations.
    prefix: String,
    /// Names of definitions by reference.
    names: BTreeMap<String, String>,
    taken: HashSet<String>,
    /// How many have one name but for a number at its end.
    same: HashMap<String, usize>,
    waiting: Vec<String>,
    definitions: Map<String, Value>,
    left: usize,
}

impl<'d> Schemas<'d> {
    pub(super) fn new(document: &'d Document, role: Role, prefix: String) -> Self {
        Self {
            document,
            role,
            prefix,
            names: BTreeMap::new(),
            taken: HashSet::new(),
            same: HashMap::new(),
            waiting: Vec::new(),
            definitions: Map::new(),
            left: MAX_SCHEMAS,
        }
    }

    /// A schema whose references are to what [`complete`](Self::complete) adds.
    pub(super) fn take(&mut self, schema: &'d Value) -> Result<Value, String> {
        self.take_among(schema, None)
    }

    /// This schema, an object, with everything that was referred to.
    pub(super) fn complete(mut self, mut root: Value) -> Result<Schema, String> {
        while let Some(reference) = self.waiting.pop() {
            let schema = self.document.at(&reference)?;
            let taken = self.take(schema)?;
            let name = self.names[&reference].clone();
            self.definitions.insert(name, taken);
        }
        let mut definitions = self.definitions;
        if self.role == Role::Output {
            tell_apart(&mut root, &mut definitions);
        }
        come_to_an_end(&definitions, &root)?;
        if !definitions.is_empty() {
            root["$defs"] = Value::Object(definitions);
        }
        Schema::try_from(root).map_err(|error| error.to_string())
    }

    /// A schema among those that are applied to the same value, when it is a branch of one of them:
    /// a name that it requires may be a property of another.
    fn take_among(
        &mut self,
        schema: &'d Value,
        among: Option<&[&'d Map<String, Value>]>,
    ) -> Result<Value, String> {
        self.spend(1)?;
        let Some(fields) = schema.as_object() else {
            // `true` and `false` are schemas (section 4.3.2).
            return Ok(Value::Bool(schema.as_bool().unwrap_or(true)));
        };
        let own = match among {
            None if fields.contains_key("required") || fields.contains_key("allOf") => {
                self.together(schema)?
            }
            _ => Vec::new(),
        };
        let among = among.unwrap_or(&own);
        let mut taken = Map::new();
        for (keyword, value) in fields {
            if let Some(value) = self.keyword(keyword, value, among)? {
                taken.insert(keyword.clone(), value);
            }
        }
        bounds_of_3_0(&mut taken);
        let nullable = fields.get("nullable") == Some(&Value::Bool(true));
        Ok(match nullable {
            true => or_null(taken),
            false => Value::Object(taken),
        })
    }

    /// What becomes of a keyword's value, if it is taken at all.
    fn keyword(
        &mut self,
        name: &str,
        value: &'d Value,
        among: &[&'d Map<String, Value>],
    ) -> Result<Option<Value>, String> {
        Ok(Some(match (name, value) {
            ("$ref", Value::String(reference)) => self.reference(reference)?,
            ("required", Value::Array(names)) => {
                self.spend(size(value))?;
                self.required(names, among)?
            }
            ("readOnly" | "writeOnly", Value::Bool(_)) => value.clone(),
            ("allOf", Value::Array(branches)) => {
                let branches = branches.iter();
                let branches = branches.map(|branch| self.take_among(branch, Some(among)));
                Value::Array(branches.collect::<Result<_, _>>()?)
            }
            (_, value) if ONE.contains(&name) => self.take(value)?,
            (_, Value::Array(schemas)) if LIST.contains(&name) => {
                let schemas = schemas.iter().map(|schema| self.take(schema));
                Value::Array(schemas.collect::<Result<_, _>>()?)
            }
            (_, Value::Object(schemas)) if NAMED.contains(&name) => {
                let schemas = schemas.iter().map(|(name, schema)| {
                    self.spend(name.len() / 1024)?;
                    Ok((name.clone(), self.take(schema)?))
                });
                Value::Object(schemas.collect::<Result<_, String>>()?)
            }
            (_, value) if PLAIN.contains(&name) => {
                self.spend(size(value))?;
                value.clone()
            }
            _ => return Ok(None),
        }))
    }

    /// Of these names those whose properties go this way.
    fn required(
        &mut self,
        names: &[Value],
        among: &[&'d Map<String, Value>],
    ) -> Result<Value, String> {
        let mut kept = Vec::new();
        for name in names {
            let property = |schema: &&'d Map<String, Value>| -> Option<&'d Value> {
                schema.get("properties")?.get(name.as_str()?)
            };
            let mut is_hidden = false;
            for property in among.iter().filter_map(property) {
                let applied = self.together(property)?;
                is_hidden |= applied.into_iter().any(|schema| self.role.hides(schema));
            }
            if !is_hidden {
                kept.push(name.clone());
            }
        }
        Ok(Value::Array(kept))
    }

    /// What is applied together with a schema. What is elsewhere counts once more, so that looking
    /// at it again and again comes to an end.
    fn together(&mut self, schema: &'d Value) -> Result<Vec<&'d Map<String, Value>>, String> {
        let all = together(self.document, schema);
        self.spend(all.len().saturating_sub(1))?;
        Ok(all)
    }

    fn spend(&mut self, schemas: usize) -> Result<(), String> {
        let left = self.left.checked_sub(schemas);
        self.left = left.ok_or_else(|| "its schema is too large".to_owned())?;
        self.document.spend(schemas)
    }

    fn reference(&mut self, reference: &str) -> Result<Value, String> {
        self.document.at(reference)?;
        let name = match self.names.get(reference) {
            Some(name) => name.clone(),
            None => {
                let last = reference.rsplit('/').next().unwrap_or_default();
                let plain = last
                    .chars()
                    .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
                    .take(64);
                let plain: String = self.prefix.chars().chain(plain).collect();
                let mut name = plain.clone();
                // Each looks on where the last of its name has found one.
                let same = self.same.entry(plain.clone()).or_insert(1);
                while !self.taken.insert(name.clone()) {
                    *same += 1;
                    name = format!("{plain}_{same}");
                }
                self.names.insert(reference.to_owned(), name.clone());
                self.waiting.push(reference.to_owned());
                name
            }
        };
        Ok(Value::String(format!("#/$defs/{name}")))
    }
}

/// Whether this schema and each definition comes to an end when it is applied. A validator follows
/// references as long as they lead on at the same value; to a part of the value they may lead back.
fn come_to_an_end(definitions: &Map<String, Value>, schema: &Value) -> Result<(), String> {
    let mut depths = Depths {
        definitions,
        known: BTreeMap::new(),
        descent: 0,
    };
    for schema in definitions.values().chain([schema]) {
        depths.check(schema)?;
    }
    Ok(())
}

/// How much is applied to one value, by definition; `None` while it is being found out.
struct Depths<'d> {
    definitions: &'d Map<String, Value>,
    known: BTreeMap<&'d str, Option<Applied>>,
    /// How deep the one is that is being looked at, so that a long chain is given up on the way down
    /// and not when it has used up the stack.
    descent: usize,
}

/// How deep schemas are nested that are applied to one value, and how many those are, each counted as
/// often as it is reached.
#[derive(Clone, Copy, Default)]
struct Applied {
    depth: usize,
    number: usize,
}

impl<'d> Depths<'d> {
    /// A schema and all that are within it.
    fn check(&mut self, schema: &'d Value) -> Result<(), String> {
        self.applied(schema)?;
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            for part in parts(keyword, value) {
                self.check(part)?;
            }
        }
        Ok(())
    }

    fn applied(&mut self, schema: &'d Value) -> Result<Applied, String> {
        self.descent += 1;
        let applied = match self.descent > MAX_IN_PLACE + 1 {
            true => Err("its schema is nested too deep".to_owned()),
            false => self.within(schema),
        };
        self.descent -= 1;
        applied
    }

    fn within(&mut self, schema: &'d Value) -> Result<Applied, String> {
        let mut applied = Applied {
            depth: 0,
            number: 1,
        };
        for (keyword, value) in schema.as_object().into_iter().flatten() {
            let mut add = |below: Applied| {
                applied.depth = applied.depth.max(below.depth + 1);
                applied.number = applied.number.saturating_add(below.number);
            };
            match (keyword.as_str(), value) {
                ("$ref", Value::String(reference)) => add(self.of_definition(reference)?),
                (keyword, value) if IN_PLACE.contains(&keyword) => {
                    for part in parts(keyword, value) {
                        add(self.applied(part)?);
                    }
                }
                _ => {}
            }
        }
        match applied {
            Applied { depth, .. } if depth > MAX_IN_PLACE => {
                Err("its schema is nested too deep".to_owned())
            }
            Applied { number, .. } if number > MAX_APPLIED => {
                Err("its schema is too large".to_owned())
            }
            applied => Ok(applied),
        }
    }

    fn of_definition(&mut self, reference: &'d str) -> Result<Applied, String> {
        let name = reference.trim_start_matches("#/$defs/");
        match self.known.get(name) {
            Some(Some(applied)) => return Ok(*applied),
            Some(None) => return Err(format!("its schema {name} is defined by itself")),
            None => {}
        }
        self.known.insert(name, None);
        let applied = match self.definitions.get(name) {
            Some(schema) => self.applied(schema)?,
            None => Applied::default(),
        };
        self.known.insert(name, Some(applied));
        Ok(applied)
    }
}

/// The schemas that a keyword has.
fn parts<'s>(keyword: &str, value: &'s Value) -> Vec<&'s Value> {
    match value {
        value if ONE.contains(&keyword) => vec![value],
        Value::Array(schemas) if LIST.contains(&keyword) => schemas.iter().collect(),
        Value::Object(schemas) if NAMED.contains(&keyword) || keyword == "$defs" => {
            schemas.values().collect()
        }
        _ => Vec::new(),
    }
}

/// In OpenAPI 3.0 whether a bound is part of what it bounds is a boolean beside it.
fn bounds_of_3_0(schema: &mut Map<String, Value>) {
    for (exclusive, bound) in [
        ("exclusiveMinimum", "minimum"),
        ("exclusiveMaximum", "maximum"),
    ] {
        let Some(Value::Bool(is_exclusive)) = schema.get(exclusive).cloned() else {
            continue;
        };
        schema.remove(exclusive);
        if is_exclusive && let Some(number) = schema.remove(bound) {
            schema.insert(exclusive.to_owned(), number);
        }
    }
}

fn or_null(mut schema: Map<String, Value>) -> Value {
    if let Some(Value::Array(values)) = schema.get_mut("enum") {
        values.push(Value::Null);
    }
    match schema.get_mut("type") {
        Some(Value::String(name)) => {
            let both = json!([name, "null"]);
            schema.insert("type".to_owned(), both);
            Value::Object(schema)
        }
        _ => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_chain_of_references_is_given_up_on_the_way_down() {
        let chain = (0..100_000).map(|at| {
            let next = json!({ "$ref": format!("#/$defs/S{:06}", at + 1) });
            (format!("S{at:06}"), next)
        });
        let found_out = come_to_an_end(&chain.collect(), &json!({}));
        assert_eq!(found_out, Err("its schema is nested too deep".to_owned()));
    }
}
