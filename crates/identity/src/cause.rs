//! The innermost reason of an error.
//!
//! Layers of HTTP and gRPC say "client error (Connect)" and "transport error"; what helps whoever
//! reads a message is beneath: "Connection refused".

use std::error::Error;

pub(crate) fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause
}
