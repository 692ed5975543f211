//! One operation of the document: what it is called here, what it takes, and how it is asked for.

use hostler_operations::{ErrorCode, ErrorSpec, Foreign, StatusCode};
use http::Method;
use http::header::HeaderName;
use schemars::Schema;
use serde_json::{Map, Value, json};

use super::document::{Document, Found, size};
use super::media::{content_of, is_events, is_json, is_text};
use super::parameter::{Parameter, Piece, described_parameters, is_header, parameter, pieces};
use super::role::Role;
use super::schema::Schemas;
use super::upstream;

/// The field of the input that is the body.
pub(super) const BODY: &str = "body";

/// How an operation is asked for.
pub(super) struct Plan {
    pub(super) method: Method,
    pub(super) path: Vec<Piece>,
    pub(super) parameters: Vec<Parameter>,
    pub(super) has_body: bool,
    /// It answers with a stream of events.
    pub(super) streams: bool,
}

/// How an operation is called, or why it cannot be. The header of the credential is no input of it,
/// whatever the document says.
pub(super) fn plan(
    service: &str,
    document: &Document,
    found: &Found<'_>,
    credential: Option<&HeaderName>,
) -> Result<(Foreign, Plan), String> {
    let name = name(found);
    let title = format!("{}{}", joined(service), joined(&name));
    let schemas = |role| Schemas::new(document, role, joined(service));
    let mut taken = schemas(Role::Input);
    let fields = fields(document, found, credential, &mut taken)?;
    let answers = answers(document, found)?;
    let described = Foreign {
        name,
        changes: found.method != Method::GET,
        description: description(found),
        input: taken.complete(fields.schema(&title))?,
        output: output(answers.output, schemas(Role::Output), &title)?,
        errors: answers.errors,
    };
    let plan = Plan {
        method: found.method.clone(),
        path: pieces(found.path, &fields.parameters)?,
        parameters: fields.parameters,
        has_body: fields.has_body,
        streams: answers.streams,
    };
    Ok((described, plan))
}

/// What an operation takes: the fields of its input.
#[derive(Default)]
struct Fields {
    properties: Map<String, Value>,
    required: Vec<String>,
    parameters: Vec<Parameter>,
    has_body: bool,
}

fn fields<'d>(
    document: &'d Document,
    found: &Found<'d>,
    credential: Option<&HeaderName>,
    schemas: &mut Schemas<'d>,
) -> Result<Fields, String> {
    let mut fields = Fields::default();
    for described in described_parameters(document, found)? {
        if is_header(described, credential) {
            continue;
        }
        let texts = ["name", "description"].map(|text| described.get(text).map_or(0, size));
        document.spend(texts.iter().sum())?;
        fields.add(described, schemas)?;
    }
    let body = found.operation.get("requestBody");
    let body = body.map(|body| json_body(document.resolve(body)?));
    if let Some((schema, is_required)) = body.transpose()?.flatten() {
        let schema = schemas.take(schema)?;
        fields.properties.insert(BODY.to_owned(), schema);
        fields.has_body = true;
        if is_required {
            fields.required.push(BODY.to_owned());
        }
    }
    Ok(fields)
}

impl Fields {
    fn schema(&self, title: &str) -> Value {
        json!({
            "title": title,
            "type": "object",
            "properties": self.properties,
            "required": self.required,
            "additionalProperties": false,
        })
    }

    /// Adds the field of a parameter, if that can be sent.
    fn add<'d>(
        &mut self,
        described: &'d Map<String, Value>,
        schemas: &mut Schemas<'d>,
    ) -> Result<(), String> {
        let Some((parameter, schema, is_required)) = parameter(described)? else {
            return Ok(());
        };
        let mut field = parameter.name.clone();
        if self.properties.contains_key(&field) || field == BODY {
            field = format!("{field}_in_{}", parameter.place.word());
        }
        let mut schema = schemas.take(schema)?;
        if let (Some(schema), Some(text)) = (schema.as_object_mut(), described.get("description")) {
            schema.entry("description").or_insert_with(|| text.clone());
        }
        if self.properties.insert(field.clone(), schema).is_some() {
            return Err(format!("it has the parameter {field} twice"));
        }
        if is_required {
            self.required.push(field.clone());
        }
        self.parameters.push(Parameter { field, ..parameter });
        Ok(())
    }
}

/// What the document says of an operation in words.
fn description(found: &Found<'_>) -> String {
    let text = |field| found.operation.get(field).and_then(Value::as_str);
    let texts = [text("summary"), text("description")].into_iter().flatten();
    let texts: Vec<&str> = texts.filter(|text| !text.trim().is_empty()).collect();
    match &texts[..] {
        [] => found.to_string(),
        texts => texts.join("\n\n"),
    }
}

/// The schema of a body, and whether it must be there.
fn json_body(body: &Value) -> Result<Option<(&Value, bool)>, String> {
    const ANYTHING: &Value = &Value::Bool(true);
    let is_required = body.get("required").and_then(Value::as_bool) == Some(true);
    let content = body.get("content").and_then(Value::as_object);
    match content.and_then(|content| content_of(content, is_json)) {
        Some(media) => Ok(Some((media.get("schema").unwrap_or(ANYTHING), is_required))),
        None if is_required => Err("its body is not JSON".to_owned()),
        None => Ok(None),
    }
}

/// What comes back.
struct Answers<'d> {
    /// The schema of what comes when it succeeds.
    output: Option<&'d Value>,
    /// That comes as a stream.
    streams: bool,
    /// What else may come.
    errors: Vec<ErrorSpec>,
}

fn answers<'d>(document: &'d Document, found: &Found<'d>) -> Result<Answers<'d>, String> {
    let (mut output, mut streams) = (None, false);
    let mut errors = vec![upstream::unavailable_spec()];
    let responses = found.operation.get("responses").and_then(Value::as_object);
    for (status, response) in responses.into_iter().flatten() {
        let response = document.resolve(response)?;
        let content = response.get("content").and_then(Value::as_object);
        let text = response.get("description");
        document.spend(text.map_or(0, size))?;
        let text = text.and_then(Value::as_str);
        match status.parse::<u16>() {
            Ok(200..300) => {
                let Some(content) = content.filter(|content| !content.is_empty()) else {
                    continue;
                };
                if let Some(events) = content_of(content, is_events) {
                    streams = true;
                    output = events.get("schema");
                } else if let Some(media) = content_of(content, is_json) {
                    output = output.or(media.get("schema"));
                } else if content_of(content, is_text).is_none() {
                    return Err("what it answers is neither JSON nor text".to_owned());
                }
            }
            Ok(code @ 400..600) => {
                let status = StatusCode::from_u16(code).map_err(|error| error.to_string())?;
                errors.push(ErrorSpec {
                    code: ErrorCode::foreign(status),
                    description: text.unwrap_or("As its document says.").to_owned(),
                    details: None,
                });
            }
            // `default`, `4XX`: what comes is told when it comes.
            _ => {}
        }
    }
    Ok(Answers {
        output,
        streams,
        errors,
    })
}

/// The schema of an output.
fn output<'d>(
    schema: Option<&'d Value>,
    mut schemas: Schemas<'d>,
    title: &str,
) -> Result<Schema, String> {
    let mut output = match schema.map(|schema| schemas.take(schema)).transpose()? {
        Some(Value::Object(schema)) => Value::Object(schema),
        Some(other) => json!({ "allOf": [other] }),
        None => json!({}),
    };
    // A name of its own: under one for all, each would be compared with all before it.
    output["title"] = json!(format!("{title}Output"));
    schemas.complete(output)
}

/// A name of words as one word: `get-thing` as `GetThing`.
fn joined(name: &str) -> String {
    let words = name.split('-').map(|word| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_ascii_uppercase() + rest
    });
    words.collect()
}

/// The name of an operation here: that of the document in our letters, or its method and path.
fn name(found: &Found<'_>) -> String {
    let id = found.operation.get("operationId").and_then(Value::as_str);
    let source = match id {
        Some(id) => id.to_owned(),
        None => format!(
            "{} {}",
            found.method.as_str().to_ascii_lowercase(),
            found.path
        ),
    };
    let mut name = String::new();
    let mut previous = ' ';
    for c in source.chars() {
        let begins =
            c.is_ascii_uppercase() && (previous.is_ascii_lowercase() || previous.is_ascii_digit());
        let apart = begins || !c.is_ascii_alphanumeric();
        if apart && !name.is_empty() && !name.ends_with('-') {
            name.push('-');
        }
        if c.is_ascii_alphanumeric() {
            name.push(c.to_ascii_lowercase());
        }
        previous = c;
    }
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "op-");
    }
    name.truncate(64);
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_direction_has_the_definitions_that_it_refers_to() {
        let content = |name: &str| {
            let schema = json!({ "$ref": format!("#/components/schemas/{name}") });
            json!({ "content": { "application/json": { "schema": schema } } })
        };
        let schemas = json!({
            "Asked": { "properties": { "both": { "$ref": "#/components/schemas/Both" } } },
            "Answered": { "items": { "$ref": "#/components/schemas/Both" } },
            "Both": {},
            "Neither": {},
        });
        let document = json!({
            "openapi": "3.1.0",
            "paths": { "/": { "post": {
                "requestBody": content("Asked"),
                "responses": { "200": content("Answered") },
            } } },
            "components": { "schemas": schemas },
        });
        let document = Document::parse(document.to_string().as_bytes()).expect("a document");
        let found = document.operations().expect("operations");
        let (described, _) = plan("acme", &document, &found[0], None).expect("a plan");
        let names = |schema: &Schema| {
            let definitions = schema.get("$defs").and_then(Value::as_object);
            let names = definitions.expect("definitions").keys().cloned();
            names.collect::<BTreeSet<String>>()
        };
        let of = |names: [&str; 2]| names.map(str::to_owned).into();
        assert_eq!(names(&described.input), of(["AcmeAsked", "AcmeBoth"]));
        assert_eq!(names(&described.output), of(["AcmeAnswered", "AcmeBoth"]));
    }
}
