//! The error codes of the host API beside the protocol's own.

use hostler_operations::ErrorCode;

pub(super) const BUSY: ErrorCode = ErrorCode::declared("BUSY", 503).retryable();
pub(super) const CONFLICT: ErrorCode = ErrorCode::declared("CONFLICT", 409);
pub(super) const FILE_NOT_FOUND: ErrorCode = ErrorCode::declared("FILE_NOT_FOUND", 404);
pub(super) const GUEST_REFUSED: ErrorCode = ErrorCode::declared("GUEST_REFUSED", 422);
pub(super) const INSUFFICIENT_CAPACITY: ErrorCode =
    ErrorCode::declared("INSUFFICIENT_CAPACITY", 409);
pub(super) const PORT_IN_USE: ErrorCode = ErrorCode::declared("PORT_IN_USE", 409);
pub(super) const IN_USE: ErrorCode = ErrorCode::declared("IN_USE", 409);
pub(super) const INVALID_STATE: ErrorCode = ErrorCode::declared("INVALID_STATE", 409);
pub(super) const REGISTRY_UNAVAILABLE: ErrorCode =
    ErrorCode::declared("REGISTRY_UNAVAILABLE", 502).retryable();
pub(super) const UNSUPPORTED: ErrorCode = ErrorCode::declared("UNSUPPORTED", 422);
pub(super) const STORAGE_FULL: ErrorCode = ErrorCode::declared("STORAGE_FULL", 507);
