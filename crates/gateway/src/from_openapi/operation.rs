//! One operation of the document: what it is called here, what it takes, and how it is asked for.

use hostler_operations::{ErrorCode, ErrorSpec, Foreign, StatusCode};
use http::Method;
use http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderName, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use serde_json::{Map, Value, json};

use super::document::{Document, Found, size};
use super::role::Role;
use super::schema::Schemas;
use super::upstream;

/// The field of the input that is the body.
pub(super) const BODY: &str = "body";

/// Headers that no caller chooses: they say to whom a request goes, and where it ends.
const OURS: [HeaderName; 13] = [
    HOST,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    CONNECTION,
    UPGRADE,
    TE,
    TRAILER,
    EXPECT,
    COOKIE,
    FORWARDED,
    // What comes back compressed is not looked through for the credential.
    ACCEPT_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("x-real-ip"),
];

/// How the names of others begin of which the same is true: some servers take the host, the path or
/// the method from them.
const OURS_BEGIN: [&str; 5] = [
    "proxy-",
    "x-forwarded-",
    "x-http-method",
    "x-original-",
    "x-rewrite-",
];

fn is_ours(name: &HeaderName) -> bool {
    OURS.contains(name)
        || OURS_BEGIN
            .iter()
            .any(|begin| name.as_str().starts_with(begin))
}

/// How an operation is asked for.
pub(super) struct Plan {
    pub(super) method: Method,
    pub(super) path: Vec<Piece>,
    pub(super) parameters: Vec<Parameter>,
    pub(super) has_body: bool,
    /// It answers with a stream of events.
    pub(super) streams: bool,
}

/// A part of a path.
pub(super) enum Piece {
    Fixed(String),
    /// The value of a parameter, by its field.
    Field(String),
}

pub(super) struct Parameter {
    /// As the input has it.
    pub(super) field: String,
    /// As the API has it.
    pub(super) name: String,
    pub(super) place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    /// A list is several fields of one name (`explode`), or one with commas.
    Query {
        explode: bool,
    },
    /// In the query, as JSON.
    QueryJson,
    Header,
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
    let Fields {
        properties,
        required,
        parameters,
        has_body,
    } = fields(document, found, credential, &mut taken)?;
    let path = pieces(found.path, &parameters)?;
    let input = taken.complete(json!({
        "title": title,
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    }))?;
    let Answers {
        output,
        streams,
        errors,
    } = answers(document, found)?;
    let mut taken = schemas(Role::Output);
    let mut output = match output.map(|schema| taken.take(schema)).transpose()? {
        Some(Value::Object(schema)) => Value::Object(schema),
        Some(other) => json!({ "allOf": [other] }),
        None => json!({}),
    };
    // A name of its own: under one for all, each would be compared with all before it.
    output["title"] = json!(format!("{title}Output"));
    let described = Foreign {
        name,
        changes: found.method != Method::GET,
        description: description(found),
        input,
        output: taken.complete(output)?,
        errors,
    };
    let plan = Plan {
        method: found.method.clone(),
        path,
        parameters,
        has_body,
        streams,
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
        describe(&mut schema, described);
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

/// The operation's own parameters, and those of its path that it does not override.
fn described_parameters<'d>(
    document: &'d Document,
    found: &Found<'d>,
) -> Result<Vec<&'d Map<String, Value>>, String> {
    let of = |holder: &'d Map<String, Value>| {
        let list = holder.get("parameters").and_then(Value::as_array);
        let all = list.into_iter().flatten().map(|parameter| {
            let parameter = document.resolve(parameter)?.as_object();
            parameter.ok_or_else(|| "one of its parameters is no object".to_owned())
        });
        all.collect::<Result<Vec<_>, _>>()
    };
    let mut all = of(found.operation)?;
    let key = |parameter: &Map<String, Value>| {
        (parameter.get("name").cloned(), parameter.get("in").cloned())
    };
    let own: Vec<_> = all.iter().map(|parameter| key(parameter)).collect();
    let shared = of(found.item)?;
    all.extend(
        shared
            .into_iter()
            .filter(|shared| !own.contains(&key(shared))),
    );
    Ok(all)
}

/// Whether a parameter is this header.
fn is_header(described: &Map<String, Value>, header: Option<&HeaderName>) -> bool {
    let text = |field| described.get(field).and_then(Value::as_str);
    let name = text("name").filter(|_| text("in") == Some("header"));
    name.zip(header)
        .is_some_and(|(name, header)| name.eq_ignore_ascii_case(header.as_str()))
}

type Described<'d> = (Parameter, &'d Value, bool);

/// A parameter with its schema, and whether it must be there; `None` when it may be left out and
/// cannot be sent.
fn parameter(described: &Map<String, Value>) -> Result<Option<Described<'_>>, String> {
    const ANYTHING: &Value = &Value::Bool(true);
    let text = |field| described.get(field).and_then(Value::as_str);
    let flag = |field| described.get(field).and_then(Value::as_bool);
    let name = text("name").filter(|name| !name.is_empty());
    let name = name.ok_or("one of its parameters has no name")?.to_owned();
    let is_required = flag("required").unwrap_or(false);
    let content = described.get("content").and_then(Value::as_object);
    let schema = match content {
        Some(content) => json_content(content).map(|media| media.get("schema").unwrap_or(ANYTHING)),
        None => Some(described.get("schema").unwrap_or(ANYTHING)),
    };
    let style = text("style");
    let explode = flag("explode").unwrap_or(true);
    let place = match text("in") {
        Some("path") if content.is_none() && style.is_none_or(|style| style == "simple") => {
            Some(Place::Path)
        }
        Some("query") if content.is_some() => Some(Place::QueryJson),
        Some("query") if style.is_none_or(|style| style == "form") => {
            Some(Place::Query { explode })
        }
        // These are not parameters there (section 4.8.12).
        Some("header")
            if ["accept", "content-type", "authorization"]
                .contains(&name.to_ascii_lowercase().as_str()) =>
        {
            return Ok(None);
        }
        Some("header")
            if content.is_none()
                && HeaderName::try_from(&name).is_ok_and(|name| !is_ours(&name)) =>
        {
            Some(Place::Header)
        }
        _ => None,
    };
    match (place, schema) {
        (Some(place), Some(schema)) => {
            let field = String::new();
            let parameter = Parameter { field, name, place };
            Ok(Some((
                parameter,
                schema,
                is_required || place == Place::Path,
            )))
        }
        _ if !is_required => Ok(None),
        _ => Err(format!(
            "the parameter {name} cannot be sent as it is described"
        )),
    }
}

fn describe(schema: &mut Value, described: &Map<String, Value>) {
    if let (Some(schema), Some(text)) = (schema.as_object_mut(), described.get("description")) {
        schema.entry("description").or_insert_with(|| text.clone());
    }
}

impl Place {
    fn word(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query { .. } | Self::QueryJson => "query",
            Self::Header => "header",
        }
    }
}

/// A path template, cut where its values go.
fn pieces(path: &str, parameters: &[Parameter]) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = path;
    while let Some((fixed, after)) = rest.split_once('{') {
        let (name, after) = after
            .split_once('}')
            .ok_or("its path has a brace that does not close")?;
        let of_path = |p: &&Parameter| p.place == Place::Path && p.name == name;
        let parameter = parameters.iter().find(of_path);
        let parameter = parameter
            .ok_or_else(|| format!("its path has {{{name}}}, which is no parameter of its"))?;
        pieces.push(Piece::Fixed(fixed.to_owned()));
        pieces.push(Piece::Field(parameter.field.clone()));
        rest = after;
    }
    pieces.push(Piece::Fixed(rest.to_owned()));
    let plain = |piece: &Piece| match piece {
        Piece::Fixed(text) => text
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"?#\\{}\"<>^`|".contains(&b)),
        Piece::Field(_) => true,
    };
    let climbs = path
        .split('/')
        .any(|segment| segment == "." || segment == "..");
    match pieces.iter().all(plain) && !climbs {
        true => Ok(pieces),
        false => Err("its path is none".to_owned()),
    }
}

/// The JSON among these media types.
fn json_content(content: &Map<String, Value>) -> Option<&Value> {
    let is_json = |(name, _): &(&String, &Value)| {
        let name = name.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("application/json") || name.ends_with("+json")
    };
    content.iter().find(is_json).map(|(_, media)| media)
}

/// The schema of a body, and whether it must be there.
fn json_body(body: &Value) -> Result<Option<(&Value, bool)>, String> {
    const ANYTHING: &Value = &Value::Bool(true);
    let is_required = body.get("required").and_then(Value::as_bool) == Some(true);
    let content = body.get("content").and_then(Value::as_object);
    match content.and_then(json_content) {
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
                if let Some(events) = content.get(crate::sse::EVENT_STREAM) {
                    streams = true;
                    output = events.get("schema");
                } else if let Some(media) = json_content(content) {
                    output = output.or(media.get("schema"));
                } else if !content.keys().any(|name| name.starts_with("text/")) {
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
        let names = |schema: &schemars::Schema| {
            let definitions = schema.get("$defs").and_then(Value::as_object);
            let names = definitions.expect("definitions").keys().cloned();
            names.collect::<BTreeSet<String>>()
        };
        let of = |names: [&str; 2]| names.map(str::to_owned).into();
        assert_eq!(names(&described.input), of(["AcmeAsked", "AcmeBoth"]));
        assert_eq!(names(&described.output), of(["AcmeAnswered", "AcmeBoth"]));
    }

    #[test]
    fn no_caller_chooses_host_path_or_method_by_a_header() {
        for ours in [
            "host",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-original-url",
            "x-rewrite-url",
            "x-http-method-override",
            "proxy-authorization",
            "x-real-ip",
            "accept-encoding",
        ] {
            assert!(is_ours(&HeaderName::from_static(ours)), "{ours}");
        }
        for theirs in ["x-request-id", "x-api-version", "accept-language"] {
            assert!(!is_ours(&HeaderName::from_static(theirs)), "{theirs}");
        }
    }
}
