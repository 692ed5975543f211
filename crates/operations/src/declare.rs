//! How an operation declares the ways in which it fails.
//!
//! Handlers return an enum that [`errors!`](crate::errors) declares: each variant has a code, a
//! message and a description, and the codes are known before anybody calls. What no caller can mend
//! is wrapped by [`internal`] and told to the log only.

use std::fmt;

use schemars::Schema;

use crate::error::{CallError, ErrorCode};

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
        let said = next.to_string();
        // Many errors repeat their source in their own text; once is enough.
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
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
    use http::StatusCode;

    use crate::error::{ErrorCode, ErrorObject, NOT_FOUND};

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

    #[derive(Debug, thiserror::Error)]
    #[error("{says}")]
    struct Because {
        says: &'static str,
        #[source]
        of: std::io::Error,
    }

    #[test]
    fn each_link_of_a_chain_of_causes_is_told_once() {
        for (says, told) in [
            ("no book", "no book: disk 7 is on fire"),
            ("no book: disk 7 is on fire", "no book: disk 7 is on fire"),
        ] {
            let of = std::io::Error::other("disk 7 is on fire");
            assert_eq!(internal(Because { says, of }).to_string(), told);
        }
    }

    #[test]
    fn an_internal_cause_stays_on_this_side() {
        let broken = std::io::Error::other("disk 7 is on fire");
        let error = CallError::from(Failure::from(internal(broken)));
        let told = serde_json::to_string(&ErrorObject::from(&error)).expect("json");
        assert!(!told.contains("fire"), "{told}");
        assert_eq!(error.cause(), Some("disk 7 is on fire"));
    }
}
