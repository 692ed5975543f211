//! Errors: what a caller is told, what the log is told, and how an operation declares both.
//!
//! A caller gets `{code, message, retryable, details?}` and nothing else. Five codes belong to the
//! protocol; every other code is declared by the operation that may answer it, with the HTTP status
//! that it has over HTTP, so that a client can know them all beforehand. Whatever a handler fails
//! with undeclared becomes `INTERNAL`: its cause goes to the log with the request's id, never to
//! the caller.
//!
//! Handlers return an enum that [`errors!`](crate::errors) declares.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;
use schemars::Schema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// An HTTP status that says that something failed: 400 to 599, checked when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorStatus(u16);

impl ErrorStatus {
    /// Refuses, at compile time when it is called in a constant, what is no error.
    ///
    /// # Panics
    /// When the status is not 400 to 599.
    pub const fn new(status: u16) -> Self {
        assert!(
            400 <= status && status <= 599,
            "an error has a status from 400 to 599"
        );
        Self(status)
    }

    /// The status as the `http` crate has it.
    pub fn status_code(self) -> StatusCode {
        // 400..=599 is inside what StatusCode takes, so the fallback is never reached.
        StatusCode::from_u16(self.0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// What kind of failure an error is: its code, its HTTP status, and whether to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    code: Cow<'static, str>,
    status: Option<ErrorStatus>,
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

const PROTOCOL: [&ErrorCode; 5] = [&NOT_FOUND, &FORBIDDEN, &INVALID_INPUT, &TIMEOUT, &INTERNAL];

impl ErrorCode {
    const fn protocol(code: &'static str, status: u16, retryable: bool) -> Self {
        Self {
            code: Cow::Borrowed(code),
            status: Some(ErrorStatus::new(status)),
            retryable,
        }
    }

    /// A code of an operation's own, in upper snake case, with its status over HTTP.
    pub const fn declared(code: &'static str, status: u16) -> Self {
        Self::protocol(code, status, false)
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

    /// Its status over HTTP; a code that declares none is a 500.
    pub fn status(&self) -> StatusCode {
        self.status
            .map_or(StatusCode::INTERNAL_SERVER_ERROR, ErrorStatus::status_code)
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

/// One way in which an operation may fail, as documents describe it.
#[derive(Clone, Debug)]
pub struct ErrorSpec {
    /// Code, status, retryability.
    pub code: ErrorCode,
    /// From the doc comment of the enum's variant.
    pub description: String,
    /// The schema of `details`, when the error carries any.
    pub details: Option<Schema>,
}

/// An error type of a handler: every code it can turn into is declared.
///
/// [`errors!`](crate::errors) writes the implementation.
pub trait OperationError: Into<CallError> + Send + 'static {
    /// Every error that this type can become, `INTERNAL` aside.
    fn declared() -> Vec<ErrorSpec>;
}

/// A failure that no caller can mend. Made by [`internal`]; its text goes to the log only.
#[derive(Debug)]
pub struct Internal(String);

/// Wraps whatever broke, with the chain of its sources: `store.get(id).await.map_err(internal)?`.
pub fn internal(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Internal {
    let cause = cause.into();
    let mut text = cause.to_string();
    let mut source = cause.source();
    while let Some(next) = source {
        text.push_str(": ");
        text.push_str(&next.to_string());
        source = next.source();
    }
    Internal(text)
}

impl fmt::Display for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Internal> for CallError {
    fn from(internal: Internal) -> Self {
        Self::internal(internal.0)
    }
}

/// Names `code`, lower-cased on REST routes, as the contract asks.
///
/// The five protocol codes have names of their own there (`INVALID_INPUT` is `invalid_request`).
pub fn rest_code(code: &str) -> String {
    match code {
        "INVALID_INPUT" => "invalid_request".to_owned(),
        "INTERNAL" => "internal_error".to_owned(),
        other => other.to_ascii_lowercase(),
    }
}

/// Declares the error type of a handler: one line for each way to fail.
///
/// Each variant has a doc comment (its description in documents), a code (one of the protocol's
/// constants or [`ErrorCode::declared`]), and a message that may name the variant's fields. The
/// fields become the error's `details`, so they must be `Serialize + JsonSchema`. A variant
/// `Internal` is added, which [`internal`] fills and whose cause only the log reads.
///
/// ```
/// use hostler_operations::{CallError, ErrorCode, NOT_FOUND, OperationError, errors};
///
/// errors! {
///     /// Why a book could not be lent.
///     pub enum LendError {
///         /// No book has this title.
///         NoSuchBook { title: String } = NOT_FOUND, "there is no book called {title:?}";
///         /// Somebody else has it.
///         AlreadyLent { until: String } = ErrorCode::declared("ALREADY_LENT", 409).retryable(),
///             "it is lent until {until}; come back then";
///     }
/// }
///
/// let error = CallError::from(LendError::AlreadyLent { until: "Monday".into() });
/// assert_eq!(error.code().as_str(), "ALREADY_LENT");
/// assert_eq!(error.message(), "it is lent until Monday; come back then");
/// assert_eq!(error.details().unwrap()["until"], "Monday");
/// assert_eq!(LendError::declared().len(), 2);
/// ```
#[macro_export]
macro_rules! errors {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident {
            $(
                $(#[doc = $doc:literal])+
                $variant:ident $({ $($field:ident : $type:ty),* $(,)? })? = $code:expr, $message:literal;
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        #[non_exhaustive]
        $visibility enum $name {
            $(
                $(#[doc = $doc])+
                $variant $({ $(#[allow(missing_docs)] $field: $type),* })?,
            )*
            /// Something broke that no caller can mend.
            Internal($crate::Internal),
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                match self {
                    $(Self::$variant $({ $($field),* })? => ::std::write!(f, $message),)*
                    Self::Internal(cause) => ::std::fmt::Display::fmt(cause, f),
                }
            }
        }

        impl ::std::error::Error for $name {}

        impl ::std::convert::From<$crate::Internal> for $name {
            fn from(cause: $crate::Internal) -> Self {
                Self::Internal(cause)
            }
        }

        impl ::std::convert::From<$name> for $crate::CallError {
            fn from(error: $name) -> Self {
                let message = ::std::string::ToString::to_string(&error);
                match error {
                    $(
                        $name::$variant $({ $($field),* })? => {
                            let call_error = Self::new($code, message);
                            $(let call_error = call_error.with_details(
                                $crate::__private::json!({
                                    $(::std::stringify!($field): $field),*
                                }),
                            );)?
                            call_error
                        }
                    )*
                    $name::Internal(cause) => cause.into(),
                }
            }
        }

        impl $crate::OperationError for $name {
            fn declared() -> ::std::vec::Vec<$crate::ErrorSpec> {
                ::std::vec![
                    $($crate::ErrorSpec {
                        code: $code,
                        description: $crate::__private::join_doc(&[$($doc),+]),
                        details: {
                            #[allow(unused_mut, unused_assignments)]
                            let mut details = ::std::option::Option::None;
                            $(details = ::std::option::Option::Some(
                                $crate::__private::details_schema(&[
                                    $((
                                        ::std::stringify!($field),
                                        $crate::__private::field_schema::<$type>,
                                    )),*
                                ]),
                            );)?
                            details
                        },
                    }),*
                ]
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    errors! {
        /// Ways to fail in these tests.
        enum Failure {
            /// It is
            /// gone.
            Gone { name: String, age_days: u32 } = NOT_FOUND, "{name} left {age_days} days ago";
            /// Too many at once.
            Busy = ErrorCode::declared("BUSY", 503).retryable(), "busy; try again";
        }
    }

    #[test]
    fn a_declared_error_carries_its_code_message_and_fields() {
        let error = CallError::from(Failure::Gone {
            name: "web".into(),
            age_days: 3,
        });
        assert_eq!(error.code(), &NOT_FOUND);
        assert_eq!(error.message(), "web left 3 days ago");
        assert_eq!(
            error.details(),
            Some(&serde_json::json!({"name": "web", "age_days": 3}))
        );
        let busy = CallError::from(Failure::Busy);
        assert!(busy.code().is_retryable() && busy.details().is_none());
        assert_eq!(busy.code().status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn declarations_describe_every_variant_and_its_details() {
        let declared = Failure::declared();
        assert_eq!(declared.len(), 2);
        assert_eq!(declared[0].description, "It is gone.");
        let details = declared[0].details.clone().expect("a schema").to_value();
        assert_eq!(details["properties"]["age_days"]["type"], "integer");
        assert!(declared[1].details.is_none());
    }

    #[test]
    fn an_internal_cause_stays_on_this_side() {
        let broken = std::io::Error::other("disk 7 is on fire");
        let error = CallError::from(Failure::from(internal(broken)));
        let told = serde_json::to_string(&ErrorObject::from(&error)).expect("json");
        assert!(!told.contains("fire"), "{told}");
        assert_eq!(error.cause(), Some("disk 7 is on fire"));
    }

    #[test]
    fn rest_codes_are_lower_case_and_have_the_names_of_the_contract() {
        assert_eq!(rest_code("INVALID_INPUT"), "invalid_request");
        assert_eq!(rest_code("INTERNAL"), "internal_error");
        assert_eq!(rest_code("NO_HOSTS_AVAILABLE"), "no_hosts_available");
    }
}
