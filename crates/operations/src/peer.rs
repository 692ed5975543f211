//! The other end of the connection that brought a call, where that end takes calls too.

use futures::future::BoxFuture;
use serde_json::Value;

use crate::error::ErrorObject;

/// Whoever called, as somebody who can be called back (over the [call protocol](crate::protocol);
/// HTTP has no such direction).
pub trait Peer: Send + Sync + 'static {
    /// Calls an operation of theirs (`/service/operation`) as a part of the call that they made:
    /// when that one ends, this one is aborted. Dropping the future aborts it too.
    fn call(&self, operation: &str, input: Value)
    -> BoxFuture<'static, Result<Value, ErrorObject>>;
}
