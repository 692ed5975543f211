//! Operations that are known only when the program runs: those of another API, which a document
//! describes. What Rust types say of other operations comes as values here; everything else (who
//! may call, the check of the input, the way in) is the same.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt as _};
use schemars::Schema;
use serde_json::Value;

use crate::access::Access;
use crate::call::Call;
use crate::declare::ErrorSpec;
use crate::define::{DEFAULT_TIMEOUT, Definition, ErasedHandler, Kind, Operation, Undecided};
use crate::error::CallError;
use crate::name::OperationName;
use crate::schema::InputCheck;

/// What a document says of an operation.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// Its name within its service.
    pub name: String,
    /// Whether calling it changes anything.
    pub changes: bool,
    /// What it does, in words.
    pub description: String,
    /// The schema of its input (JSON Schema 2020-12), an object.
    pub input: Schema,
    /// The schema of its output; of each output when it is a subscription.
    pub output: Schema,
    /// The errors that are worth telling beforehand. Those of [`ErrorCode::foreign`] may come
    /// without being declared.
    ///
    /// [`ErrorCode::foreign`]: crate::ErrorCode::foreign
    pub errors: Vec<ErrorSpec>,
}

impl Foreign {
    /// Whether a registry takes it, in a service of this name.
    ///
    /// # Errors
    /// What is wrong with its name or the schema of its input.
    pub fn check(&self, service: &str) -> Result<(), String> {
        OperationName::new(service, &self.name).map_err(|error| error.to_string())?;
        InputCheck::new(&self.input)?;
        Ok(())
    }
}

/// An operation that answers once.
pub fn foreign<S, H, F>(described: Foreign, handler: H) -> Undecided<S>
where
    S: Send + Sync + 'static,
    H: Fn(Arc<S>, Call, Value) -> F + Send + Sync + 'static,
    F: Future<Output = Result<Value, CallError>> + Send + 'static,
{
    let kind = match described.changes {
        true => Kind::Mutation,
        false => Kind::Query,
    };
    let erased = move |state, call, input| -> futures::future::BoxFuture<'static, _> {
        Box::pin(handler(state, call, input))
    };
    undecided(kind, described, ErasedHandler::Once(Box::new(erased)))
}

/// An operation that answers with a stream.
pub fn foreign_subscription<S, H, F>(described: Foreign, handler: H) -> Undecided<S>
where
    S: Send + Sync + 'static,
    H: Fn(Arc<S>, Call, Value) -> F + Send + Sync + 'static,
    F: Future<Output = Result<BoxStream<'static, Result<Value, CallError>>, CallError>>
        + Send
        + 'static,
{
    let erased = move |state, call, input| -> futures::future::BoxFuture<'static, _> {
        let beginning = handler(state, call, input);
        Box::pin(async move { Ok(beginning.await?.boxed()) })
    };
    undecided(
        Kind::Subscription,
        described,
        ErasedHandler::Many(Box::new(erased)),
    )
}

fn undecided<S>(kind: Kind, described: Foreign, handler: ErasedHandler<S>) -> Undecided<S> {
    let Foreign {
        name,
        changes: _,
        description,
        input,
        output,
        errors,
    } = described;
    let definition = Definition {
        operation: Cow::Owned(name),
        foreign: true,
        kind,
        description,
        internal: false,
        access: Access::Open,
        rest: Vec::new(),
        timeout: DEFAULT_TIMEOUT,
        idempotent: false,
        resumed_by: None,
        authority: None,
        input,
        output,
        errors,
    };
    Undecided(Operation {
        definition,
        handler,
    })
}
