//! How operations on VMs fail, in the codes of the host API.

use hostler_operations::{INVALID_INPUT, NOT_FOUND, errors, internal};
use hostler_vmm::{LaunchError, NetworkError, PortError, PortForward};

use super::codes::{
    CONFLICT, INSUFFICIENT_CAPACITY, INVALID_STATE, PORT_IN_USE, STORAGE_FULL, UNSUPPORTED,
};
use super::storage::{from_not_found, from_storage_error};

errors! {
    /// Why a VM was not created.
    pub(super) enum CreateError {
        /// A field of the request makes no sense, or not on this host.
        Invalid { field: String, reason: String } = INVALID_INPUT, "{reason}";
        /// There is a VM of that name.
        Exists { name: String } = CONFLICT,
            "a VM named {name} is on this host already; choose another name, or delete that VM";
        /// The host has not enough room for it.
        NoRoom { resource: String, asked: u64, available: u64 } = INSUFFICIENT_CAPACITY,
            "the host has {available} {resource} left and the VM asks for {asked}; ask for less, \
             delete a VM that is not needed, or use another host";
        /// A host port that it asks for is not free.
        PortInUse { forward: PortForward, reason: String } = PORT_IN_USE, "{reason}";
        /// This host cannot do what was asked for.
        Unsupported { reason: String } = UNSUPPORTED, "{reason}";
        /// The host takes no new work at present.
        NoNewWork = INVALID_STATE,
            "this host takes no new work, because its control plane refuses its identity; see the \
             agent's log on the host, and whether the control plane still knows it";
        /// The caller left before it was there.
        Left = INVALID_STATE, "the caller left before the VM was there";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
    }
}

errors! {
    /// Why VMs cannot be listed.
    pub(super) enum ListError {}
}

errors! {
    /// Why a VM cannot be shown.
    pub(super) enum GetError {
        /// There is no such VM.
        NotFound { name: String } = NOT_FOUND,
            "there is no VM named {name:?} on this host; list the VMs to see those that are";
    }
}

errors! {
    /// Why a VM was not deleted.
    pub(super) enum DeleteError {
        /// There is no such VM.
        NotFound { name: String } = NOT_FOUND,
            "there is no VM named {name:?} on this host; list the VMs to see those that are";
        /// It runs.
        Running { name: String } = CONFLICT,
            "VM {name} is running; stop it first, or delete it with force";
        /// Its process does not end.
        Stubborn { reason: String } = INVALID_STATE, "{reason}";
        /// Its record on the host is damaged.
        Damaged { reason: String } = INVALID_STATE, "{reason}";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
        /// The caller left before it was the VM's turn.
        Left = INVALID_STATE, "the caller left before it was the VM's turn";
    }
}

errors! {
    /// Why a VM was not started.
    pub(super) enum StartError {
        /// There is no such VM.
        NotFound { name: String } = NOT_FOUND,
            "there is no VM named {name:?} on this host; list the VMs to see those that are";
        /// A host port of the VM has been taken by another program.
        PortInUse { forward: PortForward, reason: String } = PORT_IN_USE, "{reason}";
        /// This host cannot run VMs.
        Unsupported { reason: String } = UNSUPPORTED, "{reason}";
        /// The VM cannot be started as it and the host are now.
        NotStartable { reason: String } = INVALID_STATE, "{reason}";
        /// The host takes no new work at present.
        NoNewWork = INVALID_STATE,
            "this host takes no new work, because its control plane refuses its identity; see the \
             agent's log on the host, and whether the control plane still knows it";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
        /// The caller left before it was the VM's turn.
        Left = INVALID_STATE, "the caller left before it was the VM's turn";
    }
}

errors! {
    /// Why a VM was not stopped.
    pub(super) enum StopError {
        /// There is no such VM.
        NotFound { name: String } = NOT_FOUND,
            "there is no VM named {name:?} on this host; list the VMs to see those that are";
        /// Its process does not end.
        Stubborn { reason: String } = INVALID_STATE, "{reason}";
        /// The caller left before it was the VM's turn.
        Left = INVALID_STATE, "the caller left before it was the VM's turn";
    }
}

errors! {
    /// Why a port was not forwarded.
    pub(super) enum ForwardError {
        /// There is no such VM.
        NotFound { name: String } = NOT_FOUND,
            "there is no VM named {name:?} on this host; list the VMs to see those that are";
        /// The VM's driver has no ports that lead into it on this host.
        Unsupported { reason: String } = UNSUPPORTED, "{reason}";
        /// The host port is not free.
        PortInUse { forward: PortForward, reason: String } = PORT_IN_USE, "{reason}";
        /// The host cannot listen there.
        Refused { reason: String } = INVALID_INPUT, "{reason}";
        /// The VM's process does not take it.
        NotForwardable { reason: String } = INVALID_STATE, "{reason}";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
        /// The caller left before it was the VM's turn.
        Left = INVALID_STATE, "the caller left before it was the VM's turn";
    }
}

from_storage_error!(CreateError, DeleteError, StartError, ForwardError);

from_not_found!(GetError, DeleteError, StartError, StopError, ForwardError);

/// The forward of which `error` says that another has its port; `None` when it is something else
/// that is wrong with it.
fn taken(error: &PortError) -> Option<PortForward> {
    match error {
        PortError::Claimed { forward, .. } | PortError::Taken { forward } => Some(*forward),
        _ => None,
    }
}

// `vmm`'s enums may grow. What is new there is `INTERNAL` here until it is given a code.

impl From<hostler_vmm::CreateError> for CreateError {
    fn from(error: hostler_vmm::CreateError) -> Self {
        use hostler_vmm::CreateError as E;
        let reason = error.to_string();
        let invalid = |field: &str, reason| Self::Invalid {
            field: field.to_owned(),
            reason,
        };
        match error {
            E::Invalid(wrong) => invalid(wrong.field, reason),
            E::UnknownImage(_) => invalid("image", reason),
            E::UnknownKernel(_) => invalid("kernel", reason),
            E::Exists { name } => Self::Exists { name: name.into() },
            E::GivenUp => Self::Left,
            E::Capacity(short) => Self::NoRoom {
                resource: short.resource.to_string(),
                asked: short.asked,
                available: short.available,
            },
            E::Port(port) => match taken(&port) {
                Some(forward) => Self::PortInUse { forward, reason },
                None => invalid("port_forwards", reason),
            },
            E::Mount(_) => invalid("mounts", reason),
            E::Unsupported(_) | E::NoDriver(_) => Self::Unsupported { reason },
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}

impl From<hostler_vmm::DeleteError> for DeleteError {
    fn from(error: hostler_vmm::DeleteError) -> Self {
        use hostler_vmm::{DeleteError as E, StopError as S};
        let reason = error.to_string();
        match error {
            E::NotFound(missing) | E::Stop(S::NotFound(missing)) => missing.into(),
            E::Running { name } => Self::Running { name: name.into() },
            E::Stop(S::Stubborn { .. }) => Self::Stubborn { reason },
            E::Damaged { .. } => Self::Damaged { reason },
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}

impl From<hostler_vmm::StartError> for StartError {
    fn from(error: hostler_vmm::StartError) -> Self {
        use hostler_vmm::StartError as E;
        let reason = error.to_string();
        match error {
            E::NotFound(missing) => missing.into(),
            E::NoDriver(_) => Self::Unsupported { reason },
            E::Launch(LaunchError::Port(port)) => match taken(&port) {
                Some(forward) => Self::PortInUse { forward, reason },
                None => Self::NotStartable { reason },
            },
            E::Network(NetworkError::Port(port)) => match taken(&port) {
                Some(forward) => Self::PortInUse { forward, reason },
                None => Self::NotStartable { reason },
            },
            E::UnknownKernel(_) | E::Launch(_) | E::Resume(_) | E::Network(_) | E::Mount(_) => {
                Self::NotStartable { reason }
            }
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}

impl From<hostler_vmm::StopError> for StopError {
    fn from(error: hostler_vmm::StopError) -> Self {
        use hostler_vmm::StopError as E;
        let reason = error.to_string();
        match error {
            E::NotFound(missing) => missing.into(),
            E::Stubborn { .. } => Self::Stubborn { reason },
            other => internal(other).into(),
        }
    }
}

impl From<hostler_vmm::PortForwardError> for ForwardError {
    fn from(error: hostler_vmm::PortForwardError) -> Self {
        use hostler_vmm::PortForwardError as E;
        let reason = error.to_string();
        match error {
            E::NotFound(missing) => missing.into(),
            E::Port(port) => match taken(&port) {
                Some(forward) => Self::PortInUse { forward, reason },
                None => Self::Refused { reason },
            },
            E::Network(NetworkError::Port(port)) => match taken(&port) {
                Some(forward) => Self::PortInUse { forward, reason },
                None => Self::Refused { reason },
            },
            E::Unsupported(_) => Self::Unsupported { reason },
            E::Link(_) | E::Network(_) => Self::NotForwardable { reason },
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}
