//! Why a request got no answer, sorted by what the caller can do about it.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use hyper_util::client::legacy::Error as PoolError;
use rustls::AlertDescription;

use super::connector::Verdict;
use crate::cause::root_cause;
use crate::source::Unavailable;
use crate::tls::PeerRefused;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL or a header is unusable; nothing was sent.
    #[error("cannot send this request: {0}")]
    InvalidRequest(String),
    /// No TCP connection could be made.
    #[error("cannot connect to {target}: {}", root_cause(source.as_ref()))]
    Connect {
        /// Host and port.
        target: String,
        /// The cause, from the operating system or the resolver.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The server is not who it should be. Nothing of the request was sent.
    #[error("{target} is not the server that was asked for: {refused}")]
    WrongServer {
        /// Host and port.
        target: String,
        /// Why it was refused.
        refused: Box<PeerRefused>,
    },
    /// We have no identity to present. Nothing of the request was sent.
    #[error("cannot call {target} without an identity: {unavailable}")]
    NoIdentity {
        /// Host and port.
        target: String,
        /// Why there is none.
        unavailable: Unavailable,
    },
    /// The server refused us in the handshake, by our identity or the lack of one.
    #[error(
        "{target} refused our identity ({alert:?}); is this client known and authorized there?"
    )]
    RefusedByServer {
        /// Host and port.
        target: String,
        /// The alert that it sent.
        alert: AlertDescription,
    },
    /// The TLS handshake failed for another reason. Nothing of the request was sent.
    #[error("the TLS handshake with {target} failed: {source}")]
    Handshake {
        /// Host and port.
        target: String,
        /// What TLS said.
        source: rustls::Error,
    },
    /// No complete answer in time. The request may have been carried out.
    #[error("{target} gave no complete answer within {after:?}")]
    Timeout {
        /// Host and port.
        target: String,
        /// The time-out that passed.
        after: Duration,
    },
    /// The answer is larger than the limit. The request was carried out.
    #[error("the answer of {target} is larger than {limit} bytes")]
    TooLarge {
        /// Host and port.
        target: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The connection broke, or HTTP was violated. The request may have been carried out.
    #[error("the exchange with {target} broke off: {}", root_cause(source.as_ref()))]
    Exchange {
        /// Host and port.
        target: String,
        /// The cause.
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl ClientError {
    /// Whether the server may have carried the request out. When `false`, it certainly has not,
    /// and a retry is safe for any method.
    #[must_use]
    pub fn may_have_been_carried_out(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. } | Self::TooLarge { .. } | Self::Exchange { .. }
        )
    }
}

/// Sorts what the pool reports.
pub(super) fn failed(target: &str, error: PoolError) -> ClientError {
    let target = target.to_owned();
    if let Some(alert) = Verdict::of(&error).filter(|alert| is_about_us(*alert)) {
        return ClientError::RefusedByServer { target, alert };
    }
    if !error.is_connect() {
        return ClientError::Exchange {
            target,
            source: Box::new(error),
        };
    }
    let Some(tls) = tls_error(&error) else {
        return ClientError::Connect {
            target,
            source: Box::new(error),
        };
    };
    match PeerRefused::in_tls_error(tls) {
        Some(PeerRefused::NoIdentityOfOurOwn(unavailable)) => ClientError::NoIdentity {
            target,
            unavailable: *unavailable,
        },
        Some(refused) => ClientError::WrongServer {
            target,
            refused: Box::new(refused.clone()),
        },
        None => ClientError::Handshake {
            target,
            source: tls.clone(),
        },
    }
}

/// The alerts by which a server says, after our side of the handshake is complete, that it does
/// not accept our certificate (RFC 8446 §6.2). None of them is sent later in a connection's life.
fn is_about_us(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::HandshakeFailure
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnknownCA
            | A::AccessDenied
    )
}

/// Finds TLS's error under the layers of HTTP. An `io::Error` hides what it wraps from
/// `source()`, so it is opened by hand.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut layer = Some(error);
    while let Some(error) = layer {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        layer = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
