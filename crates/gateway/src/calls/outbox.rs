//! What waits to be written on one stream, and who waits until there is room.
//!
//! Answers wait for room before they are put in, so a peer that reads nothing stops the calls that
//! it made and costs no more than is in here. What has to be said at once (a refusal) does not
//! wait; too much of it makes the reader of the stream wait instead, so that a peer who asks and
//! never listens is not heard any further either.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostler_operations::protocol::{Envelope, Message};
use serde_json::Value;
use tokio::sync::Notify;

/// How many bytes wait on one stream before what follows has to wait for room.
const ROOM: usize = 64 << 10;

/// The memory that an envelope takes beside its values, in bytes.
const ENVELOPE_BYTES: usize = 128;

/// How an envelope came to be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A call or an answer, which waited for room.
    Said,
    /// What had to be said to something that came.
    Reply,
}

#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    /// For the writer: there is something to do.
    filled: Notify,
    /// For those who wait for room.
    emptied: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Bytes of what waits or is being written.
    said: usize,
    replies: usize,
    /// Calls of the other end's on this stream that have not ended.
    calls: usize,
    /// The other end says nothing more on this stream, and it was the one who opened it.
    heard_out: bool,
    /// Nothing more will be said.
    finished: bool,
    /// Nobody reads what is put in.
    lost: bool,
}

/// An envelope with its weight, in bytes.
struct Waiting {
    envelope: Envelope,
    weight: usize,
    kind: Kind,
}

/// What the writer took out, to be given back when it is written.
#[derive(Clone, Copy, Default)]
pub(super) struct Taken {
    said: usize,
    replies: usize,
}

/// What the writer does next.
pub(super) enum Next {
    /// It writes these.
    Write(Vec<Envelope>, Taken),
    /// It finishes the stream.
    Finish,
}

impl Outbox {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, envelope: Envelope, kind: Kind) {
        let weight = weight(&envelope);
        let mut state = self.state();
        if state.lost {
            return;
        }
        match kind {
            Kind::Said => state.said += weight,
            Kind::Reply => state.replies += weight,
        }
        state.waiting.push_back(Waiting {
            envelope,
            weight,
            kind,
        });
        drop(state);
        self.filled.notify_one();
    }

    /// Waits until something may be said.
    pub(super) async fn room(&self) {
        self.until(|state| state.said < ROOM).await;
    }

    /// Waits until the other end has taken enough of what it had to be told.
    pub(super) async fn listened(&self) {
        self.until(|state| state.replies < ROOM).await;
    }

    async fn until(&self, fits: impl Fn(&State) -> bool) {
        loop {
            let emptied = self.emptied.notified();
            {
                let state = self.state();
                if state.lost || fits(&state) {
                    return;
                }
            }
            emptied.await;
        }
    }

    /// What to do next, when there is something: as many envelopes as make up a decent write.
    pub(super) async fn next(&self) -> Next {
        loop {
            let filled = self.filled.notified();
            {
                let mut state = self.state();
                let mut envelopes = Vec::new();
                let mut taken = Taken::default();
                while taken.said + taken.replies < ROOM
                    && let Some(waiting) = state.waiting.pop_front()
                {
                    match waiting.kind {
                        Kind::Said => taken.said += waiting.weight,
                        Kind::Reply => taken.replies += waiting.weight,
                    }
                    envelopes.push(waiting.envelope);
                }
                if !envelopes.is_empty() {
                    return Next::Write(envelopes, taken);
                }
                if state.finished || state.heard_out && state.calls == 0 {
                    return Next::Finish;
                }
            }
            filled.await;
        }
    }

    /// These are on their way.
    pub(super) fn written(&self, taken: Taken) {
        let mut state = self.state();
        state.said -= taken.said;
        state.replies -= taken.replies;
        drop(state);
        self.emptied.notify_waiters();
    }

    /// Counts a call of the other end's until what is returned is dropped.
    pub(super) fn enter(self: &Arc<Self>) -> Entered {
        self.state().calls += 1;
        Entered(Arc::clone(self))
    }

    /// The other end has said all that it will, on a stream that it opened: once its calls are
    /// answered there is nothing left to say.
    pub(super) fn heard_out(&self) {
        self.state().heard_out = true;
        self.filled.notify_one();
    }

    /// What is in here is the last.
    pub(super) fn finish(&self) {
        self.state().finished = true;
        self.filled.notify_one();
    }

    /// The stream is gone, and nobody needs to wait for it.
    pub(super) fn lose(&self) {
        let mut state = self.state();
        state.lost = true;
        state.waiting.clear();
        drop(state);
        self.emptied.notify_waiters();
    }

    /// Whether what is put in is still written.
    pub(super) fn is_open(&self) -> bool {
        let state = self.state();
        !state.lost && !state.finished
    }
}

/// A call that was made on a stream.
pub(super) struct Entered(Arc<Outbox>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.state().calls -= 1;
        self.0.filled.notify_one();
    }
}

/// About how much memory an envelope takes, in bytes.
fn weight(envelope: &Envelope) -> usize {
    let said = match &envelope.message {
        Message::Requested { input, .. } => weight_of(input),
        Message::Responded { output } => weight_of(output),
        Message::Error(error) => error.message.len() + error.details.as_ref().map_or(0, weight_of),
        Message::Completed | Message::Aborted => 0,
    };
    ENVELOPE_BYTES + said
}

fn weight_of(value: &Value) -> usize {
    let within = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(weight_of).sum(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| name.len() + weight_of(value))
            .sum(),
    };
    size_of::<Value>() + within
}
