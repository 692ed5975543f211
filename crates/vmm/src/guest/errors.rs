//! What can go wrong between a caller and a guest.

use crate::dialogue::Broken;
use crate::errors::NotFound;
use crate::files::StorageError;
use crate::model::VmState;
use crate::name::VmName;
use crate::spec::InvalidField;

/// A guest did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    #[error(transparent)]
    NotFound(#[from] NotFound),
    #[error(transparent)]
    Invalid(#[from] InvalidField),
    /// The VM does not run.
    #[error("VM {name} is {state}; {}, and it can be spoken to", mend(*state))]
    NotRunning { name: VmName, state: VmState },
    /// It runs, and there is no way to speak to it.
    #[error("the guest of VM {name} cannot be spoken to; stop and start the VM to mend that")]
    Unreachable { name: VmName },
    /// The conversation went wrong.
    #[error("the guest of VM {name} {problem}")]
    Problem { name: VmName, problem: GuestProblem },
    /// Its console's log cannot be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// How a VM in this state comes to run.
fn mend(state: VmState) -> &'static str {
    match state {
        VmState::Paused => "resume it",
        VmState::Starting => "wait until it runs",
        _ => "start it",
    }
}

/// What went wrong in a conversation with a guest; the sentence begins with the guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestProblem {
    /// It has not answered since it was started.
    #[error(
        "has not answered since it was started; wait until ready_at is set (a kernel without \
         virtio console, or an image that does not boot, never gets there)"
    )]
    NotReady,
    /// The program in it is older than commands and files.
    #[error(
        "has an older agent (version {version}), which runs no commands and moves no files; stop \
         and start the VM to give it the current one"
    )]
    Older { version: u32 },
    /// As much as can be is going on in it.
    #[error("is busy: {reason}; try again when something of that has ended")]
    Busy { reason: String },
    /// It has no such file, or no directory to put it in.
    #[error("cannot find it: {reason}")]
    FileNotFound { reason: String },
    /// It cannot do this.
    #[error("refused: {reason}")]
    Refused { reason: String },
    /// It has no such command, or not any more.
    #[error("runs no command with this id; it may have ended")]
    NoSuchCommand,
    /// The command does not read what it is given.
    #[error("runs a command that does not read its input; try again when it does")]
    NotReading,
    /// It did not answer in time.
    #[error("did not answer in time; see whether the VM is paused or overloaded")]
    Silent,
    /// It said something that makes no sense.
    #[error("gave an answer that makes no sense")]
    Nonsense,
    /// The conversation has ended.
    #[error("hung up; see whether the VM still runs")]
    Lost,
}

impl From<Broken> for GuestProblem {
    fn from(broken: Broken) -> Self {
        // Where the socket is is nothing for those who only know the VM.
        tracing::debug!(%broken, "a conversation with a guest ended");
        Self::Lost
    }
}
