//! Errors: what a caller is told, and what only the log is told.
//!
//! A caller gets `{code, message, retryable, details?}` and nothing else. Five codes belong to the
//! protocol; every other code is declared by the operation that may answer it (see
//! [`declare`](crate::declare)), with the HTTP status that it has over HTTP, so that a client can
//! know them all beforehand. Whatever a handler fails with undeclared becomes `INTERNAL`: its cause
//! goes to the log with the request's id, never to the caller.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An HTTP status that says that something failed: 400 to 599, checked when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ErrorStatus(u16);

impl ErrorStatus {
    /// Refuses, at compile time when it is called in a constant, what is no error.
    const fn new(status: u16) -> Self {
        assert!(
            400 <= status && status <= 599,
            "an error has a status from 400 to 599"
        );
        Self(status)
    }

    /// The status as the `http` crate has it.
    fn status_code(self) -> StatusCode {
        // 400..=599 is inside what StatusCode takes, so the fallback is never reached.
        StatusCode::from_u16(self.0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// What kind of failure an error is: its code, its HTTP status, and whether to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    code: Cow<'static, str>,
    status: ErrorStatus,
    retryable: bool,
}

/// What the input names does not exist, or not for this caller (404).
pub const NOT_FOUND: ErrorCode = ErrorCode::protocol("NOT_FOUND", 404, false);
/// The caller may not do this (401 without a credential, 403 with one).
pub const FORBIDDEN: ErrorCode = ErrorCode::protocol("FORBIDDEN", 403, false);
/// The input does not fit the schema, or no such thing can be asked for (422; 400 on REST routes).
pub const INVALID_INPUT: ErrorCode = ErrorCode::protocol("INVALID_INPUT", 422, false);
/// The operation took longer than it may (504).
pub const TIMEOUT: ErrorCode = ErrorCode::protocol("TIMEOUT", 504, true);
/// Something broke that is not the caller's doing (500).
pub const INTERNAL: ErrorCode = ErrorCode::protocol("INTERNAL", 500, false);

/// How the codes of other APIs begin.
const FOREIGN: &str = "HTTP_";

const PROTOCOL: [&ErrorCode; 5] = [&NOT_FOUND, &FORBIDDEN, &INVALID_INPUT, &TIMEOUT, &INTERNAL];

impl ErrorCode {
    const fn protocol(code: &'static str, status: u16, retryable: bool) -> Self {
        Self {
            code: Cow::Borrowed(code),
            status: ErrorStatus::new(status),
            retryable,
        }
    }

    /// A code of an operation's own, in upper snake case, with its status over HTTP.
    ///
    /// # Panics
    /// When the status is not 400 to 599; in a constant, the compiler says so.
    pub const fn declared(code: &'static str, status: u16) -> Self {
        Self::protocol(code, status, false)
    }

    /// What another API answered over HTTP: `HTTP_404`, with the same status, when that is an error;
    /// `HTTP_302` with 502 when it is anything else.
    pub fn foreign(status: StatusCode) -> Self {
        let own = if status.as_u16() >= 400 {
            status
        } else {
            StatusCode::BAD_GATEWAY
        };
        let later = [429, 502, 503, 504];
        Self {
            code: Cow::Owned(format!("{FOREIGN}{}", status.as_u16())),
            // A StatusCode may be as large as 999.
            status: ErrorStatus(own.as_u16().min(599)),
            retryable: later.contains(&status.as_u16()),
        }
    }

    /// Whether it is what another API answered.
    pub fn is_foreign(&self) -> bool {
        self.code.starts_with(FOREIGN)
    }

    /// The same code, telling the caller that the same request may succeed later.
    #[must_use]
    pub const fn retryable(self) -> Self {
        let mut code = self;
        code.retryable = true;
        code
    }

    /// The code as it stands in the protocol, upper snake case.
    pub fn as_str(&self) -> &str {
        &self.code
    }

    /// Its status over HTTP.
    pub fn status(&self) -> StatusCode {
        self.status.status_code()
    }

    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// Whether it is one of the protocol's own five.
    pub fn is_protocol(&self) -> bool {
        PROTOCOL.iter().any(|code| code.code == self.code)
    }
}

/// A failed call, as its caller learns of it.
///
/// Serialized it is `{code, message, retryable, details?}`; status and cause stay on this side.
#[derive(Debug, Clone)]
pub struct CallError {
    code: ErrorCode,
    message: String,
    details: Option<Value>,
    cause: Option<String>,
}

impl CallError {
    /// An error with this code and a message that says what is wrong and what to do.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            cause: None,
        }
    }

    /// `NOT_FOUND`.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(NOT_FOUND, message)
    }

    /// `INVALID_INPUT`.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(INVALID_INPUT, message)
    }

    /// `FORBIDDEN`.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(FORBIDDEN, message)
    }

    /// `INTERNAL`: the caller reads only that something broke, the log reads the cause.
    pub fn internal(cause: impl fmt::Display) -> Self {
        let message = "something broke on the server; its log has the cause under this request id";
        Self {
            cause: Some(cause.to_string()),
            ..Self::new(INTERNAL, message)
        }
    }

    /// Adds facts for programs.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Its code.
    pub fn code(&self) -> &ErrorCode {
        &self.code
    }

    /// What the caller reads.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Facts for programs, when there are any.
    pub fn details(&self) -> Option<&Value> {
        self.details.as_ref()
    }

    /// What only the log reads.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CallError {}

/// The form of a [`CallError`] on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// The code, upper snake case in the protocol.
    pub code: String,
    /// For people: what is wrong and what to do.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// For programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

impl From<&CallError> for ErrorObject {
    fn from(error: &CallError) -> Self {
        Self {
            code: error.code.as_str().to_owned(),
            message: error.message.clone(),
            retryable: error.code.retryable,
            details: error.details.clone(),
        }
    }
}

/// The code as REST routes write it: in lower snake case, as REST APIs have it.
///
/// Two of the protocol's codes have names of their own there: `INVALID_INPUT` is
/// `invalid_request`, `INTERNAL` is `internal_error`.
pub fn rest_code(code: &str) -> String {
    match code {
        "INVALID_INPUT" => "invalid_request".to_owned(),
        "INTERNAL" => "internal_error".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_codes_are_lower_case_and_two_have_names_of_their_own() {
        assert_eq!(rest_code("INVALID_INPUT"), "invalid_request");
        assert_eq!(rest_code("INTERNAL"), "internal_error");
        assert_eq!(rest_code("NO_HOSTS_AVAILABLE"), "no_hosts_available");
    }
}
