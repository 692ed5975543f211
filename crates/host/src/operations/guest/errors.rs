//! How operations inside a VM fail, in the codes of the host API.

use hostler_operations::{INVALID_INPUT, NOT_FOUND, TIMEOUT, errors, internal};
use hostler_vmm::{GuestProblem, VmName};

use crate::operations::codes::{
    BUSY, FILE_NOT_FOUND, GUEST_REFUSED, INVALID_STATE, STORAGE_FULL, UNSUPPORTED,
};
use crate::operations::storage::from_storage_error;

errors! {
    /// Why nothing was done inside a VM.
    pub(super) enum GuestError {
        /// There is no such VM.
        NotFound { name: String } = NOT_FOUND,
            "there is no VM named {name:?} on this host; list the VMs to see those that are";
        /// There is no such command, or it has ended.
        NoSuchCommand { reason: String } = NOT_FOUND, "{reason}";
        /// A field of the request makes no sense.
        Invalid { field: String, reason: String } = INVALID_INPUT, "{reason}";
        /// The VM does not run, or its guest is not up.
        NotRunning { reason: String } = INVALID_STATE, "{reason}";
        /// The guest has no agent, or one that is too old.
        Unsupported { reason: String } = UNSUPPORTED, "{reason}";
        /// As much as can be is going on in the VM.
        Busy { reason: String } = BUSY, "{reason}";
        /// The guest has no such file.
        FileNotFound { reason: String } = FILE_NOT_FOUND, "{reason}";
        /// The guest cannot do this.
        Refused { reason: String } = GUEST_REFUSED, "{reason}";
        /// The guest, or the command in it, did not answer in time.
        Silent { reason: String } = TIMEOUT, "{reason}";
        /// The caller left.
        Left = INVALID_STATE, "the caller left, and the command was killed";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be read.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
    }
}

from_storage_error!(GuestError);

pub(super) fn invalid(field: &str, reason: &str) -> GuestError {
    GuestError::Invalid {
        field: field.to_owned(),
        reason: format!("{field}: {reason}"),
    }
}

pub(super) fn no_such_command() -> GuestError {
    let reason = "the guest runs no command with this id; it may have ended".to_owned();
    GuestError::NoSuchCommand { reason }
}

/// Whether a command was not there any more.
pub(super) fn has_ended(error: &hostler_vmm::GuestError) -> bool {
    use hostler_vmm::GuestError as E;
    let gone = |problem: &GuestProblem| matches!(problem, GuestProblem::NoSuchCommand);
    matches!(error, E::Problem { problem, .. } if gone(problem))
}

/// What went wrong with the guest of this VM.
pub(super) fn of(name: &VmName, problem: GuestProblem) -> GuestError {
    hostler_vmm::GuestError::Problem {
        name: name.clone(),
        problem,
    }
    .into()
}

impl From<hostler_vmm::NotFound> for GuestError {
    fn from(error: hostler_vmm::NotFound) -> Self {
        Self::NotFound { name: error.name }
    }
}

impl From<hostler_vmm::GuestError> for GuestError {
    fn from(error: hostler_vmm::GuestError) -> Self {
        use hostler_vmm::GuestError as E;
        let reason = error.to_string();
        match error {
            E::NotFound(missing) => missing.into(),
            E::Invalid(wrong) => Self::Invalid {
                field: wrong.field.to_owned(),
                reason,
            },
            E::NotRunning { .. } => Self::NotRunning { reason },
            E::Unreachable { .. } => Self::Unsupported { reason },
            E::Problem { problem, .. } => match problem {
                GuestProblem::NotReady | GuestProblem::Lost => Self::NotRunning { reason },
                GuestProblem::Older { .. } => Self::Unsupported { reason },
                GuestProblem::Busy { .. } => Self::Busy { reason },
                GuestProblem::FileNotFound { .. } => Self::FileNotFound { reason },
                GuestProblem::Refused { .. } | GuestProblem::Nonsense => Self::Refused { reason },
                GuestProblem::NoSuchCommand => Self::NoSuchCommand { reason },
                GuestProblem::NotReading | GuestProblem::Silent => Self::Silent { reason },
                other => internal(other).into(),
            },
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}
