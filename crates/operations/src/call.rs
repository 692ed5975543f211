//! A call as its handler sees it: who calls, from where, under which request id, and the means to
//! call further operations or to learn that nobody waits any more.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use uuid::fmt::Hyphenated;

use crate::access::Identity;
use crate::error::CallError;
use crate::id::fresh;
use crate::name::OperationName;
use crate::peer::Peer;
use crate::progress::{Progress, ProgressSink};
use crate::registry::{Registered, Registry, Request};

/// Names one request in logs, answers and error reports: 1 to 128 visible ASCII characters.
#[derive(Clone)]
pub struct RequestId(Text);

/// There is one for each request, so what is made here needs no memory of its own.
#[derive(Clone)]
enum Text {
    Made([u8; Hyphenated::LENGTH]),
    Given(Arc<str>),
}

impl RequestId {
    /// A new one, ordered by time (UUIDv7, RFC 9562 section 5.7).
    pub fn generate() -> Self {
        let mut text = [0; Hyphenated::LENGTH];
        fresh().hyphenated().encode_lower(&mut text);
        Self(Text::Made(text))
    }

    /// Takes over the caller's own id when it is a sane one: it ends up in log lines and headers.
    pub fn from_caller(id: &str) -> Option<Self> {
        let sane = (1..=128).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(&b));
        sane.then(|| Self(Text::Given(id.into())))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // Digits and hyphens, which are UTF-8.
            Text::Made(text) => std::str::from_utf8(text).unwrap_or_default(),
            Text::Given(text) => text,
        }
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for RequestId {}

impl Hash for RequestId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestId").field(&self.as_str()).finish()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a handler that composes may reach, and in whose name: its own declared authority, never
/// its caller's.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    pub(crate) identity: Identity,
    pub(crate) reachable: Vec<OperationName>,
}

/// One call in progress. Cheap to clone.
#[derive(Clone)]
pub struct Call(Arc<Inner>);

struct Inner {
    operation: Arc<Registered>,
    request_id: RequestId,
    parent: Option<RequestId>,
    identity: Option<Identity>,
    remote: Option<SocketAddr>,
    cancelled: CancellationToken,
    authority: Option<Arc<Authority>>,
    registry: Weak<Registry>,
    next_cursor: Mutex<Option<String>>,
    resume_after: Option<u64>,
    progress: Option<ProgressSink>,
    peer: Option<Arc<dyn Peer>>,
}

impl Call {
    pub(crate) fn new(
        operation: Arc<Registered>,
        request: RequestParts,
        authority: Option<Arc<Authority>>,
        registry: Weak<Registry>,
    ) -> Self {
        let RequestParts {
            request_id,
            parent,
            identity,
            remote,
            cancelled,
            resume_after,
            progress,
            peer,
        } = request;
        let next_cursor = Mutex::new(None);
        Self(Arc::new(Inner {
            operation,
            request_id,
            parent,
            identity,
            remote,
            cancelled,
            authority,
            registry,
            next_cursor,
            resume_after,
            progress,
            peer,
        }))
    }

    /// Which operation was called.
    pub fn operation(&self) -> &OperationName {
        self.0.operation.name()
    }

    /// The request's id. A composed call has one of its own and names its parent's.
    pub fn request_id(&self) -> &RequestId {
        &self.0.request_id
    }

    /// The request that this one is a part of.
    pub fn parent_request_id(&self) -> Option<&RequestId> {
        self.0.parent.as_ref()
    }

    /// Who calls. `None` only in an open operation.
    pub fn identity(&self) -> Option<&Identity> {
        self.0.identity.as_ref()
    }

    /// Where the call came in from, when it came over a network.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.0.remote
    }

    /// Resolves when nobody waits for the answer any more. A query is dropped then; a mutation
    /// runs on, so that nothing stays half done, and may look here before a long step.
    pub async fn cancelled(&self) {
        self.0.cancelled.cancelled().await;
    }

    /// The number of the last output that the caller has seen already, in a subscription that is
    /// [resumed by](crate::Operation::resumed_by) such numbers: outputs after it are wanted.
    pub fn resume_after(&self) -> Option<u64> {
        self.0.resume_after
    }

    /// Says how far this call has come, to whoever asked. `done` and `total` are in units of the
    /// handler's choice, and `done` does not go back.
    pub fn progress(&self, done: u64, total: Option<u64>, message: impl Into<String>) {
        if let Some(sink) = &self.0.progress {
            sink.report(Progress {
                done,
                total,
                message: message.into(),
            });
        }
    }

    /// Whoever called, when they take calls too.
    pub fn peer(&self) -> Option<&Arc<dyn Peer>> {
        self.0.peer.as_ref()
    }

    /// Tells the caller of a list where its next page begins (the `Link` header over HTTP).
    pub fn set_next_cursor(&self, cursor: String) {
        *self
            .0
            .next_cursor
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(cursor);
    }

    pub(crate) fn take_next_cursor(&self) -> Option<String> {
        self.0
            .next_cursor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The registry that this call runs in, for the operations that describe the others.
    pub(crate) fn registry(&self) -> Option<Arc<Registry>> {
        self.0.registry.upgrade()
    }

    /// Calls another operation as a part of this call, under the authority that the handler
    /// declared with [`composes`](crate::Operation::composes). It is cancelled with this call.
    ///
    /// # Errors
    /// `NOT_FOUND` for an operation that was not declared, else what the operation answers.
    pub async fn invoke<I: Serialize, O: DeserializeOwned>(
        &self,
        operation: &str,
        input: &I,
    ) -> Result<O, CallError> {
        let unknown = || CallError::not_found(format!("there is no operation {operation:?}"));
        let authority = self.0.authority.as_ref().ok_or_else(unknown)?;
        if !authority
            .reachable
            .iter()
            .any(|name| name.as_str() == operation)
        {
            return Err(unknown());
        }
        let registry = self.registry().ok_or_else(unknown)?;
        let input = serde_json::to_value(input).map_err(CallError::internal)?;
        let parts = RequestParts {
            request_id: RequestId::generate(),
            parent: Some(self.0.request_id.clone()),
            identity: Some(authority.identity.clone()),
            remote: self.0.remote,
            cancelled: self.0.cancelled.child_token(),
            resume_after: None,
            // How far a part has come says nothing of the whole.
            progress: None,
            // Whoever called asked for the whole.
            peer: None,
        };
        let reply = registry.invoke_composed(operation, input, parts).await?;
        serde_json::from_value(reply.output).map_err(CallError::internal)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("operation", self.operation())
            .field("request_id", &self.0.request_id)
            .field("identity", &self.0.identity)
            .finish_non_exhaustive()
    }
}

/// Everything of a request but which operation and with what.
pub(crate) struct RequestParts {
    pub(crate) request_id: RequestId,
    pub(crate) parent: Option<RequestId>,
    pub(crate) identity: Option<Identity>,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) cancelled: CancellationToken,
    pub(crate) resume_after: Option<u64>,
    pub(crate) progress: Option<ProgressSink>,
    pub(crate) peer: Option<Arc<dyn Peer>>,
}

/// The successful end of a call.
#[derive(Clone, PartialEq)]
pub struct Reply {
    /// What the handler answered.
    pub output: Value,
    /// Where the next page of a list begins.
    pub next_cursor: Option<String>,
}

impl fmt::Debug for Reply {
    /// Leaves the output out: an operation may answer with a secret that it shows only once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("next_cursor", &self.next_cursor)
            .finish_non_exhaustive()
    }
}

impl Request {
    pub(crate) fn into_parts(self) -> (Value, RequestParts) {
        let Self {
            input,
            identity,
            request_id,
            remote,
            cancelled,
            resume_after,
            progress,
            peer,
        } = self;
        (
            input,
            RequestParts {
                request_id,
                parent: None,
                identity,
                remote,
                cancelled,
                resume_after,
                progress,
                peer,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sane_request_id_is_taken_over_from_the_caller() {
        assert!(RequestId::from_caller("req-42_a.b:c").is_some());
        for bad in ["", "a b", "a\r\nx: y", "é", &"x".repeat(129)] {
            assert!(RequestId::from_caller(bad).is_none(), "{bad:?} was taken");
        }
    }
}
