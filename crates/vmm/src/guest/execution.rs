//! A command that runs in a guest.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use uuid::Uuid;

use super::channel::{Channel, Speaker};
use super::errors::GuestProblem;
use super::protocol::{Exec, Reply, Request};
use super::{ANSWER, Executions, Guest, lock, unexpected};

/// How long a command may take to read a piece of its input.
const READS: Duration = Duration::from_secs(20);

/// Names a command that runs. Nobody can guess it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExecId(Uuid);

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl FromStr for ExecId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

/// What a command does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote to its standard output, or to its terminal.
    Stdout(Vec<u8>),
    /// It wrote to its standard error.
    Stderr(Vec<u8>),
    /// It ended by itself, with this code.
    Exited(u8),
    /// It was ended by this signal.
    Killed(u8),
}

/// A command that runs in a guest, for as long as this lives: dropping it kills the command with
/// its process group.
pub struct Execution {
    id: ExecId,
    channel: Channel,
    speaker: Arc<Speaker>,
    all: Executions,
    ended: bool,
    _turn: OwnedSemaphorePermit,
}

impl Guest {
    /// Starts a command.
    pub(crate) async fn exec(&self, exec: Exec) -> Result<Execution, GuestProblem> {
        let turn = self.turn()?;
        let mut channel = self.begin(Request::Exec(exec)).await?;
        match timeout(ANSWER, channel.next()).await {
            Err(_) => return Err(GuestProblem::Silent),
            Ok(Some(Reply::Started)) => {}
            Ok(None) => return Err(GuestProblem::Lost),
            Ok(Some(other)) => {
                channel.has_ended();
                return Err(unexpected(other));
            }
        }
        let id = ExecId(Uuid::new_v4());
        let speaker = Arc::new(channel.speaker());
        lock(&self.executions).insert(id, Arc::clone(&speaker));
        Ok(Execution {
            id,
            channel,
            speaker,
            all: Arc::clone(&self.executions),
            ended: false,
            _turn: turn,
        })
    }

    /// Gives a command something to read, and says whether that was all.
    pub(crate) async fn exec_input(
        &self,
        id: ExecId,
        data: &[u8],
        close: bool,
    ) -> Result<(), GuestProblem> {
        let speaker = self.speaker(id)?;
        speaker.input(data, READS).await?;
        if close {
            speaker.end_input(READS).await?;
        }
        Ok(())
    }

    /// Gives a command's terminal another size.
    pub(crate) async fn exec_resize(
        &self,
        id: ExecId,
        size: super::protocol::Size,
    ) -> Result<(), GuestProblem> {
        self.speaker(id)?.resize(size, ANSWER).await
    }

    fn speaker(&self, id: ExecId) -> Result<Arc<Speaker>, GuestProblem> {
        let speaker = lock(&self.executions).get(&id).cloned();
        speaker.ok_or(GuestProblem::NoSuchCommand)
    }
}

impl Execution {
    /// By which others speak to it.
    pub fn id(&self) -> ExecId {
        self.id
    }

    pub(super) fn speaker(&self) -> Arc<Speaker> {
        Arc::clone(&self.speaker)
    }

    /// What it does next; `None` after its end. Nothing is lost when the caller stops waiting.
    ///
    /// # Errors
    /// When the guest breaks the conversation off; nothing comes after that.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>, GuestProblem> {
        if self.ended {
            return Ok(None);
        }
        let event = match self.channel.next().await {
            Some(Reply::Out(data)) => return Ok(Some(ExecEvent::Stdout(data))),
            Some(Reply::Err(data)) => return Ok(Some(ExecEvent::Stderr(data))),
            Some(Reply::Exited { code }) => Ok(Some(ExecEvent::Exited(code))),
            Some(Reply::Killed { signal }) => Ok(Some(ExecEvent::Killed(signal))),
            None => Err(GuestProblem::Lost),
            Some(other) => Err(unexpected(other)),
        };
        self.ended = true;
        if event.is_ok() {
            self.channel.has_ended();
        }
        lock(&self.all).remove(&self.id);
        event
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.id);
    }
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution")
            .field("id", &self.id)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
