//! The error codes of the fleet and of the hosts behind it.

use hostler_operations::{ErrorCode, INVALID_INPUT, NOT_FOUND, TIMEOUT};

pub(crate) const BUSY: ErrorCode = ErrorCode::declared("BUSY", 503).retryable();
pub(crate) const CONFLICT: ErrorCode = ErrorCode::declared("CONFLICT", 409);
pub(crate) const FILE_NOT_FOUND: ErrorCode = ErrorCode::declared("FILE_NOT_FOUND", 404);
pub(crate) const GUEST_REFUSED: ErrorCode = ErrorCode::declared("GUEST_REFUSED", 422);
pub(crate) const HAS_VMS: ErrorCode = ErrorCode::declared("HAS_VMS", 409);
pub(crate) const HOST_UNREACHABLE: ErrorCode =
    ErrorCode::declared("HOST_UNREACHABLE", 503).retryable();
pub(crate) const IN_USE: ErrorCode = ErrorCode::declared("IN_USE", 409);
pub(crate) const INSUFFICIENT_CAPACITY: ErrorCode =
    ErrorCode::declared("INSUFFICIENT_CAPACITY", 409);
pub(crate) const INVALID_STATE: ErrorCode = ErrorCode::declared("INVALID_STATE", 409);
pub(crate) const NO_HOSTS_AVAILABLE: ErrorCode =
    ErrorCode::declared("NO_HOSTS_AVAILABLE", 503).retryable();
pub(crate) const PORT_IN_USE: ErrorCode = ErrorCode::declared("PORT_IN_USE", 409);
pub(crate) const RATE_LIMITED: ErrorCode = ErrorCode::declared("RATE_LIMITED", 429).retryable();
pub(crate) const REGISTRY_UNAVAILABLE: ErrorCode =
    ErrorCode::declared("REGISTRY_UNAVAILABLE", 502).retryable();
pub(crate) const STORAGE_FULL: ErrorCode = ErrorCode::declared("STORAGE_FULL", 507);
pub(crate) const STORAGE_UNAVAILABLE: ErrorCode =
    ErrorCode::declared("STORAGE_UNAVAILABLE", 503).retryable();
pub(crate) const TEAM_NOT_EMPTY: ErrorCode = ErrorCode::declared("TEAM_NOT_EMPTY", 409);
pub(crate) const TEAM_REQUIRED: ErrorCode = ErrorCode::declared("TEAM_REQUIRED", 409);
pub(crate) const UNAUTHORIZED: ErrorCode = ErrorCode::declared("UNAUTHORIZED", 401);
pub(crate) const UNSUPPORTED: ErrorCode = ErrorCode::declared("UNSUPPORTED", 422);

/// The refusals of a host that its caller can do something about, each with what it means. A host's
/// other errors are the affair of whoever runs the fleet.
pub(crate) const OF_HOSTS: [(ErrorCode, &str); 15] = [
    (NOT_FOUND, "The host has no such thing."),
    (
        INVALID_INPUT,
        "The host cannot do what was asked: an unknown image, an impossible size.",
    ),
    (
        TIMEOUT,
        "The host took too long. It may still do what was asked; look before trying again.",
    ),
    (BUSY, "As much as can be is going on there already."),
    (CONFLICT, "There is one of this name on the host already."),
    (FILE_NOT_FOUND, "The VM has no such file."),
    (GUEST_REFUSED, "The VM's guest cannot do this."),
    (
        HOST_UNREACHABLE,
        "The host cannot be reached. Nothing was changed on it.",
    ),
    (IN_USE, "It is in use on the host."),
    (INSUFFICIENT_CAPACITY, "The host has not enough left."),
    (INVALID_STATE, "The VM's state does not allow it."),
    (PORT_IN_USE, "The host's port is in use."),
    (
        REGISTRY_UNAVAILABLE,
        "The host cannot reach the registry, or it is busy or broke off.",
    ),
    (STORAGE_FULL, "The host's disk is full."),
    (UNSUPPORTED, "The host's driver cannot do this."),
];

/// The code of this name, when a host may pass it on.
pub(crate) fn of_host(name: &str) -> Option<ErrorCode> {
    OF_HOSTS
        .into_iter()
        .map(|(code, _)| code)
        .find(|code| code.as_str() == name)
}
