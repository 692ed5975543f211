//! What an operation answers: its output, and every failure that it can have, by status.

use std::collections::BTreeMap;

use hostler_operations::{Access, Kind, Method, Registered, StatusCode};
use serde_json::{Map, Value, json};

use super::components::{Components, Role};
use super::operation::Form;
use crate::answer::Surface;
use crate::paging::pages;
use crate::sse::EVENT_STREAM;

/// One way to fail.
struct Case {
    /// As the surface writes it.
    code: String,
    description: String,
    details: Option<Value>,
    declared: bool,
}

pub(super) fn responses(operation: &Registered, form: &Form, components: &mut Components) -> Value {
    let mut responses = Map::new();
    let status = form.success.as_str().to_owned();
    responses.insert(status, success(operation, form, components));
    for (status, cases) in failures(operation, form, components) {
        let response = if cases.iter().any(|case| case.declared) {
            failure(&cases)
        } else {
            let surface = match form.surface {
                Surface::Operation => "Call",
                Surface::Rest => "Rest",
            };
            components.response(format!("{surface}{status}"), || failure(&cases))
        };
        responses.insert(status.to_string(), response);
    }
    Value::Object(responses)
}

fn success(operation: &Registered, form: &Form, components: &mut Components) -> Value {
    let mut headers = json!({ "X-Request-ID": { "$ref": "#/components/headers/RequestId" } });
    if form.success == StatusCode::NO_CONTENT {
        return json!({ "description": "Done.", "headers": headers });
    }
    if pages(operation) {
        headers["Link"] = json!({ "$ref": "#/components/headers/NextPage" });
    }
    let schema = components
        .hoist(operation.output_schema(), Role::Output)
        .reference;
    let (media_type, description) = match (form.text, operation.kind()) {
        (Some(media_type), _) => (media_type, "Done."),
        (None, Kind::Subscription) => (
            EVENT_STREAM,
            "A stream; the data of each event is this, as JSON.",
        ),
        (None, _) => ("application/json", "Done."),
    };
    json!({
        "description": description,
        "headers": headers,
        "content": { media_type: { "schema": schema } },
    })
}

/// Every way to fail, by status: those of the surface and those that the operation declares.
fn failures(
    operation: &Registered,
    form: &Form,
    components: &mut Components,
) -> BTreeMap<u16, Vec<Case>> {
    let mut failures: BTreeMap<u16, Vec<Case>> = BTreeMap::new();
    let mut add = |status: StatusCode, code: &str, description: &str, details, declared| {
        let code = match (form.surface, status) {
            (Surface::Rest, StatusCode::UNAUTHORIZED) if code == "FORBIDDEN" => {
                "unauthorized".into()
            }
            (surface, _) => surface.code(code),
        };
        let code = code.into_owned();
        let description = description.to_owned();
        failures.entry(status.as_u16()).or_default().push(Case {
            code,
            description,
            details,
            declared,
        });
    };
    for (status, code, description) in common(operation, form) {
        add(status, code, description, None, false);
    }
    for spec in operation.errors() {
        let status = match spec.code.as_str() {
            "INVALID_INPUT" => form.surface.invalid_input(),
            _ => spec.code.status(),
        };
        let details = spec.details.as_ref();
        let details = details.map(|schema| components.hoist(schema, Role::Output).reference);
        add(status, spec.code.as_str(), &spec.description, details, true);
    }
    failures
}

/// The failures that come from the way and not from the operation.
fn common(operation: &Registered, form: &Form) -> Vec<(StatusCode, &'static str, &'static str)> {
    let mut common = vec![
        (
            StatusCode::BAD_REQUEST,
            "INVALID_INPUT",
            "The request cannot be read.",
        ),
        (
            StatusCode::UNAUTHORIZED,
            "FORBIDDEN",
            "A credential is needed, or the one that came is unknown, expired or revoked.",
        ),
        (
            StatusCode::REQUEST_TIMEOUT,
            "REQUEST_TIMEOUT",
            "The body did not arrive in time.",
        ),
        (
            StatusCode::TOO_MANY_REQUESTS,
            "RATE_LIMITED",
            "Too many requests; come back after `Retry-After` seconds.",
        ),
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL",
            "Something broke on the server.",
        ),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "UNAVAILABLE",
            "Not at the moment; try again.",
        ),
        (
            form.surface.invalid_input(),
            "INVALID_INPUT",
            "The input does not fit its schema, or asks for what cannot be.",
        ),
    ];
    if *operation.access() != Access::Open {
        let description = "The credential does not grant this.";
        common.push((StatusCode::FORBIDDEN, "FORBIDDEN", description));
    }
    if form.method != Method::GET {
        let too_large = "The body is too large.";
        common.push((
            StatusCode::PAYLOAD_TOO_LARGE,
            "PAYLOAD_TOO_LARGE",
            too_large,
        ));
        let not_json = "The body is declared as something else than JSON.";
        common.push((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            not_json,
        ));
    }
    if operation.kind() == Kind::Subscription {
        let events = "The caller accepts no event stream.";
        common.push((StatusCode::NOT_ACCEPTABLE, "NOT_ACCEPTABLE", events));
    } else {
        common.push((
            StatusCode::GATEWAY_TIMEOUT,
            "TIMEOUT",
            "It took too long; try again.",
        ));
    }
    common
}

fn failure(cases: &[Case]) -> Value {
    let lines: Vec<String> = cases
        .iter()
        .map(|case| format!("`{}`: {}", case.code, case.description))
        .collect();
    let mut codes: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        codes.entry(&case.code).or_default().push(case);
    }
    let forms: Vec<Value> = codes
        .iter()
        .map(|(code, cases)| error_form(code, cases))
        .collect();
    let error = match <[Value; 1]>::try_from(forms) {
        Ok([only]) => only,
        Err(several) => json!({ "oneOf": several }),
    };
    let narrowed = json!({ "properties": { "error": error } });
    let schema = json!({ "allOf": [{ "$ref": "#/components/schemas/Error" }, narrowed] });
    json!({
        "description": lines.join("\n\n"),
        "headers": { "X-Request-ID": { "$ref": "#/components/headers/RequestId" } },
        "content": { "application/json": { "schema": schema } },
    })
}

/// What is known of an error with this code. Its details are only when there is one way to it.
fn error_form(code: &str, cases: &[&Case]) -> Value {
    let mut properties = json!({ "code": { "const": code } });
    if let [
        Case {
            details: Some(details),
            ..
        },
    ] = cases
    {
        properties["details"] = details.clone();
    }
    json!({ "properties": properties })
}
