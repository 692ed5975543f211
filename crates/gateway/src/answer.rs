//! Answers: how outputs and failures look over HTTP.
//!
//! There are two surfaces. On an operation path the codes are the protocol's, in upper case, and
//! input against the schema is 422. On a REST route codes are in lower snake case and the same is
//! 400. Everything else is equal, and decided here and nowhere else.

use std::borrow::Cow;

use axum::body::Body;
use axum::response::Response;
use hostler_operations::{CallError, RequestId, rest_code};
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use crate::body::BodyError;
use crate::credentials::AuthError;
use crate::input::InputError;
use crate::rates;

/// When a caller may come back after a retryable 429 or 503, in seconds, unless the error's details
/// say it in this field.
pub(crate) const WAIT: &str = "retry_after_secs";
const RETRY_AFTER_SECS: HeaderValue = HeaderValue::from_static("1");

/// The two forms in which an operation is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Surface {
    /// `/{service}/{operation}`.
    Operation,
    /// A REST route.
    Rest,
}

impl Surface {
    /// The code as this surface writes it.
    pub(crate) fn code(self, code: &str) -> Cow<'_, str> {
        match self {
            Self::Operation => Cow::Borrowed(code),
            Self::Rest => Cow::Owned(rest_code(code)),
        }
    }

    /// The status of input that does not fit the schema.
    pub(crate) fn invalid_input(self) -> StatusCode {
        match self {
            Self::Operation => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Rest => StatusCode::BAD_REQUEST,
        }
    }
}

/// A request that failed, before it is known how the answer looks.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    /// In the protocol's upper case.
    code: Cow<'static, str>,
    message: Cow<'static, str>,
    retryable: bool,
    details: Option<Value>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code: Cow::Borrowed(code),
            message: message.into(),
            retryable: false,
            details: None,
            header: None,
        }
    }

    /// Nobody said who calls, and this operation asks.
    pub(crate) fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "FORBIDDEN",
            "authentication required",
        )
    }

    /// The path exists, not with this method.
    pub(crate) fn method(allowed: &[&Method]) -> Self {
        let mut allow: Vec<&str> = allowed.iter().map(|m| m.as_str()).collect();
        if allow.contains(&"GET") {
            allow.push("HEAD");
        }
        let allow = allow.join(", ");
        let message = format!("this path takes {allow}");
        let failure = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            message,
        );
        Self {
            header: HeaderValue::try_from(allow).ok().map(|v| (ALLOW, v)),
            ..failure
        }
    }

    /// The caller accepts no event stream, and this operation answers with nothing else.
    pub(crate) fn only_events() -> Self {
        let message = "this operation answers with a stream; send accept: text/event-stream";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NOT_ACCEPTABLE", message)
    }

    /// The request comes from where none may come from.
    pub(crate) fn elsewhere(message: &'static str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "FORBIDDEN", message)
    }

    /// A failed call. `known` says whether the caller proved who they are: if not, a better
    /// credential may help, and 401 says so.
    pub(crate) fn call(error: &CallError, surface: Surface, known: bool) -> Self {
        let status = match error.code().as_str() {
            "INVALID_INPUT" => surface.invalid_input(),
            "FORBIDDEN" if !known => StatusCode::UNAUTHORIZED,
            _ => error.code().status(),
        };
        Self {
            status,
            code: Cow::Owned(error.code().as_str().to_owned()),
            message: Cow::Owned(error.message().to_owned()),
            retryable: error.code().is_retryable(),
            details: error.details().cloned(),
            header: None,
        }
    }

    pub(crate) fn auth(error: AuthError) -> Self {
        match error {
            AuthError::Invalid(message) => {
                let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                Self {
                    header: Some((WWW_AUTHENTICATE, challenge)),
                    ..Self::new(StatusCode::UNAUTHORIZED, "FORBIDDEN", message)
                }
            }
            AuthError::TooOften(wait) => {
                Self::call(&rates::too_often(wait), Surface::Operation, true)
            }
            AuthError::Unavailable(_) => {
                Self::unavailable("credentials cannot be checked at the moment; try again")
            }
        }
    }

    pub(crate) fn body(error: &BodyError) -> Self {
        let (status, code) = match error {
            BodyError::Busy => return Self::unavailable(error.to_string()),
            BodyError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE"),
            BodyError::MediaType => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE"),
            BodyError::Late { .. } => (StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT"),
            BodyError::NotJson(_) | BodyError::Broken | BodyError::Unexpected => {
                (StatusCode::BAD_REQUEST, "INVALID_INPUT")
            }
        };
        Self::new(status, code, error.to_string())
    }

    pub(crate) fn input(error: &InputError, surface: Surface) -> Self {
        let status = match error {
            InputError::NotEncoded | InputError::HeaderNotAscii(_) => StatusCode::BAD_REQUEST,
            InputError::Differs(_) | InputError::BodyNotObject => surface.invalid_input(),
        };
        Self::new(status, "INVALID_INPUT", error.to_string())
    }

    fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        let failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message);
        Self {
            retryable: true,
            ..failure
        }
    }

    /// The answer.
    pub(crate) fn into_response(self, surface: Surface, request_id: &RequestId) -> Response {
        let code = match (surface, self.status, self.code.as_ref()) {
            (Surface::Rest, StatusCode::UNAUTHORIZED, "FORBIDDEN") => Cow::Borrowed("unauthorized"),
            (_, _, code) => surface.code(code),
        };
        let body = ErrorBody {
            error: ErrorFields {
                code: &code,
                message: &self.message,
                retryable: self.retryable,
                request_id: request_id.as_str(),
                details: self.details.as_ref(),
            },
        };
        let mut response = json(self.status, &body);
        let headers = response.headers_mut();
        // What another API refuses, no credential of the caller's mends.
        if self.status == StatusCode::UNAUTHORIZED && !self.code.starts_with("HTTP_") {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let later = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        if self.retryable && later.contains(&self.status) {
            let said = self.details.as_ref().and_then(|details| details.get(WAIT));
            let said = said.and_then(Value::as_u64).map(HeaderValue::from);
            headers.insert(RETRY_AFTER, said.unwrap_or(RETRY_AFTER_SECS));
        }
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        response
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorFields<'a>,
}

#[derive(Serialize)]
struct ErrorFields<'a> {
    code: &'a str,
    message: &'a str,
    retryable: bool,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a Value>,
}

/// A JSON answer. It belongs to its caller: no cache on the way may keep it.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let (status, body) = match serde_json::to_vec(body) {
        Ok(bytes) => (status, Body::from(bytes)),
        // Values and the structs of this crate have string keys, so this is out of reach; if it
        // is reached all the same, an empty 500 is honest.
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Body::empty()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A short answer in plain text.
pub(crate) fn text(status: StatusCode, body: &'static str) -> Response {
    typed(status, "text/plain; charset=utf-8", body)
}

/// An answer that is text of this media type.
pub(crate) fn typed(
    status: StatusCode,
    media_type: &'static str,
    body: impl Into<Body>,
) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 204: done, and nothing to say.
pub(crate) fn no_content() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}
