//! A request to the API, from the input of a call. Whatever a value is, it stays where its parameter
//! is: no value changes the path, adds a field to the query or a line to the head.

use std::fmt::Write as _;

use bytes::Bytes;
use hostler_operations::CallError;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Request, Uri};
use http_body_util::Full;
use serde_json::Value;

use super::operation::{BODY, Plan};
use super::parameter::{Piece, Place};
use crate::sse::EVENT_STREAM;

/// Writes a request to an API at this base, which has no slash at its end.
pub(super) fn request(
    plan: &Plan,
    base: &str,
    input: &Value,
) -> Result<Request<Full<Bytes>>, CallError> {
    let mut target = base.to_owned();
    path(plan, input, &mut target)?;
    let mut separator = '?';
    for parameter in &plan.parameters {
        let Some(value) = given(input, &parameter.field) else {
            continue;
        };
        let mut add = |text: &str| {
            target.push(separator);
            separator = '&';
            encode(&parameter.name, &mut target);
            target.push('=');
            encode(text, &mut target);
        };
        match (parameter.place, value) {
            (Place::QueryJson, value) => add(&value.to_string()),
            (Place::Query { explode: true }, Value::Array(items)) => {
                for item in items {
                    add(&text(item, &parameter.field)?);
                }
            }
            (Place::Query { .. }, value) => add(&text(value, &parameter.field)?),
            (Place::Path | Place::Header, _) => {}
        }
    }
    let uri: Uri = target
        .parse()
        .map_err(|error| CallError::invalid_input(format!("this makes no URL: {error}")))?;

    let accept = if plan.streams {
        EVENT_STREAM
    } else {
        "application/json, text/*;q=0.5"
    };
    let mut request = Request::builder()
        .method(plan.method.clone())
        .uri(uri)
        .header(ACCEPT, accept)
        .header(ACCEPT_ENCODING, "identity");
    for parameter in plan.parameters.iter().filter(|p| p.place == Place::Header) {
        let Some(value) = given(input, &parameter.field) else {
            continue;
        };
        let wrong = || {
            let told = format!("{}: no header can have this value", parameter.field);
            CallError::invalid_input(told)
        };
        let value = text(value, &parameter.field)?;
        let value = HeaderValue::try_from(value).map_err(|_| wrong())?;
        let name = HeaderName::try_from(&parameter.name).map_err(|_| wrong())?;
        request = request.header(name, value);
    }
    let body = given(input, BODY).filter(|_| plan.has_body);
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    request.body(Full::new(body)).map_err(CallError::internal)
}

/// What the input has there. Null is nothing: a parameter has no form for it.
fn given<'i>(input: &'i Value, field: &str) -> Option<&'i Value> {
    input
        .get(field)
        .filter(|value| field == BODY || !value.is_null())
}

fn path(plan: &Plan, input: &Value, target: &mut String) -> Result<(), CallError> {
    let begins = target.len();
    for piece in &plan.path {
        match piece {
            Piece::Fixed(fixed) => target.push_str(fixed),
            Piece::Field(field) => {
                let wrong = |what: &str| CallError::invalid_input(format!("{field}: {what}"));
                let value = given(input, field).ok_or_else(|| wrong("it is missing"))?;
                let value = text(value, field)?;
                if value.is_empty() {
                    return Err(wrong("it is a part of a path and cannot be empty"));
                }
                encode(&value, target);
            }
        }
    }
    // Dots are not encoded, and would lead elsewhere (RFC 3986, section 5.2.4).
    let climbs = target[begins..]
        .split('/')
        .any(|segment| segment == "." || segment == "..");
    match climbs {
        true => Err(CallError::invalid_input(
            "a part of the path is . or .., which leads elsewhere",
        )),
        false => Ok(()),
    }
}

/// A value as text; of a list, with commas.
fn text(value: &Value, field: &str) -> Result<String, CallError> {
    Ok(match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items = items.iter().map(|item| text(item, field));
            items.collect::<Result<Vec<_>, _>>()?.join(",")
        }
        Value::Object(_) => {
            let told = format!("{field}: an object cannot be sent there");
            return Err(CallError::invalid_input(told));
        }
        Value::Null => String::new(),
        other => other.to_string(),
    })
}

/// Adds a text with everything encoded that is not unreserved (RFC 3986, section 2.3).
fn encode(text: &str, target: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            target.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(target, "%{byte:02X}");
        }
    }
}
