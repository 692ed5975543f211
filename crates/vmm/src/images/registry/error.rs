//! What can go wrong between here and a registry.

use std::time::Duration;

use ::http::StatusCode;

use super::reach::OutOfReach;
use crate::files::StorageError;
use crate::images::digest::Digest;

/// A registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RegistryError {
    #[error("it cannot be reached: {0}; check its address and the network")]
    Unreachable(String),
    #[error("it does not answer; try again later")]
    Slow,
    #[error("the transfer broke off: {0}")]
    BrokeOff(String),
    #[error("it is busy ({status}); try again later")]
    Busy {
        status: StatusCode,
        /// What it said to wait.
        wait: Option<Duration>,
    },
    #[error("it has no such image or does not show it; check the name and the tag")]
    NotFound,
    #[error("it wants to know who asks; give credentials that may read this repository")]
    Unauthorized,
    #[error(
        "it wants the password sent to {host} over plain http, where anybody could read it; its \
         token service has to be at an https address, or where the registry itself is"
    )]
    PasswordInTheClear { host: String },
    #[error("it answered {status} for {what}")]
    Status { status: StatusCode, what: String },
    #[error("it does not speak as a registry does: {0}")]
    Protocol(String),
    #[error("it sent more than the {limit} bytes that were to come")]
    TooLarge { limit: u64 },
    #[error("it sent {sent} bytes where its manifest says {said}")]
    Size { said: u64, sent: u64 },
    #[error("it sent {found} for {wanted}; it is damaged or lies, and nothing of it is kept")]
    Digest { wanted: Digest, found: Digest },
    #[error(transparent)]
    OutOfReach(#[from] OutOfReach),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl RegistryError {
    pub(super) fn of_status(what: &str, status: StatusCode) -> Self {
        match status {
            StatusCode::NOT_FOUND => Self::NotFound,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Unauthorized,
            StatusCode::TOO_MANY_REQUESTS => Self::Busy { status, wait: None },
            status if status.is_server_error() => Self::Busy { status, wait: None },
            status => Self::Status {
                status,
                what: what.to_owned(),
            },
        }
    }

    /// Whether the same again may work in a moment.
    pub(in crate::images) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_) | Self::Slow | Self::BrokeOff(_) | Self::Busy { .. }
        )
    }
}
