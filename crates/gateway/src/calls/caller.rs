//! Making calls of one's own, to whoever is on the other end of a conversation.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hostler_operations::protocol::{Answers, AuthToken, CALL_TIMEOUT, CallId, OutgoingCall};
use hostler_operations::{CallError, ErrorObject, INTERNAL, TIMEOUT};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::conversation::{Conversation, Waiting};
use super::outbox::Outbox;

/// How many outputs wait for a subscriber before the other end has to wait too.
const OUTPUTS: usize = 16;

/// The other end of a conversation. Cheap to clone.
///
/// Calls go out together on one stream, each subscription on one of its own, so that a subscriber
/// who is slow holds up nobody else.
#[derive(Clone)]
pub struct Caller {
    conversation: Arc<Conversation>,
    timeout: Duration,
}

impl Caller {
    pub(super) fn new(conversation: Arc<Conversation>) -> Self {
        Self {
            conversation,
            timeout: CALL_TIMEOUT,
        }
    }

    /// Waits so long for each answer; 30 s unless said.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Calls an operation (`/service/operation`) and waits for its answer, in one's own name or in
    /// that of whoever has this token. Dropping the future aborts the call.
    ///
    /// # Errors
    /// What the operation answers, `TIMEOUT`, or `INTERNAL` when the connection is lost.
    pub async fn call(
        &self,
        operation: &str,
        input: Value,
        token: Option<AuthToken>,
    ) -> Result<Value, ErrorObject> {
        self.call_on_behalf(None, operation, input, token).await
    }

    pub(super) async fn call_on_behalf(
        &self,
        on_behalf_of: Option<CallId>,
        operation: &str,
        input: Value,
        token: Option<AuthToken>,
    ) -> Result<Value, ErrorObject> {
        let opening = self.conversation.stream_for_calls();
        let (stream, outbox) = self.soon(opening).await?.map_err(|_| closed())?;
        self.soon(outbox.room()).await?;
        let (waiting, answer) = oneshot::channel();
        let call = OutgoingCall {
            operation: operation.to_owned(),
            input,
            auth_token: token,
            answers: Answers::One,
            timeout: self.timeout,
            on_behalf_of,
        };
        let id = self.conversation.call(stream, call, Waiting::One(waiting));
        let _aborts = Aborts {
            conversation: &self.conversation,
            id: &id,
        };
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Subscribes to an operation. Dropping the subscription aborts it.
    ///
    /// # Errors
    /// `TIMEOUT` or `INTERNAL` when there is no stream for it; what the operation answers comes
    /// from the subscription.
    pub async fn subscribe(
        &self,
        operation: &str,
        input: Value,
        token: Option<AuthToken>,
    ) -> Result<Subscription, ErrorObject> {
        let opening = self.conversation.open();
        let (stream, outbox) = self.soon(opening).await?.map_err(|_| closed())?;
        let (outputs, received) = mpsc::channel(OUTPUTS);
        let failed = Arc::new(OnceLock::new());
        let call = OutgoingCall {
            operation: operation.to_owned(),
            input,
            auth_token: token,
            answers: Answers::Many,
            timeout: self.timeout,
            on_behalf_of: None,
        };
        let waiting = Waiting::Many {
            outputs,
            failed: Arc::clone(&failed),
        };
        let id = self.conversation.call(stream, call, waiting);
        Ok(Subscription {
            conversation: Arc::clone(&self.conversation),
            id,
            outbox,
            outputs: received,
            failed,
        })
    }

    /// Resolves when the conversation is over.
    pub async fn closed(&self) {
        self.conversation.gone().await;
    }

    async fn soon<T>(&self, future: impl Future<Output = T>) -> Result<T, ErrorObject> {
        tokio::select! {
            soon = tokio::time::timeout(self.timeout, future) => soon.map_err(|_| {
                let told = "the other end takes nothing; try again";
                ErrorObject::from(&CallError::new(TIMEOUT, told))
            }),
            () = self.conversation.gone() => Err(closed()),
        }
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Aborts a call when it is dropped, unless it is over.
struct Aborts<'c> {
    conversation: &'c Arc<Conversation>,
    id: &'c CallId,
}

impl Drop for Aborts<'_> {
    fn drop(&mut self) {
        self.conversation.abort(self.id);
    }
}

/// The outputs of a subscription.
pub struct Subscription {
    conversation: Arc<Conversation>,
    id: CallId,
    outbox: Arc<Outbox>,
    outputs: mpsc::Receiver<Value>,
    failed: Arc<OnceLock<ErrorObject>>,
}

impl Subscription {
    /// The next output; `None` after the last. While nobody asks, the other end is made to wait.
    ///
    /// # Errors
    /// Why the subscription ended before its time; nothing follows.
    pub async fn next(&mut self) -> Result<Option<Value>, ErrorObject> {
        match self.outputs.recv().await {
            Some(output) => Ok(Some(output)),
            None => self.failed.get().cloned().map_or(Ok(None), Err),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.conversation.abort(&self.id);
        self.outbox.finish();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

/// What a call is told whose conversation is over.
pub(super) fn closed() -> ErrorObject {
    ErrorObject::from(&CallError::new(INTERNAL, "connection closed"))
}
