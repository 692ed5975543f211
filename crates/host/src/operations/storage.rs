//! Errors of `vmm` that many operations have: a refusing disk, sorted by who can mend it, and a VM that
//! is not there.

use std::io::ErrorKind;

use hostler_operations::{Internal, internal};
use hostler_vmm::StorageError;

/// What a [`StorageError`] means for a caller.
pub(super) enum Storage {
    /// There is no room; the text says where.
    Full(String),
    /// The daemon may not write there; the text says where and what to do.
    Unusable(String),
    /// Something that only the log can tell.
    Broken(Internal),
}

impl From<StorageError> for Storage {
    fn from(error: StorageError) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full(error.to_string()),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::Unusable(error.to_string())
            }
            _ => Self::Broken(internal(error)),
        }
    }
}

/// Implements `From<StorageError>` for an error type with the variants `StorageFull`,
/// `StorageUnusable` and `Internal`.
macro_rules! from_storage_error {
    ($($name:ident),+) => {$(
        impl From<hostler_vmm::StorageError> for $name {
            fn from(error: hostler_vmm::StorageError) -> Self {
                match $crate::operations::storage::Storage::from(error) {
                    $crate::operations::storage::Storage::Full(reason) => {
                        Self::StorageFull { reason }
                    }
                    $crate::operations::storage::Storage::Unusable(reason) => {
                        Self::StorageUnusable { reason }
                    }
                    $crate::operations::storage::Storage::Broken(cause) => Self::Internal(cause),
                }
            }
        }
    )+};
}
pub(super) use from_storage_error;

/// Implements `From<NotFound>` for an error type with a variant `NotFound` that has the name.
macro_rules! from_not_found {
    ($($name:ident),+) => {$(
        impl From<hostler_vmm::NotFound> for $name {
            fn from(error: hostler_vmm::NotFound) -> Self {
                Self::NotFound { name: error.name }
            }
        }
    )+};
}
pub(super) use from_not_found;
