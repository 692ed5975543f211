//! The walk of a call that came: operation, caller, access, input, answer. The order is that of a
//! request over HTTP.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use hostler_operations::protocol::{AuthToken, CallId, Envelope, Message};
use hostler_operations::{
    CallError, ErrorObject, INTERNAL, Identity, Kind, Peer, Registered, Registry, Request,
    RequestId,
};
use secrecy::SecretString;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::caller::{self, Caller};
use super::conversation::Conversation;
use super::outbox::Outbox;
use crate::credentials::{AuthError, Credentials, IdentityProvider};
use crate::rates::{self, Rates};
use crate::recheck;

/// How long somebody who has shown nothing has to say who they are.
const TIME_TO_SAY: Duration = Duration::from_secs(5);

/// Who answers the other end's calls.
pub(crate) struct Answering {
    registry: Arc<Registry>,
    provider: Arc<dyn IdentityProvider>,
    /// What the connection proves; a token that comes with a call is added to it.
    credentials: Credentials,
    /// How often anybody may ask; who answers somebody that they have called asks nothing of them.
    rates: Option<Arc<Rates>>,
    /// At which door it came in.
    door: Option<SocketAddr>,
    /// Whether anybody has proved who they are.
    known: AtomicBool,
    /// Whoever has shown nothing has to say in the first frame who is there.
    gate: Option<Gate>,
}

/// Nobody comes in before they have said who they are.
struct Gate {
    /// Held while what was said is looked into; others wait.
    turn: tokio::sync::Mutex<()>,
    /// What was said, which all calls without a token of their own are made with.
    token: OnceLock<SecretString>,
    admitted: CancellationToken,
    refused: CancellationToken,
}

/// A call that came.
pub(super) struct Asked {
    pub(super) id: CallId,
    pub(super) operation: String,
    pub(super) input: Value,
    pub(super) auth_token: Option<AuthToken>,
    /// Cancelled when nobody waits for the answer any more.
    pub(super) cancelled: CancellationToken,
    /// Where its answers go.
    pub(super) outbox: Arc<Outbox>,
}

enum Begun {
    Answered(Value),
    Streaming(BoxStream<'static, Result<Value, CallError>>),
}

impl Answering {
    pub(crate) fn new(
        registry: Arc<Registry>,
        provider: Arc<dyn IdentityProvider>,
        credentials: Credentials,
        door: Option<SocketAddr>,
    ) -> Self {
        let known = !shows_nothing(&credentials);
        Self {
            registry,
            provider,
            credentials,
            rates: None,
            door,
            known: AtomicBool::new(known),
            gate: None,
        }
    }

    /// Counts how often calls come.
    pub(crate) fn limited(mut self, rates: &Arc<Rates>) -> Self {
        self.rates = Some(Arc::clone(rates));
        self
    }

    /// Counts that something came, whatever it is.
    fn count(&self, credentials: &Credentials) -> Result<(), Duration> {
        let rates = self.rates.as_ref();
        rates.map_or(Ok(()), |rates| rates.count(credentials))
    }

    async fn resolve(&self, credentials: &Credentials) -> Result<Option<Identity>, AuthError> {
        match &self.rates {
            Some(rates) => rates.resolve(&*self.provider, credentials).await,
            None => self.provider.resolve(credentials).await,
        }
    }

    /// Has the first frame say who is there, unless the connection has shown it already: a browser
    /// cannot send a header with its session.
    pub(crate) fn gated(mut self) -> Self {
        self.gate = shows_nothing(&self.credentials).then(|| Gate {
            turn: tokio::sync::Mutex::default(),
            token: OnceLock::new(),
            admitted: CancellationToken::new(),
            refused: CancellationToken::new(),
        });
        self
    }

    /// Whether what came may come in. The first call says who is there, and the rest wait for it.
    pub(super) async fn admit(&self, envelope: &Envelope) -> bool {
        let Some(gate) = &self.gate else {
            return true;
        };
        if gate.token.get().is_some() {
            return true;
        }
        let _turn = gate.turn.lock().await;
        if gate.token.get().is_some() {
            return true;
        }
        let admitted = match &envelope.message {
            Message::Requested {
                auth_token: Some(token),
                ..
            } => {
                let token = SecretString::from(token.expose());
                let mut credentials = self.credentials.clone();
                credentials.bearer = Some(token.clone());
                self.count(&credentials).is_ok()
                    && matches!(self.resolve(&credentials).await, Ok(Some(_)))
                    && gate.token.set(token).is_ok()
            }
            _ => false,
        };
        match admitted {
            true => {
                self.known.store(true, Ordering::Relaxed);
                gate.admitted.cancel();
            }
            false => gate.refused.cancel(),
        }
        admitted
    }

    /// Resolves when somebody has come in.
    pub(super) async fn admitted(&self) {
        if let Some(gate) = &self.gate {
            gate.admitted.cancelled().await;
        }
    }

    /// Resolves when it is certain that nobody says who they are.
    pub(super) async fn unproven(&self) {
        let Some(gate) = &self.gate else {
            return std::future::pending().await;
        };
        tokio::select! {
            () = gate.refused.cancelled() => return,
            () = tokio::time::sleep(TIME_TO_SAY) => {}
        }
        if gate.token.get().is_some() {
            gate.refused.cancelled().await;
        }
    }

    /// What the other end has shown, for a call with this token.
    fn shown(&self, token: Option<&AuthToken>) -> Credentials {
        let mut credentials = self.credentials.clone();
        let said = || self.gate.as_ref()?.token.get().cloned();
        let token = token.map(|token| SecretString::from(token.expose()));
        if let Some(token) = token.or_else(said) {
            credentials.bearer = Some(token);
        }
        credentials
    }

    /// Whether nothing is known of the other end.
    pub(super) fn is_to_a_stranger(&self) -> bool {
        !self.known.load(Ordering::Relaxed)
    }

    /// Answers a call, one way or another.
    pub(super) async fn answer(
        &self,
        conversation: &Arc<Conversation>,
        asked: &mut Asked,
        leaving: &CancellationToken,
    ) {
        let input = std::mem::take(&mut asked.input);
        let mut line = Line::begin(self, asked);
        let begun = self.begin(conversation, asked, input, &mut line).await;
        let failed = match begun {
            Ok(Begun::Answered(output)) => {
                room(asked).await;
                line.said = conversation
                    .say(&asked.cancelled, |end| end.respond(&asked.id, output))
                    .then_some(Cow::Borrowed("OK"));
                return;
            }
            Ok(Begun::Streaming(outputs)) => {
                match stream(conversation, asked, outputs, leaving).await {
                    Streamed::Completed => {
                        line.said = Some(Cow::Borrowed("OK"));
                        return;
                    }
                    Streamed::Unwanted => return,
                    Streamed::Failed(error) => error,
                }
            }
            Err(error) => error,
        };
        let told = conversation.say(&asked.cancelled, |end| end.fail(&asked.id, &failed));
        line.said = told.then(|| failed.code().as_str().to_owned().into());
    }

    async fn begin<'a>(
        &'a self,
        conversation: &Arc<Conversation>,
        asked: &Asked,
        input: Value,
        line: &mut Line<'a>,
    ) -> Result<Begun, CallError> {
        let credentials = self.shown(asked.auth_token.as_ref());
        self.count(&credentials).map_err(rates::too_often)?;
        let operation = asked
            .operation
            .strip_prefix('/')
            .and_then(|name| self.registry.find(name))
            .ok_or_else(|| {
                CallError::not_found(format!(
                    "there is no operation {:?} to call",
                    asked.operation
                ))
            })?;
        line.operation = Some(operation);
        let identity = self.identify(&credentials, &line.request_id).await?;
        line.identity = identity.clone();
        let request = Request {
            input,
            identity,
            remote: self.credentials.remote,
            // A call that has ended cancels its own token, and what is left of this call's goes on.
            cancelled: asked.cancelled.child_token(),
            peer: Some(Arc::new(Behalf {
                conversation: Arc::downgrade(conversation),
                id: asked.id.clone(),
            })),
            ..Request::new(line.request_id.clone())
        };
        let name = operation.name().as_str();
        if operation.kind() != Kind::Subscription {
            let reply = self.registry.invoke(name, request).await?;
            return Ok(Begun::Answered(reply.output));
        }
        let outputs = self.registry.subscribe(name, request).await?;
        let holder = recheck::Holder {
            provider: Arc::clone(&self.provider),
            credentials,
            access: operation.access().clone(),
        };
        let outputs = recheck::while_permitted(outputs, holder, recheck::RECHECK);
        Ok(Begun::Streaming(outputs.boxed()))
    }

    /// Asks anew for each call, so that what was revoked is revoked at once.
    async fn identify(
        &self,
        credentials: &Credentials,
        request_id: &RequestId,
    ) -> Result<Option<Identity>, CallError> {
        let identity = self
            .resolve(credentials)
            .await
            .map_err(|error| match error {
                AuthError::Invalid(message) => CallError::forbidden(message),
                AuthError::TooOften(wait) => rates::too_often(wait),
                AuthError::Unavailable(cause) => {
                    tracing::error!(%request_id, cause, "credentials cannot be checked");
                    CallError::new(
                        INTERNAL.retryable(),
                        "credentials cannot be checked now; try again",
                    )
                }
            })?;
        if identity.is_some() {
            self.known.store(true, Ordering::Relaxed);
        }
        Ok(identity)
    }
}

fn shows_nothing(shown: &Credentials) -> bool {
    shown.bearer.is_none()
        && shown.named.is_empty()
        && shown.peer.is_none()
        && shown.certificate.is_none()
}

/// Waits until the answer can be taken, or nobody wants it.
async fn room(asked: &Asked) {
    tokio::select! {
        () = asked.outbox.room() => {}
        () = asked.cancelled.cancelled() => {}
    }
}

enum Streamed {
    Completed,
    Unwanted,
    Failed(CallError),
}

async fn stream(
    conversation: &Arc<Conversation>,
    asked: &Asked,
    mut outputs: BoxStream<'static, Result<Value, CallError>>,
    leaving: &CancellationToken,
) -> Streamed {
    let Asked { id, cancelled, .. } = asked;
    loop {
        let output = tokio::select! {
            biased;
            () = cancelled.cancelled() => return Streamed::Unwanted,
            () = leaving.cancelled() => {
                conversation.say(cancelled, |end| end.give_up(id));
                return Streamed::Unwanted;
            }
            output = outputs.next() => output,
        };
        let wanted = match output {
            Some(Ok(output)) => {
                room(asked).await;
                conversation.say(cancelled, |end| end.output(id, output))
            }
            Some(Err(error)) => return Streamed::Failed(error),
            None if conversation.say(cancelled, |end| end.complete(id)) => {
                return Streamed::Completed;
            }
            None => false,
        };
        if !wanted {
            return Streamed::Unwanted;
        }
    }
}

/// The other end, as somebody who is called back on behalf of a call of theirs.
struct Behalf {
    conversation: Weak<Conversation>,
    id: CallId,
}

impl Peer for Behalf {
    fn call(
        &self,
        operation: &str,
        input: Value,
    ) -> BoxFuture<'static, Result<Value, ErrorObject>> {
        let (conversation, id) = (self.conversation.upgrade(), self.id.clone());
        let operation = operation.to_owned();
        Box::pin(async move {
            let conversation = conversation.ok_or_else(caller::closed)?;
            Caller::new(conversation)
                .call_on_behalf(Some(id), &operation, input, None)
                .await
        })
    }
}

/// One line of the access log, written when it is dropped: a call that nobody waited for has one
/// too.
struct Line<'a> {
    began: Instant,
    answering: &'a Answering,
    request_id: RequestId,
    operation: Option<&'a Arc<Registered>>,
    identity: Option<Identity>,
    /// The code that was answered.
    said: Option<Cow<'static, str>>,
}

impl<'a> Line<'a> {
    fn begin(answering: &'a Answering, asked: &Asked) -> Self {
        let own = RequestId::from_caller(asked.id.as_str());
        Self {
            began: Instant::now(),
            answering,
            request_id: own.unwrap_or_else(RequestId::generate),
            operation: None,
            identity: None,
            said: None,
        }
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        tracing::info!(
            target: "hostler::access",
            operation = self.operation.map(|operation| operation.name().as_str()),
            code = self.said.as_deref(),
            gone = self.said.is_none().then_some(true),
            ms = (self.began.elapsed().as_secs_f64() * 1e4).round() / 10.0,
            request_id = %self.request_id,
            subject = self.identity.as_ref().map(Identity::subject),
            door = self.answering.door.map(tracing::field::display),
            remote = self.answering.credentials.remote.map(tracing::field::display),
            "call"
        );
    }
}
