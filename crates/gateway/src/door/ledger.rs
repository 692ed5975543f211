//! When a connection's time is up.
//!
//! A ledger is told what happens on a connection (a request begins, its answer begins, it is
//! done; bytes come in; the socket takes no more) and says whether something is overdue, and if
//! not, when to look again. It has no clock and no socket: times are passed in.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long each thing may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For a request's head. `None` where its beginning cannot be told from other bytes: on HTTP/2
    /// a ping is read like anything else, and the time for idleness has to do.
    pub(super) head: Option<Duration>,
    pub(super) write: Duration,
    pub(super) idle: Duration,
}

/// What took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// No request for a while; the connection can be closed politely.
    Idle,
    /// A request's head began and does not end.
    Head,
    /// An answer is not taken.
    Write,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Ledger {
    patience: Patience,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: u64,
    open: usize,
    /// The answers that are being written, with the time of their beginning, or of the last piece
    /// that was asked for when they are streams.
    writing: Vec<(u64, Instant)>,
    idle_since: Instant,
    head_since: Option<Instant>,
    stuck_since: Option<Instant>,
}

impl State {
    fn begin(&mut self) -> u64 {
        self.open += 1;
        self.head_since = None;
        self.next += 1;
        self.next
    }
}

impl Ledger {
    pub(super) fn new(patience: Patience, now: Instant) -> Self {
        let state = State {
            next: 0,
            open: 0,
            writing: Vec::new(),
            idle_since: now,
            head_since: None,
            stuck_since: None,
        };
        Self {
            patience,
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has arrived. The number names it from now on.
    pub(super) fn begin(&self) -> u64 {
        self.state().begin()
    }

    /// A request has arrived, and its answer begins at once.
    pub(super) fn begin_to_write(&self, now: Instant) -> u64 {
        let mut state = self.state();
        let request = state.begin();
        state.writing.push((request, now));
        request
    }

    /// Requests have arrived. Those that are not done have [begun](Self::begin), or wait for their turn.
    pub(super) fn served(&self, now: Instant) {
        let mut state = self.state();
        (state.head_since, state.idle_since) = (None, now);
    }

    /// Its answer begins, or another piece of its stream was asked for.
    pub(super) fn write(&self, request: u64, now: Instant) {
        let mut state = self.state();
        match state
            .writing
            .iter_mut()
            .find(|(known, _)| *known == request)
        {
            Some((_, since)) => *since = now,
            None => state.writing.push((request, now)),
        }
    }

    /// It is done, or given up.
    pub(super) fn end(&self, request: u64, now: Instant) {
        let mut state = self.state();
        state.open -= 1;
        state.writing.retain(|(known, _)| *known != request);
        state.idle_since = now;
    }

    /// Bytes came in; between requests they are the beginning of a head.
    pub(super) fn read(&self, now: Instant) {
        if self.patience.head.is_none() {
            return;
        }
        let mut state = self.state();
        if state.open == 0 && state.head_since.is_none() {
            state.head_since = Some(now);
        }
    }

    /// Whether the socket takes bytes.
    pub(super) fn stuck(&self, stuck: bool, now: impl FnOnce() -> Instant) {
        let mut state = self.state();
        if stuck != state.stuck_since.is_some() {
            state.stuck_since = stuck.then(now);
        }
    }

    /// What is overdue, or else when to look again.
    pub(super) fn check(&self, now: Instant) -> Result<Instant, Overdue> {
        let Patience { head, write, idle } = self.patience;
        let state = self.state();
        let writing = state
            .writing
            .iter()
            .map(|(_, since)| *since)
            .chain(state.stuck_since)
            .min();
        let writing = writing.map(|since| (since + write, Overdue::Write));
        let waiting = match state.head_since.zip(head) {
            Some((since, head)) => Some((since + head, Overdue::Head)),
            None => (state.open == 0).then_some((state.idle_since + idle, Overdue::Idle)),
        };
        // What begins right after this look is due no sooner than this.
        let mut look_again = now + head.unwrap_or(idle).min(write).min(idle);
        for (due, overdue) in writing.into_iter().chain(waiting) {
            if due <= now {
                return Err(overdue);
            }
            look_again = look_again.min(due);
        }
        Ok(look_again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn ledger() -> (Ledger, Instant) {
        let patience = Patience {
            head: Some(30 * SECOND),
            write: 60 * SECOND,
            idle: 120 * SECOND,
        };
        let start = Instant::now();
        (Ledger::new(patience, start), start)
    }

    #[test]
    fn a_connection_without_a_request_is_idle_after_its_time() {
        let (ledger, start) = ledger();
        assert!(ledger.check(start + 119 * SECOND).is_ok());
        assert_eq!(ledger.check(start + 120 * SECOND), Err(Overdue::Idle));
        let request = ledger.begin();
        assert!(
            ledger.check(start + 500 * SECOND).is_ok(),
            "a request under way is not idle"
        );
        ledger.end(request, start + 500 * SECOND);
        assert!(ledger.check(start + 619 * SECOND).is_ok());
        assert_eq!(ledger.check(start + 620 * SECOND), Err(Overdue::Idle));
    }

    #[test]
    fn a_head_that_trickles_in_is_overdue() {
        let (ledger, start) = ledger();
        ledger.read(start + 10 * SECOND);
        ledger.read(start + 39 * SECOND);
        assert_eq!(ledger.check(start + 40 * SECOND), Err(Overdue::Head));
        let request = ledger.begin();
        ledger.read(start + 41 * SECOND);
        assert!(
            ledger.check(start + 100 * SECOND).is_ok(),
            "a body is not a head"
        );
        ledger.end(request, start + 100 * SECOND);
    }

    #[test]
    fn an_answer_that_is_not_taken_is_overdue_and_a_stream_that_is_asked_for_is_not() {
        let (ledger, start) = ledger();
        let (answer, stream) = (ledger.begin(), ledger.begin_to_write(start));
        ledger.write(stream, start + 50 * SECOND);
        ledger.write(answer, start + 30 * SECOND);
        assert!(ledger.check(start + 89 * SECOND).is_ok());
        assert_eq!(ledger.check(start + 90 * SECOND), Err(Overdue::Write));
        ledger.end(answer, start + 90 * SECOND);
        assert!(ledger.check(start + 109 * SECOND).is_ok());
        assert_eq!(ledger.check(start + 110 * SECOND), Err(Overdue::Write));
    }

    #[test]
    fn a_socket_that_takes_nothing_is_overdue() {
        let (ledger, start) = ledger();
        ledger.stuck(true, || start);
        ledger.stuck(true, || start + 30 * SECOND);
        assert_eq!(ledger.check(start + 60 * SECOND), Err(Overdue::Write));
        ledger.stuck(false, || start);
        assert!(ledger.check(start + 60 * SECOND).is_ok());
    }

    #[test]
    fn nothing_that_begins_after_a_look_is_overdue_before_the_next() {
        let (ledger, start) = ledger();
        let next = ledger.check(start).expect("nothing is overdue");
        assert_eq!(next, start + 30 * SECOND);
        ledger.read(start + SECOND);
        assert_eq!(ledger.check(next), Ok(start + 31 * SECOND));
    }
}
