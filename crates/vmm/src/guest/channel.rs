//! What belongs to one number in a conversation: replies in order, and room for what we say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::errors::GuestProblem;
use super::protocol::{CHUNK, Reply, Request, Size, WINDOW, cost};
use super::wire::Shared;

/// Output that was taken is given back to the guest in amounts of this size.
const GIVE_BACK_AT: u32 = WINDOW / 4;

/// The replies to one request.
pub(super) struct Channel {
    id: u64,
    replies: mpsc::Receiver<Reply>,
    room: Arc<Room>,
    shared: Arc<Shared>,
    /// Output that was taken and not given back yet.
    owed: u32,
    kills: bool,
}

impl Channel {
    pub(super) fn new(
        id: u64,
        replies: mpsc::Receiver<Reply>,
        room: Arc<Room>,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            id,
            replies,
            room,
            shared,
            owed: 0,
            kills: false,
        }
    }

    /// The command that this is about does not outlive the channel.
    pub(super) fn kill_at_the_end(&mut self) {
        self.kills = true;
    }

    /// It has ended, so nothing is to be killed.
    pub(super) fn has_ended(&mut self) {
        self.kills = false;
    }

    /// The next reply; `None` once none can come any more. Nothing is lost when the caller stops
    /// waiting.
    pub(super) async fn next(&mut self) -> Option<Reply> {
        if self.owed >= GIVE_BACK_AT {
            self.shared.give_back(self.id, self.owed).await.ok()?;
            self.owed = 0;
        }
        let reply = self.replies.recv().await?;
        if let Reply::Out(data) | Reply::Err(data) = &reply {
            self.owed += cost(data.len());
        }
        Some(reply)
    }

    /// For those who speak to the command.
    pub(super) fn speaker(&self) -> Speaker {
        Speaker {
            id: self.id,
            room: Arc::clone(&self.room),
            shared: Arc::clone(&self.shared),
            turn: tokio::sync::Mutex::new(()),
        }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.shared.forget(self.id);
        if self.kills {
            self.shared.say_later(self.id, Request::Kill);
        }
    }
}

/// How much the guest still takes for one command.
#[derive(Debug)]
pub(super) struct Room {
    left: Semaphore,
    /// What was sent and not given back.
    sent: AtomicU32,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            left: Semaphore::new(WINDOW as usize),
            sent: AtomicU32::new(0),
        }
    }
}

impl Room {
    /// Waits for room for so much.
    async fn take(&self, bytes: u32) {
        // It is never closed.
        if let Ok(taken) = self.left.acquire_many(bytes).await {
            taken.forget();
            self.sent.fetch_add(bytes, Ordering::AcqRel);
        }
    }

    /// The guest gives so much back; false when it never had that.
    pub(super) fn returned(&self, bytes: u32) -> bool {
        let had = self
            .sent
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |sent| {
                sent.checked_sub(bytes)
            });
        if had.is_ok() {
            self.left.add_permits(bytes as usize);
        }
        had.is_ok() && bytes > 0
    }
}

/// Speaks to a command that runs.
pub(super) struct Speaker {
    id: u64,
    room: Arc<Room>,
    shared: Arc<Shared>,
    /// Input of two callers is not mixed.
    turn: tokio::sync::Mutex<()>,
}

impl Speaker {
    /// Gives a command something to read. A command that does not read for so long has taken only
    /// what it has: nothing of it when that was the first piece.
    pub(super) async fn input(&self, data: &[u8], patience: Duration) -> Result<(), GuestProblem> {
        let _turn = timeout(patience, self.turn.lock())
            .await
            .map_err(|_| GuestProblem::NotReading)?;
        for piece in data.chunks(CHUNK) {
            timeout(patience, self.room.take(cost(piece.len())))
                .await
                .map_err(|_| GuestProblem::NotReading)?;
            self.say(Request::In(piece.to_vec()), patience).await?;
        }
        Ok(())
    }

    /// There is nothing more to read.
    pub(super) async fn end_input(&self, patience: Duration) -> Result<(), GuestProblem> {
        let _turn = timeout(patience, self.turn.lock())
            .await
            .map_err(|_| GuestProblem::NotReading)?;
        self.say(Request::Eof, patience).await
    }

    pub(super) async fn resize(&self, size: Size, patience: Duration) -> Result<(), GuestProblem> {
        self.say(Request::Resize(size), patience).await
    }

    pub(super) async fn kill(&self, patience: Duration) -> Result<(), GuestProblem> {
        self.say(Request::Kill, patience).await
    }

    async fn say(&self, request: Request, patience: Duration) -> Result<(), GuestProblem> {
        let said = timeout(patience, self.shared.say(self.id, request)).await;
        Ok(said.map_err(|_| GuestProblem::Silent)??)
    }
}
