//! What can go wrong in the embedded authority, by what its caller was about to do.

use std::path::PathBuf;

use hostler_identity::{EnrollError, SpiffeId, SvidError, TrustDomain};
use jiff::SignedDuration;

use crate::csr::CsrRefused;
use crate::files::FileError;
use crate::shared::SharedStateError;
use crate::store::{SaveError, StoreError};

/// Why an authority could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file or the directory could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The state file is not what was written.
    #[error(
        "{} is damaged: {reason}; put back a backup, or remove the file to begin a new authority, \
         which every host must then enrol with again", path.display()
    )]
    Damaged {
        /// The state file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The directory holds the authority of another trust domain.
    #[error(
        "{} belongs to the trust domain {found}, not {wanted}; start with that trust domain, or \
         with another data directory", path.display()
    )]
    OtherTrustDomain {
        /// The state file.
        path: PathBuf,
        /// The trust domain in it.
        found: String,
        /// The trust domain that was asked for.
        wanted: TrustDomain,
    },
    /// The place that replicas share could not be used.
    #[error(transparent)]
    Shared(#[from] SharedStateError),
    /// Other replicas changed the keys again and again.
    #[error("other replicas keep changing the authority's keys; start again")]
    Overtaken,
    /// A key or certificate could not be made.
    #[error("cannot make a root certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The ID is not one that this authority speaks for.
    #[error("{id} is not a member of {trust_domain} (spiffe://{trust_domain}/...)")]
    NotAMember {
        /// The ID that was asked for.
        id: SpiffeId,
        /// The authority's trust domain.
        trust_domain: TrustDomain,
    },
    /// The request was refused. The sender of the request is at fault.
    #[error("the certificate request was refused: {0}")]
    Csr(#[from] CsrRefused),
    /// The roots had to change, and that could not be stored.
    #[error("the authority's roots are due to change, which failed: {0}")]
    Store(#[from] FileError),
    /// The keys had to change, and that could not be stored where replicas share them.
    #[error("the authority's roots are due to change, which failed: {0}")]
    Shared(#[from] SharedStateError),
    /// Another replica changed the keys at the same moment.
    #[error("another replica changed the authority's keys at the same moment; try again")]
    Overtaken,
    /// A JWT-SVID was asked for without saying for whom.
    #[error("a JWT-SVID needs at least one audience, and none may be empty")]
    NoAudience,
    /// A JWT-SVID was asked for a life that is over at once, or too long for a bearer token.
    #[error("a JWT-SVID lives for up to {longest:#}, not for {asked:#}")]
    Life {
        /// What was asked for.
        asked: SignedDuration,
        /// The limit.
        longest: SignedDuration,
    },
    /// Making the certificate failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// Making a key for this process failed.
    #[error(transparent)]
    Key(#[from] EnrollError),
    /// The new certificate and its key do not make an SVID.
    #[error("cannot make an identity: {0}")]
    Svid(#[from] SvidError),
}

impl OpenError {
    pub(crate) fn from_store(error: StoreError, wanted: &TrustDomain) -> Self {
        match error {
            StoreError::File(error) => Self::File(error),
            StoreError::Shared(error) => Self::Shared(error),
            StoreError::Damaged { path, reason } => Self::Damaged { path, reason },
            StoreError::OtherTrustDomain { path, found } => Self::OtherTrustDomain {
                path,
                found,
                wanted: wanted.clone(),
            },
        }
    }
}

impl From<SaveError> for OpenError {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::File(error) => Self::File(error),
            SaveError::Shared(error) => Self::Shared(error),
            SaveError::Overtaken => Self::Overtaken,
        }
    }
}

impl From<SaveError> for SignError {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::File(error) => Self::Store(error),
            SaveError::Shared(error) => Self::Shared(error),
            SaveError::Overtaken => Self::Overtaken,
        }
    }
}
