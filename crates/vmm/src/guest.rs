//! The guest, as it answers for itself: through our program in there ([`protocol`]), over whatever
//! the driver offers for it.
//!
//! ```text
//! Guest ── wire       one conversation: lines out, lines in, each to whom its number belongs
//!   │        └─ channel   what belongs to one number, with room for so much and no more
//!   ├─ execution          a command that runs
//!   ├─ run                a command from its beginning to its end
//!   └─ files              files of the guest, in pieces
//! ```
//!
//! A question may be asked before the guest is up: it waits until somebody hears it, in the socket
//! or before one. So the first answer to a greeting is the moment when the guest is ready.
//!
//! The guest is not trusted. Whatever it says costs a bounded amount of memory, nothing that we do
//! waits for it without a limit, and one that only makes noise is not listened to any more.

mod channel;
mod errors;
mod execution;
mod files;
mod request;
mod run;
mod wire;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::dialogue::Broken;
use crate::driver::GuestEndpoint;

#[path = "../../guest/src/lines.rs"]
pub(crate) mod lines;
#[path = "../../guest/src/protocol.rs"]
pub(crate) mod protocol;

pub use errors::{GuestError, GuestProblem};
pub use execution::{ExecEvent, ExecId, Execution};
pub use files::{FilePiece, PIECE_BYTES};
pub use request::{Command, FilePlace, FileWrite, RunCommand, TerminalSize};
pub(crate) use request::{check_path, check_piece, check_stage};
pub use run::{Ending as CommandEnding, Finished};

use channel::{Channel, Speaker};
use protocol::{Refused, Reply, Request, WITH_COMMANDS};
use wire::Wire;

/// How long to wait before speaking again to a guest that hung up.
const RETRY: Duration = Duration::from_millis(20);

/// How long a caller waits for a guest that is still coming up.
const UNTIL_READY: Duration = Duration::from_secs(25);

/// How long a guest that is up may take for what takes it milliseconds.
const ANSWER: Duration = Duration::from_secs(20);

/// How long it may take to flush a file that was put together: gigabytes, on a disk that is emulated.
const FLUSHED: Duration = Duration::from_secs(300);

/// What callers may have going on with one guest at one time, commands and files together.
const MAX_CONVERSATIONS: usize = 64;

/// The conversation with a guest.
pub(crate) struct Guest {
    endpoint: GuestEndpoint,
    /// None until the first word, where a guest has to listen before one gets through.
    wire: tokio::sync::Mutex<Option<Arc<Wire>>>,
    /// One greets at a time: a greeting ends the commands of the conversation before it.
    greeting: tokio::sync::Mutex<()>,
    turns: Arc<Semaphore>,
    /// The commands that run, for those who speak to them.
    executions: Executions,
}

type Executions = Arc<Mutex<HashMap<ExecId, Arc<Speaker>>>>;

impl Guest {
    pub(crate) async fn connect(endpoint: &GuestEndpoint) -> Result<Self, Broken> {
        let wire = match endpoint {
            GuestEndpoint::Socket(path) => Some(Arc::new(Wire::over(endpoint.open().await?, path))),
            GuestEndpoint::Vsock { .. } => None,
        };
        Ok(Self {
            endpoint: endpoint.clone(),
            wire: tokio::sync::Mutex::new(wire),
            greeting: tokio::sync::Mutex::new(()),
            turns: Arc::new(Semaphore::new(MAX_CONVERSATIONS)),
            executions: Executions::default(),
        })
    }

    /// The conversation, begun (again) if it has to be. A guest that only made noise had its say.
    async fn wire(&self) -> Result<Arc<Wire>, Broken> {
        let mut current = self.wire.lock().await;
        if let Some(wire) = current
            .as_ref()
            .filter(|it| !it.is_over() || it.was_noise())
        {
            return Ok(wire.clone());
        }
        let stream = self.endpoint.open_patiently().await?;
        let wire = Arc::new(Wire::over(stream, self.endpoint.path()));
        Ok(current.insert(wire).clone())
    }

    /// Asks a question whose answer may take any time. A guest that hangs up first, as one does
    /// that is only coming up or was just restored, is asked again.
    async fn ask(&self, question: impl Fn() -> Request) -> Result<(Arc<Wire>, Reply), Broken> {
        loop {
            let wire = self.wire().await?;
            match wire.ask(question()).await {
                Err(Broken::Closed { .. } | Broken::Socket { .. }) if !wire.was_noise() => {
                    sleep(RETRY).await;
                }
                Err(broken) => return Err(broken),
                Ok(reply) => return Ok((wire, reply)),
            }
        }
    }

    /// Waits until the guest answers, however long that takes. Returns the version of the protocol
    /// that it speaks.
    pub(crate) async fn ready(&self) -> Result<u32, GuestProblem> {
        self.greeted().await.map(|(_, version)| version)
    }

    async fn greeted(&self) -> Result<(Arc<Wire>, u32), GuestProblem> {
        let _one_at_a_time = self.greeting.lock().await;
        let wire = self.wire().await?;
        if let Some(version) = wire.version() {
            return Ok((wire, version));
        }
        match self.ask(|| Request::Hello).await? {
            (wire, Reply::Hello { version }) => {
                wire.set_version(version);
                Ok((wire, version))
            }
            (_, other) => Err(unexpected(other)),
        }
    }

    /// The conversation with a guest that runs commands and moves files.
    async fn able(&self) -> Result<Arc<Wire>, GuestProblem> {
        let greeted = timeout(UNTIL_READY, self.greeted()).await;
        let (wire, version) = greeted.map_err(|_| GuestProblem::NotReady)??;
        if version < WITH_COMMANDS {
            return Err(GuestProblem::Older { version });
        }
        Ok(wire)
    }

    /// Asks a guest that is up for what takes it milliseconds.
    async fn ask_promptly(&self, request: Request) -> Result<Reply, GuestProblem> {
        self.ask_within(ANSWER, request).await
    }

    /// Asks a guest that is up, and waits as long as that may take.
    async fn ask_within(&self, limit: Duration, request: Request) -> Result<Reply, GuestProblem> {
        let _turn = self.turn()?;
        let wire = self.able().await?;
        let answer = timeout(limit, wire.ask(request)).await;
        match answer.map_err(|_| GuestProblem::Silent)?? {
            Reply::Refused(refused) => Err(refused.into()),
            Reply::Failed { reason } => Err(GuestProblem::Refused { reason }),
            reply => Ok(reply),
        }
    }

    fn turn(&self) -> Result<tokio::sync::OwnedSemaphorePermit, GuestProblem> {
        let turn = Arc::clone(&self.turns).try_acquire_owned();
        turn.map_err(|_| GuestProblem::Busy {
            reason: format!("{MAX_CONVERSATIONS} commands and files are being worked on already"),
        })
    }

    /// Opens a channel for a request that is answered more than once.
    async fn begin(&self, request: Request) -> Result<Channel, GuestProblem> {
        let wire = self.able().await?;
        let channel = timeout(ANSWER, wire.open(request)).await;
        Ok(channel.map_err(|_| GuestProblem::Silent)??)
    }

    /// Tells the guest what time it is.
    pub(crate) async fn tell_time(&self) -> Result<(), GuestProblem> {
        let wire = self.able().await?;
        let since_1970 = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let unix_nanos = u64::try_from(since_1970.as_nanos()).unwrap_or(u64::MAX);
        let told = timeout(ANSWER, wire.ask(Request::Clock { unix_nanos })).await;
        match told.map_err(|_| GuestProblem::Silent)?? {
            Reply::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Asks the guest to end: its processes get `grace` to finish. That it has begun, not that it
    /// is done, is what a return means. A guest that is not up yet hears it once it is.
    pub(crate) async fn power_off(&self, grace: Duration) -> Result<(), GuestProblem> {
        let grace_ms = grace.as_millis().try_into().unwrap_or(u32::MAX);
        match self.ask(|| Request::PowerOff { grace_ms }).await? {
            (_, Reply::Done) => Ok(()),
            (_, other) => Err(unexpected(other)),
        }
    }
}

/// The guest's clock is wrong after a boot and after a pause; it is told the time, and nobody waits
/// for that.
pub(crate) fn keep_time(guest: &Arc<Guest>, vm: &str) {
    let (guest, vm) = (Arc::clone(guest), vm.to_owned());
    tokio::spawn(async move {
        match guest.tell_time().await {
            Ok(()) | Err(GuestProblem::Older { .. }) => {}
            Err(error) => tracing::warn!(vm, %error, "a guest was not told the time"),
        }
    });
}

fn unexpected(reply: Reply) -> GuestProblem {
    match reply {
        Reply::Refused(refused) => refused.into(),
        Reply::Failed { reason } => GuestProblem::Refused { reason },
        _ => GuestProblem::Nonsense,
    }
}

impl From<Refused> for GuestProblem {
    fn from(Refused { kind, reason }: Refused) -> Self {
        use protocol::Refusal;
        match kind {
            Refusal::NotFound => Self::FileNotFound { reason },
            Refusal::Busy => Self::Busy { reason },
            Refusal::Invalid | Refusal::System => Self::Refused { reason },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
