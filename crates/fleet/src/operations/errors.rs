//! Errors that many operations share.

use hostler_operations::NOT_FOUND;

use crate::ids::HostId;

/// [`errors!`](hostler_operations::errors) for operations that write into the books: a full disk is
/// an error of its own, and whatever else the store says becomes `INTERNAL`.
macro_rules! write_errors {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident { $($variants:tt)* }
    ) => {
        hostler_operations::errors! {
            $(#[$meta])*
            $visibility enum $name {
                $($variants)*
                /// The disk that holds the fleet's books is full.
                StorageFull = $crate::codes::STORAGE_FULL,
                    "the control plane's disk is full and nothing was changed; free some space \
                     there, then try again";
                /// The fleet's books cannot be reached now. Nothing was changed.
                StorageUnavailable = $crate::codes::STORAGE_UNAVAILABLE,
                    "the control plane's database cannot be reached and nothing was changed; try \
                     again in a moment";
            }
        }

        impl From<$crate::store::StoreError> for $name {
            fn from(error: $crate::store::StoreError) -> Self {
                match error {
                    $crate::store::StoreError::Full => Self::StorageFull,
                    error if error.passes() => {
                        tracing::warn!(%error, "a change was refused");
                        Self::StorageUnavailable
                    }
                    other => Self::Internal(hostler_operations::internal(other)),
                }
            }
        }
    };
}

/// [`errors!`](hostler_operations::errors) for operations that only read the books.
macro_rules! read_errors {
    (
        $(#[$meta:meta])*
        $visibility:vis enum $name:ident { $($variants:tt)* }
    ) => {
        hostler_operations::errors! {
            $(#[$meta])*
            $visibility enum $name {
                $($variants)*
                /// The fleet's books cannot be reached now.
                StorageUnavailable = $crate::codes::STORAGE_UNAVAILABLE,
                    "the control plane's database cannot be reached; try again in a moment";
            }
        }

        impl From<$crate::store::StoreError> for $name {
            fn from(error: $crate::store::StoreError) -> Self {
                if error.passes() {
                    tracing::warn!(%error, "a question was not answered");
                    return Self::StorageUnavailable;
                }
                Self::Internal(hostler_operations::internal(error))
            }
        }
    };
}

pub(super) use {read_errors, write_errors};

read_errors! {
    /// Why nothing can be read.
    pub(super) enum ReadError {}
}

read_errors! {
    /// Why nothing can be said of a host.
    pub(super) enum ReadHostError {
        /// There is no such host, or not for this caller.
        NoSuchHost { id: HostId } = NOT_FOUND,
            "there is no host {id}; hosts/list shows those there are";
    }
}

write_errors! {
    /// Why a host was not changed.
    pub(super) enum ChangeHostError {
        /// There is no such host, or not for this caller.
        NoSuchHost { id: HostId } = NOT_FOUND,
            "there is no host {id}; hosts/list shows those there are";
    }
}
