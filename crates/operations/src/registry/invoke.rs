//! The way into an operation: does it exist for this caller, may they call it, does the input fit;
//! then the handler, where a panic is an `INTERNAL` and not a lost connection.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt, poll};
use serde_json::Value;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{BoundHandler, Registered, Registry, Request};
use crate::access::Denied;
use crate::call::{Call, Reply, RequestParts};
use crate::define::Kind;
use crate::error::{CallError, FORBIDDEN, INTERNAL, TIMEOUT};

impl Registry {
    /// Calls an operation from outside and waits for its answer.
    ///
    /// # Errors
    /// `NOT_FOUND` when there is no such external operation or it is a subscription, `FORBIDDEN`,
    /// `INVALID_INPUT`, `TIMEOUT`, `INTERNAL`, or an error that the operation declares.
    pub fn invoke(
        &self,
        name: &str,
        request: Request,
    ) -> impl Future<Output = Result<Reply, CallError>> + Send + use<> {
        let operation = self.find(name).cloned().ok_or_else(|| unknown(name));
        let (input, parts) = request.into_parts();
        answered(operation.and_then(|operation| self.begin(operation, input, parts)))
    }

    /// Calls one operation from the handler of another: internal ones exist here too.
    pub(crate) async fn invoke_composed(
        &self,
        name: &str,
        input: Value,
        parts: RequestParts,
    ) -> Result<Reply, CallError> {
        let operation = self
            .operations
            .get(name)
            .cloned()
            .ok_or_else(|| unknown(name))?;
        answered(self.begin(operation, input, parts)).await
    }

    /// Subscribes from outside. The stream ends with its first error, and when the request is
    /// cancelled; dropping it cancels the call. The operation's time-out is for its beginning: a
    /// stream that has begun may go on for ever.
    ///
    /// # Errors
    /// As [`Registry::invoke`]; `NOT_FOUND` for an operation that is no subscription.
    pub async fn subscribe(
        &self,
        name: &str,
        request: Request,
    ) -> Result<impl Stream<Item = Result<Value, CallError>> + Send + use<>, CallError> {
        let operation = self.find(name).cloned().ok_or_else(|| unknown(name))?;
        let (input, parts) = request.into_parts();
        let cancelled = parts.cancelled.clone();
        let call = self.admit(&operation, &input, parts)?;
        let BoundHandler::Many(handler) = &operation.handler else {
            return Err(unknown(name));
        };
        let guard = cancelled.clone().drop_guard();
        let beginning = while_wanted(cancelled.clone(), handler(call.clone(), input));
        let begun = in_a_task(operation.definition.timeout, beginning).await;
        let outputs = begun.map_err(|error| operation.settle(error, &call))?;
        let outputs = AssertUnwindSafe(outputs).catch_unwind().map(|item| {
            // What it panicked with is in the log already, by the panic hook.
            item.unwrap_or_else(|_| Err(CallError::internal("the stream of outputs panicked")))
        });
        let mut failed = false;
        Ok(outputs
            .map(move |item| {
                let _held_until_the_stream_ends = &guard;
                item.map_err(|error| operation.settle(error, &call))
            })
            .take_while(move |item| {
                let go_on = !failed;
                failed = item.is_err();
                std::future::ready(go_on)
            })
            .take_until(cancelled.cancelled_owned()))
    }

    /// Access and schema, in this order: who may not call learns nothing of the input's form.
    fn admit(
        &self,
        operation: &Arc<Registered>,
        input: &Value,
        parts: RequestParts,
    ) -> Result<Call, CallError> {
        operation
            .access()
            .check(parts.identity.as_ref())
            .map_err(denied)?;
        operation.check.check(input)?;
        let authority = operation.authority.clone();
        Ok(Call::new(
            Arc::clone(operation),
            parts,
            authority,
            self.itself.clone(),
        ))
    }

    /// Lets a request in and makes its work, of which nothing is done yet.
    fn begin(
        &self,
        operation: Arc<Registered>,
        input: Value,
        parts: RequestParts,
    ) -> Result<Begun, CallError> {
        let cancelled = parts.cancelled.clone();
        let call = self.admit(&operation, &input, parts)?;
        let BoundHandler::Once(handler) = &operation.handler else {
            return Err(unknown(operation.name.as_str()));
        };
        Ok(Begun {
            handling: handler(call.clone(), input),
            guard: cancelled.clone().drop_guard(),
            cancelled,
            operation,
            call,
        })
    }
}

/// A call that was let in. It is small: a future keeps room for whatever it was given.
struct Begun {
    operation: Arc<Registered>,
    call: Call,
    handling: BoxFuture<'static, Result<Value, CallError>>,
    cancelled: CancellationToken,
    /// Dropping it (the caller went away), or leaving early, cancels the call.
    guard: DropGuard,
}

async fn answered(begun: Result<Begun, CallError>) -> Result<Reply, CallError> {
    let Begun {
        operation,
        call,
        handling,
        cancelled,
        guard: _guard,
    } = begun?;
    let limit = operation.definition.timeout;
    let answer = match operation.kind() {
        Kind::Query => in_a_task(limit, while_wanted(cancelled, handling)).await,
        // A mutation whose caller went away runs to its end, instead of stopping at whichever
        // await it had reached.
        _ => in_a_task(limit, handling).await,
    };
    match answer {
        Ok(output) => Ok(Reply {
            output,
            next_cursor: call.take_next_cursor(),
        }),
        Err(error) => Err(operation.settle(error, &call)),
    }
}

/// Runs in a task of its own, where a panic ends, and waits so long for it. What is done without
/// waiting for anything needs no task.
async fn in_a_task<T: Send + 'static>(
    limit: Duration,
    work: impl Future<Output = Result<T, CallError>> + Send + 'static,
) -> Result<T, CallError> {
    let mut work = Box::pin(AssertUnwindSafe(work).catch_unwind());
    let answered = match poll!(work.as_mut()) {
        Poll::Ready(answered) => answered,
        // From here to the task there is nothing to wait for, so nobody can leave in between.
        Poll::Pending => match tokio::time::timeout(limit, tokio::spawn(work)).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(broken)) => return Err(CallError::internal(broken)),
            Err(_elapsed) => return Err(timed_out(limit)),
        },
    };
    // What it panicked with is in the log already, by the panic hook.
    answered.unwrap_or_else(|_| Err(CallError::internal("the handler panicked")))
}

/// Drops the work when nobody waits for it any more.
async fn while_wanted<T>(
    cancelled: CancellationToken,
    work: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::select! {
        biased;
        answer = work => answer,
        () = cancelled.cancelled() => Err(CallError::new(INTERNAL, "cancelled")),
    }
}

impl Registered {
    /// Lets a declared error pass and makes anything else `INTERNAL`; logs what the caller is not
    /// told.
    fn settle(&self, error: CallError, call: &Call) -> CallError {
        let declared = error.code().is_protocol()
            || (self.definition.foreign && error.code().is_foreign())
            || self
                .definition
                .errors
                .iter()
                .any(|spec| spec.code.as_str() == error.code().as_str());
        let error = if declared {
            error
        } else {
            CallError::internal(format!(
                "undeclared error {}: {error}",
                error.code().as_str()
            ))
        };
        if let Some(cause) = error.cause() {
            tracing::error!(operation = %self.name, request_id = %call.request_id(), cause, "failed");
        }
        error
    }
}

fn unknown(name: &str) -> CallError {
    CallError::not_found(format!("there is no operation {name:?} to call"))
}

fn denied(denied: Denied) -> CallError {
    CallError::new(FORBIDDEN, denied.to_string())
}

fn timed_out(limit: Duration) -> CallError {
    CallError::new(
        TIMEOUT,
        format!("no answer within {} s; try again", limit.as_secs_f32()),
    )
}
