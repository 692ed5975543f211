//! Two ends that call each other over one link.
//!
//! The state is one [`End`] behind a lock that nobody holds while they wait. Whoever has something
//! for it (a stream that read a frame, a handler that answers, a program that calls, the clock)
//! takes the lock, tells it, and settles what it says: what to send goes into the outbox of its
//! stream, what the program has to know goes to whoever waits for it.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use hostler_operations::protocol::{
    AuthToken, CallId, End, EndLimits, Envelope, Message, Occurrence, OutgoingCall, StreamId,
};
use hostler_operations::{CallError, ErrorObject, INTERNAL, INVALID_INPUT};
use quinn::{ConnectionError, RecvStream, SendStream};
use serde_json::Value;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answering::{Answering, Asked};
use super::budget::FrameBudget;
use super::datagrams;
use super::link::{Datagrams, Link, Reason, Streams};
use super::outbox::{Entered, Kind, Outbox};
use super::stream::{self, Opened};

/// How long the other end has to take the last of what was said.
const DELIVERY: Duration = Duration::from_secs(1);

/// When nothing is due.
const A_WHILE: Duration = Duration::from_secs(3600);

/// What a conversation may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Calls of the other end's at one time.
    pub(crate) calls: usize,
    /// From the beginning of a frame to its end.
    pub(crate) frame_time: Duration,
    /// For a piece of what is written to be taken.
    pub(crate) write_time: Duration,
    /// How long somebody of whom nothing is known may be connected without a call.
    pub(crate) idle_time: Duration,
}

/// See the [module](self).
pub(crate) struct Conversation {
    link: Link,
    answering: Option<Answering>,
    limits: Limits,
    /// Shared with other conversations.
    frames: FrameBudget,
    /// One permit for each handler that runs, also when nobody waits for it any more.
    handlers: Arc<Semaphore>,
    state: Mutex<State>,
    calls: tokio::sync::Mutex<Option<Opening>>,
    /// Something is due sooner than was known, or the last call has ended.
    changed: Notify,
    /// The conversation takes leave: streams of outputs end.
    leaving: CancellationToken,
    /// It is over.
    gone: CancellationToken,
    streams: TaskTracker,
}

struct State {
    end: End,
    outboxes: HashMap<StreamId, Arc<Outbox>>,
    serving: HashMap<CallId, Serving>,
    waiting: HashMap<CallId, Waiting>,
    /// When the clock is looked at next.
    armed: Option<Instant>,
    /// A call was under way when this was looked at last.
    busy: bool,
    quiet_since: Instant,
}

/// A stream that this end opened, and what waits to be written on it.
pub(super) type Opening = (StreamId, Arc<Outbox>);

/// A call of the other end's.
struct Serving {
    cancelled: CancellationToken,
    _on_its_stream: Entered,
}

/// Who waits for what comes of a call.
pub(super) enum Waiting {
    One(oneshot::Sender<Result<Value, ErrorObject>>),
    Many {
        outputs: mpsc::Sender<Value>,
        /// Why there are no more, when that is not because there are none.
        failed: Arc<OnceLock<ErrorObject>>,
    },
}

/// Outputs for those who may not have room for them: whoever read them waits.
type Deliveries = Vec<(mpsc::Sender<Value>, Value)>;

impl Conversation {
    pub(crate) fn new(
        link: Link,
        answering: Option<Answering>,
        limits: Limits,
        frames: FrameBudget,
    ) -> Arc<Self> {
        let mut end_limits = EndLimits::default();
        end_limits.incoming = limits.calls;
        Arc::new(Self {
            link,
            answering,
            limits,
            frames,
            handlers: Arc::new(Semaphore::new(limits.calls)),
            state: Mutex::new(State {
                end: End::new(end_limits),
                outboxes: HashMap::new(),
                serving: HashMap::new(),
                waiting: HashMap::new(),
                armed: None,
                busy: false,
                quiet_since: Instant::now(),
            }),
            calls: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            leaving: CancellationToken::new(),
            gone: CancellationToken::new(),
            streams: TaskTracker::new(),
        })
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn frames(&self) -> &FrameBudget {
        &self.frames
    }

    /// Whether it is known who the other end is. Whom this end called, it knows.
    pub(super) fn is_known(&self) -> bool {
        !self
            .answering
            .as_ref()
            .is_some_and(Answering::is_to_a_stranger)
    }

    /// Resolves when the conversation is over.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Carries the conversation to its end: the other end's, or `leave`. Dropping the future cuts
    /// it.
    pub(crate) async fn carry(
        self: &Arc<Self>,
        mut streams: Streams,
        datagrams: Datagrams,
        leave: impl Future<Output = ()>,
    ) {
        let _over = Over(self);
        let mut leave = pin!(leave);
        let mut unproven = pin!(self.unproven());
        self.adopt_datagrams(datagrams);
        let mut closed = pin!(self.link.closed());
        loop {
            let due = self.look();
            tokio::select! {
                opened = streams.next() => match opened {
                    Some(opened) => {
                        self.adopt(opened, Opened::There);
                    }
                    None => return,
                },
                () = self.changed.notified() => {}
                () = unproven.as_mut() => {
                    tracing::debug!("nobody said who is there, or what was said is not true");
                    self.link.close(Reason::Unproven);
                    return;
                }
                () = tokio::time::sleep_until(due.into()) => {}
                () = closed.as_mut() => return,
                () = leave.as_mut(), if !self.leaving.is_cancelled() => self.leaving.cancel(),
            }
            let state = self.state();
            if self.leaving.is_cancelled() && state.serving.is_empty() {
                break;
            }
            if !self.is_known()
                && Self::quiet(&state).is_some_and(|since| since.elapsed() >= self.limits.idle_time)
            {
                tracing::debug!("a conversation in which nobody called is ended");
                break;
            }
        }
        // The last answers are still to be taken.
        for outbox in self.state().outboxes.values() {
            outbox.finish();
        }
        self.streams.close();
        tokio::select! {
            _ = tokio::time::timeout(DELIVERY, self.streams.wait()) => {}
            () = closed => {}
        }
    }

    /// Ends what is overdue, and says when to look again.
    fn look(self: &Arc<Self>) -> Instant {
        let now = Instant::now();
        let mut state = self.state();
        if state.end.poll_timeout().is_some_and(|due| due <= now) {
            state.end.handle_timeout(now);
            // A time-out brings no output.
            let _none = self.settle(&mut state, None);
        }
        let idle = Self::quiet(&state).and_then(|since| since.checked_add(self.limits.idle_time));
        let due = state.end.poll_timeout();
        state.armed = due;
        let due = due.into_iter().chain(idle.filter(|idle| *idle > now)).min();
        due.unwrap_or(now + A_WHILE)
    }

    /// Since when no call is under way.
    fn quiet(state: &State) -> Option<Instant> {
        (state.end.open_calls() == (0, 0)).then_some(state.quiet_since)
    }

    /// Takes a stream on.
    fn adopt(
        self: &Arc<Self>,
        halves: (SendStream, RecvStream),
        opened: Opened,
    ) -> (StreamId, Arc<Outbox>) {
        let id = StreamId(halves.0.id().into());
        let outbox = Arc::new(Outbox::default());
        self.state().outboxes.insert(id, Arc::clone(&outbox));
        let (conversation, written) = (Arc::clone(self), Arc::clone(&outbox));
        self.streams.spawn(async move {
            stream::carry(&conversation, id, &written, halves, opened).await;
        });
        (id, outbox)
    }

    /// The stream on which calls of one's own go out together.
    pub(super) async fn stream_for_calls(self: &Arc<Self>) -> Result<Opening, ConnectionError> {
        let mut calls = self.calls.lock().await;
        match &*calls {
            Some(opening) if opening.1.is_open() => Ok(opening.clone()),
            _ => Ok(calls.insert(self.open().await?).clone()),
        }
    }

    /// Takes the datagrams on.
    fn adopt_datagrams(self: &Arc<Self>, datagrams: Datagrams) {
        let outbox = Arc::new(Outbox::default());
        let (id, written) = (datagrams::ID, Arc::clone(&outbox));
        self.state().outboxes.insert(id, outbox);
        let conversation = Arc::clone(self);
        self.streams.spawn(async move {
            tokio::select! {
                () = datagrams::carry(&conversation, &written, datagrams) => {}
                () = conversation.gone.cancelled() => {}
            }
        });
    }

    /// Resolves when the other end may call, and be called.
    pub(super) async fn admitted(&self) {
        if let Some(answering) = &self.answering {
            answering.admitted().await;
        }
    }

    /// Resolves when it is certain that the other end does not say who it is.
    async fn unproven(&self) {
        match &self.answering {
            Some(answering) => answering.unproven().await,
            None => std::future::pending().await,
        }
    }

    /// Opens a stream of its own for a call.
    pub(super) async fn open(self: &Arc<Self>) -> Result<Opening, ConnectionError> {
        let halves = self.link.open().await?;
        Ok(self.adopt(halves, Opened::Here))
    }

    /// A stream is over.
    pub(super) fn forget_stream(&self, id: StreamId) {
        self.state().outboxes.remove(&id);
    }

    /// A stream broke.
    pub(super) fn stream_lost(self: &Arc<Self>, id: StreamId) {
        let mut state = self.state();
        state.end.handle_stream_lost(id);
        let _none = self.settle(&mut state, None);
    }

    /// Something came on a stream; `held` is the memory that it reserved. `false` when the other end
    /// must first say who it is, and this did not.
    pub(super) async fn came(
        self: &Arc<Self>,
        stream: StreamId,
        envelope: Envelope,
        held: Option<OwnedSemaphorePermit>,
    ) -> bool {
        if let Some(answering) = &self.answering
            && !answering.admit(&envelope).await
        {
            return false;
        }
        let deliveries = {
            let mut state = self.state();
            state.end.handle_envelope(stream, envelope);
            self.settle(&mut state, Some((stream, held)))
        };
        for (outputs, output) in deliveries {
            // A subscriber who left wants nothing more.
            let _ = outputs.send(output).await;
        }
        true
    }

    /// Calls. What comes of it comes to `waiting`.
    pub(super) fn call(
        self: &Arc<Self>,
        stream: StreamId,
        call: OutgoingCall,
        waiting: Waiting,
    ) -> CallId {
        let mut state = self.state();
        let id = state.end.call(Instant::now(), stream, call);
        state.waiting.insert(id.clone(), waiting);
        let _none = self.settle(&mut state, None);
        if state.end.poll_timeout() != state.armed {
            self.changed.notify_one();
        }
        id
    }

    /// Does not wait for a call any more; harmless when it is over.
    pub(super) fn abort(self: &Arc<Self>, id: &CallId) {
        let mut state = self.state();
        state.waiting.remove(id);
        state.end.abort(id);
        let _none = self.settle(&mut state, None);
    }

    /// Says something for a call that is being served, unless nobody waits for it any more. An id
    /// may have been used again since: the token tells the calls apart.
    pub(super) fn say(
        self: &Arc<Self>,
        cancelled: &CancellationToken,
        say: impl FnOnce(&mut End) -> bool,
    ) -> bool {
        let mut state = self.state();
        if cancelled.is_cancelled() || !say(&mut state.end) {
            return false;
        }
        let _none = self.settle(&mut state, None);
        true
    }

    /// What is to be written is larger than a frame may be. The call fails at whichever end it is
    /// waited for, and what is returned is written instead.
    pub(super) fn too_large(
        self: &Arc<Self>,
        stream: StreamId,
        envelope: Envelope,
    ) -> Option<Envelope> {
        let Envelope { id, message } = envelope;
        let mut state = self.state();
        let (instead, happened) = match message {
            Message::Requested { .. } => {
                let told = "the input is larger than a frame may be; send less";
                let error = ErrorObject::from(&CallError::new(INVALID_INPUT, told));
                (None, Message::Error(error))
            }
            _ => {
                let told = "the answer is larger than a frame may be; ask for less";
                let error = ErrorObject::from(&CallError::new(INTERNAL, told));
                (Some(Message::Error(error)), Message::Aborted)
            }
        };
        let happened = Envelope {
            id: id.clone(),
            message: happened,
        };
        state.end.handle_envelope(stream, happened);
        let _none = self.settle(&mut state, None);
        instead.map(|message| Envelope { id, message })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what the end says, after something came on a stream or for another reason.
    fn settle(
        self: &Arc<Self>,
        state: &mut State,
        mut came: Option<(StreamId, Option<OwnedSemaphorePermit>)>,
    ) -> Deliveries {
        let mut deliveries = Vec::new();
        while let Some(occurrence) = state.end.poll_occurrence() {
            match occurrence {
                Occurrence::Called {
                    id,
                    operation,
                    input,
                    auth_token,
                } => {
                    // Calls only come on streams.
                    let Some((stream, held)) = came.as_mut() else {
                        continue;
                    };
                    let request = Requested {
                        operation,
                        input,
                        auth_token,
                        held: held.take(),
                    };
                    if let Err(refusal) = self.serve(state, *stream, &id, request) {
                        state.end.fail(&id, &refusal);
                    }
                }
                Occurrence::Cancelled { id } => {
                    if let Some(serving) = state.serving.remove(&id) {
                        serving.cancelled.cancel();
                    }
                }
                Occurrence::Output { id, output } => match state.waiting.remove(&id) {
                    Some(Waiting::One(waiting)) => {
                        // Whoever does not wait any more has said so, or is about to.
                        let _ = waiting.send(Ok(output));
                    }
                    Some(Waiting::Many { outputs, failed }) => {
                        deliveries.push((outputs.clone(), output));
                        state.waiting.insert(id, Waiting::Many { outputs, failed });
                    }
                    None => {}
                },
                Occurrence::Ended { id, error } => match state.waiting.remove(&id) {
                    Some(Waiting::One(waiting)) => {
                        let _ = waiting.send(Err(error.unwrap_or_else(no_answer)));
                    }
                    Some(Waiting::Many { failed, .. }) => {
                        if let Some(error) = error {
                            // A call ends once.
                            let _ = failed.set(error);
                        }
                    }
                    None => {}
                },
            }
        }
        let kind = match came {
            Some(_) => Kind::Reply,
            None => Kind::Said,
        };
        while let Some((stream, envelope)) = state.end.poll_transmit() {
            if let Some(outbox) = state.outboxes.get(&stream) {
                outbox.put(envelope, kind);
            }
        }
        // What is said of no call does not keep anybody here.
        let was_busy = std::mem::replace(&mut state.busy, state.end.open_calls() != (0, 0));
        if was_busy || state.busy {
            state.quiet_since = Instant::now();
        }
        if state.serving.is_empty() && self.leaving.is_cancelled() {
            self.changed.notify_one();
        }
        deliveries
    }

    /// Begins to serve a call.
    fn serve(
        self: &Arc<Self>,
        state: &mut State,
        stream: StreamId,
        id: &CallId,
        request: Requested,
    ) -> Result<(), CallError> {
        let unknown = || {
            CallError::not_found(format!(
                "there is no operation {:?} to call",
                request.operation
            ))
        };
        if self.answering.is_none() {
            return Err(unknown());
        }
        if self.leaving.is_cancelled() {
            let told = "this end is about to leave; call again on a new connection";
            return Err(CallError::new(INTERNAL.retryable(), told));
        }
        let handlers = Arc::clone(&self.handlers).try_acquire_owned();
        let handler = handlers.map_err(|_| {
            CallError::new(
                INTERNAL.retryable(),
                "too many calls at one time; wait for some to end",
            )
        })?;
        let outbox = state.outboxes.get(&stream);
        let outbox = Arc::clone(outbox.ok_or_else(|| CallError::internal("a stream is gone"))?);
        let cancelled = CancellationToken::new();
        let serving = Serving {
            cancelled: cancelled.clone(),
            _on_its_stream: outbox.enter(),
        };
        // Its id is free again once a call was answered, which may be before its task has ended: that
        // one must see that what is served under the id now is not its own.
        if let Some(answered) = state.serving.insert(id.clone(), serving) {
            answered.cancelled.cancel();
        }
        let (conversation, id) = (Arc::clone(self), id.clone());
        self.streams.spawn(async move {
            let Requested {
                operation,
                input,
                auth_token,
                held,
            } = request;
            let mut asked = Asked {
                id,
                operation,
                input,
                auth_token,
                cancelled,
                outbox,
            };
            tokio::select! {
                () = conversation.answer(&mut asked) => {}
                () = conversation.gone.cancelled() => {}
            }
            drop((handler, held));
        });
        Ok(())
    }

    async fn answer(self: &Arc<Self>, asked: &mut Asked) {
        if let Some(answering) = &self.answering {
            answering.answer(self, asked, &self.leaving).await;
        }
        let mut state = self.state();
        if !asked.cancelled.is_cancelled() {
            state.serving.remove(&asked.id);
        }
        if state.serving.is_empty() {
            self.changed.notify_one();
        }
    }
}

/// What the other end asks for.
struct Requested {
    operation: String,
    input: Value,
    auth_token: Option<AuthToken>,
    held: Option<OwnedSemaphorePermit>,
}

/// When it is dropped, a conversation is over, and everybody in it learns of it.
struct Over<'c>(&'c Arc<Conversation>);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        let Self(conversation) = self;
        let mut state = conversation.state();
        state.end.handle_closed();
        let _none = conversation.settle(&mut state, None);
        for outbox in state.outboxes.values() {
            outbox.lose();
        }
        drop(state);
        conversation.gone.cancel();
        conversation.link.close(Reason::Done);
    }
}

fn no_answer() -> ErrorObject {
    ErrorObject::from(&CallError::new(
        INTERNAL,
        "the call ended without an answer",
    ))
}
