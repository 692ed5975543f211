//! One end of a connection: the calls that it made and the calls that it was asked for.
//!
//! The rules, all in this one place:
//!
//! - A call ends once: by its answer, its error, its abort, its time-out, or with its connection.
//!   What comes for it afterwards is ignored.
//! - A call that was made on behalf of another is aborted when that one ends or is aborted, at both
//!   ends and down the tree.
//! - What one call does wrong ends that call. What one stream does wrong ends that stream.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::envelope::{AuthToken, CallId, Envelope, Message};
use crate::error::{CallError, ErrorObject, INTERNAL, INVALID_INPUT, TIMEOUT};

/// How long a call waits for its answer, or a subscription for its first output, unless said.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Names a stream; whoever owns the streams chooses the numbers, and never one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

/// How much one end takes on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndLimits {
    /// Calls of the other end's at one time; further ones are refused and may be tried again.
    /// Default 256.
    pub incoming: usize,
}

impl Default for EndLimits {
    fn default() -> Self {
        Self { incoming: 256 }
    }
}

/// How many answers a call has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    /// One: a query or a mutation.
    One,
    /// Any number, until it is completed: a subscription.
    Many,
}

/// A call that the program wants to make.
#[derive(Clone, Debug)]
pub struct OutgoingCall {
    /// The operation's path, `/hosts/list`.
    pub operation: String,
    /// Its input.
    pub input: Value,
    /// In whose name, when that is not who opened the connection.
    pub auth_token: Option<AuthToken>,
    /// How many answers it has.
    pub answers: Answers,
    /// How long it waits for its answer; usually [`CALL_TIMEOUT`]. A subscription is silent for as
    /// long as nothing happens, so it waits for ever.
    pub timeout: Duration,
    /// The incoming call that this one is a part of, and with which it ends.
    pub on_behalf_of: Option<CallId>,
}

/// What the program has to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Occurrence {
    /// The other end calls. The program answers with [`End::respond`], with [`End::output`] and
    /// [`End::complete`], or with [`End::fail`].
    Called {
        /// Under which id.
        id: CallId,
        /// The operation's path as it came; nothing was checked.
        operation: String,
        /// Its input as it came.
        input: Value,
        /// The token that came with it.
        auth_token: Option<AuthToken>,
    },
    /// Nobody waits for the answer to this call of the other end's any more.
    Cancelled {
        /// Which call.
        id: CallId,
    },
    /// An output of a call that the program made.
    Output {
        /// Which call.
        id: CallId,
        /// The output.
        output: Value,
    },
    /// A call that the program made is over.
    Ended {
        /// Which call.
        id: CallId,
        /// Why, when it is not because it was answered.
        error: Option<ErrorObject>,
    },
}

struct Outgoing {
    stream: StreamId,
    answers: Answers,
    /// Until its answer is there.
    deadline: Option<Instant>,
    on_behalf_of: Option<CallId>,
}

struct Incoming {
    stream: StreamId,
}

/// One end of a connection. See the [module](super).
pub struct End {
    limits: EndLimits,
    outgoing: HashMap<CallId, Outgoing>,
    incoming: HashMap<CallId, Incoming>,
    deadlines: BTreeSet<(Instant, CallId)>,
    transmits: VecDeque<(StreamId, Envelope)>,
    occurrences: VecDeque<Occurrence>,
    closed: bool,
}

impl End {
    /// An end on which nothing has happened.
    pub fn new(limits: EndLimits) -> Self {
        Self {
            limits,
            outgoing: HashMap::new(),
            incoming: HashMap::new(),
            deadlines: BTreeSet::new(),
            transmits: VecDeque::new(),
            occurrences: VecDeque::new(),
            closed: false,
        }
    }

    /// Calls an operation of the other end's, on this stream. What comes of it are
    /// [`Occurrence::Output`]s and one [`Occurrence::Ended`].
    pub fn call(&mut self, now: Instant, stream: StreamId, call: OutgoingCall) -> CallId {
        let id = CallId::generate();
        let orphaned = call
            .on_behalf_of
            .as_ref()
            .is_some_and(|parent| !self.incoming.contains_key(parent));
        if self.closed || orphaned {
            let error = if self.closed { closed() } else { aborted() };
            self.ended(&id, Some(error));
            return id;
        }
        // A time-out beyond the end of time is none.
        let deadline = match call.answers {
            Answers::One => now.checked_add(call.timeout),
            Answers::Many => None,
        };
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id.clone()));
        }
        let outgoing = Outgoing {
            stream,
            answers: call.answers,
            deadline,
            on_behalf_of: call.on_behalf_of,
        };
        self.outgoing.insert(id.clone(), outgoing);
        let requested = Message::Requested {
            operation: call.operation,
            input: call.input,
            auth_token: call.auth_token,
        };
        self.transmit(stream, &id, requested);
        id
    }

    /// Does not wait for a call's answer any more. Nothing further is heard of it.
    pub fn abort(&mut self, id: &CallId) {
        if let Some(outgoing) = self.forget(id) {
            self.transmit(outgoing.stream, id, Message::Aborted);
        }
    }

    /// Answers a call of the other end's that has one answer. `false` when nobody waits for it.
    pub fn respond(&mut self, id: &CallId, output: Value) -> bool {
        self.answer(id, Message::Responded { output })
    }

    /// Sends an output of a subscription. `false` when nobody waits for it.
    pub fn output(&mut self, id: &CallId, output: Value) -> bool {
        let Some(stream) = self.incoming.get(id).map(|incoming| incoming.stream) else {
            return false;
        };
        self.transmit(stream, id, Message::Responded { output });
        true
    }

    /// Says that a subscription has no more outputs. `false` when nobody waits for it.
    pub fn complete(&mut self, id: &CallId) -> bool {
        self.answer(id, Message::Completed)
    }

    /// Says that a call failed. `false` when nobody waits for it.
    pub fn fail(&mut self, id: &CallId, error: &CallError) -> bool {
        self.answer(id, Message::Error(ErrorObject::from(error)))
    }

    /// Says that a call is not carried to its end, because this end goes away.
    pub fn give_up(&mut self, id: &CallId) -> bool {
        self.answer(id, Message::Aborted)
    }

    fn answer(&mut self, id: &CallId, message: Message) -> bool {
        let Some(incoming) = self.incoming.remove(id) else {
            return false;
        };
        self.transmit(incoming.stream, id, message);
        self.abort_children(id);
        true
    }

    /// Takes in what came on a stream.
    pub fn handle_envelope(&mut self, stream: StreamId, envelope: Envelope) {
        if self.closed {
            return;
        }
        let Envelope { id, message } = envelope;
        match message {
            Message::Requested {
                operation,
                input,
                auth_token,
            } => {
                if let Err(refusal) = self.take_on(stream, &id) {
                    self.transmit(stream, &id, Message::Error(refusal));
                    return;
                }
                self.occurrences.push_back(Occurrence::Called {
                    id,
                    operation,
                    input,
                    auth_token,
                });
            }
            Message::Responded { output } => self.responded(id, output),
            Message::Completed => self.answered(&id, None),
            Message::Error(error) => self.answered(&id, Some(error)),
            Message::Aborted if self.incoming.contains_key(&id) => self.cancel(&id),
            Message::Aborted => self.answered(&id, Some(aborted())),
        }
    }

    /// Whether there is room for another call of the other end's, and its id is free.
    fn take_on(&mut self, stream: StreamId, id: &CallId) -> Result<(), ErrorObject> {
        if self.incoming.contains_key(id) {
            // Whatever was answered now would be taken for the answer to either.
            self.cancel(id);
            let told = "this id was in use; both calls are ended";
            return Err(ErrorObject::from(&CallError::new(INVALID_INPUT, told)));
        }
        if self.outgoing.contains_key(id) {
            let told = "this id is in use by a call in the other direction; make up your own";
            return Err(ErrorObject::from(&CallError::new(INVALID_INPUT, told)));
        }
        if self.incoming.len() >= self.limits.incoming {
            let told = "too many calls at one time; wait for some to end";
            let code = INTERNAL.retryable();
            return Err(ErrorObject::from(&CallError::new(code, told)));
        }
        self.incoming.insert(id.clone(), Incoming { stream });
        Ok(())
    }

    fn responded(&mut self, id: CallId, output: Value) {
        let Some(answers) = self.outgoing.get(&id).map(|outgoing| outgoing.answers) else {
            return;
        };
        let over = id.clone();
        self.occurrences
            .push_back(Occurrence::Output { id, output });
        if answers == Answers::One {
            self.answered(&over, None);
        }
    }

    /// A call of ours is over, however it ended.
    fn answered(&mut self, id: &CallId, error: Option<ErrorObject>) {
        if self.forget(id).is_some() {
            self.ended(id, error);
        }
    }

    /// Nobody waits for the answer to this call of the other end's.
    fn cancel(&mut self, id: &CallId) {
        if self.incoming.remove(id).is_some() {
            let id = id.clone();
            self.abort_children(&id);
            self.occurrences.push_back(Occurrence::Cancelled { id });
        }
    }

    /// What was called on behalf of a call that is over is not waited for.
    fn abort_children(&mut self, parent: &CallId) {
        let is_child = |outgoing: &Outgoing| outgoing.on_behalf_of.as_ref() == Some(parent);
        let children = self.outgoing.iter().filter(|(_, call)| is_child(call));
        let children: Vec<CallId> = children.map(|(id, _)| id.clone()).collect();
        for id in children {
            self.abort(&id);
            self.ended(&id, Some(aborted()));
        }
    }

    /// A stream broke, or was broken off because what came on it was no frame. The calls that were
    /// made on it end, in both directions.
    pub fn handle_stream_lost(&mut self, stream: StreamId) {
        self.transmits.retain(|(on, _)| *on != stream);
        let cancelled = self
            .incoming
            .iter()
            .filter(|(_, call)| call.stream == stream);
        for id in cancelled.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.cancel(&id);
        }
        let lost = self
            .outgoing
            .iter()
            .filter(|(_, call)| call.stream == stream);
        for id in lost.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.answered(&id, Some(internal("stream closed")));
        }
        // Children of what was cancelled may have been aborted on the stream that is lost.
        self.transmits.retain(|(on, _)| *on != stream);
    }

    /// The connection is lost, and with it every call.
    pub fn handle_closed(&mut self) {
        self.closed = true;
        for id in self.outgoing.keys().cloned().collect::<Vec<_>>() {
            self.answered(&id, Some(closed()));
        }
        for id in self.incoming.keys().cloned().collect::<Vec<_>>() {
            self.cancel(&id);
        }
        self.transmits.clear();
    }

    /// Ends what has waited too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((deadline, id)) = self.deadlines.first().cloned() {
            if deadline > now {
                break;
            }
            self.abort(&id);
            let error = CallError::new(TIMEOUT, "no answer in time; try again");
            self.ended(&id, Some(ErrorObject::from(&error)));
        }
    }

    /// The next envelope to send, and on which stream.
    pub fn poll_transmit(&mut self) -> Option<(StreamId, Envelope)> {
        self.transmits.pop_front()
    }

    /// The next thing that the program has to know.
    pub fn poll_occurrence(&mut self) -> Option<Occurrence> {
        self.occurrences.pop_front()
    }

    /// When [`End::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// How many calls are under way: ours, and the other end's.
    pub fn open_calls(&self) -> (usize, usize) {
        (self.outgoing.len(), self.incoming.len())
    }

    fn transmit(&mut self, stream: StreamId, id: &CallId, message: Message) {
        let id = id.clone();
        self.transmits.push_back((stream, Envelope { id, message }));
    }

    fn ended(&mut self, id: &CallId, error: Option<ErrorObject>) {
        let id = id.clone();
        self.occurrences.push_back(Occurrence::Ended { id, error });
    }

    fn forget(&mut self, id: &CallId) -> Option<Outgoing> {
        let outgoing = self.outgoing.remove(id)?;
        if let Some(deadline) = outgoing.deadline {
            self.deadlines.remove(&(deadline, id.clone()));
        }
        Some(outgoing)
    }
}

fn internal(message: &str) -> ErrorObject {
    ErrorObject::from(&CallError::new(INTERNAL, message))
}

fn closed() -> ErrorObject {
    internal("connection closed")
}

fn aborted() -> ErrorObject {
    internal("aborted")
}
