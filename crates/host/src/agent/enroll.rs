//! Enrolment: a machine with a one-time token becomes a host with an identity.
//!
//! The key is made here and stays here; the control plane gets a certificate request for it. When
//! this returns, the credentials are on disk. Each way to fail says what to do about it.

use hostler_identity::{ClientError, KeyAndCsr};
use http::StatusCode;
use rustls::CertificateError;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::config::AgentConfig;
use super::credentials::{self, Credentials, MaterialError};
use super::link::{LinkError, PeoplesDoor, Registration};
use super::machine::Machine;
use super::pin::PinMismatch;

/// This machine did not become a host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrollError {
    /// No connection.
    #[error("{0}; see that the server runs there and that no firewall is in between")]
    Unreachable(ClientError),
    /// The server's certificate comes from somebody else.
    #[error(
        "{server} is not signed by the CA that was given; copy ca.pem from that server's data \
         directory, and if it is the right one, somebody else answers at this address"
    )]
    #[allow(missing_docs)]
    UnknownAuthority { server: String },
    /// The server has another key.
    #[error(
        "{0}; take the pin that the server prints at start, and if it is the right one, somebody \
         else answers at this address"
    )]
    WrongPin(String),
    /// The server's certificate is for other names.
    #[error("{source}; call the server by a name or an address in its certificate")]
    #[allow(missing_docs)]
    WrongName { source: ClientError },
    /// By this machine's clock the server's certificate is not valid.
    #[error("{source}; this machine's clock says {now}: set it right, then try again")]
    #[allow(missing_docs)]
    Clock {
        source: ClientError,
        now: jiff::Timestamp,
    },
    /// The token is not one that registers a host.
    #[error(
        "the registration token was not accepted: {message}; tokens work once and for an hour, \
         make a new one with: hostler host token HOST"
    )]
    #[allow(missing_docs)]
    Token { message: String },
    /// The control plane does not want this machine as it is.
    #[error("the control plane refused to register this machine: {message}")]
    #[allow(missing_docs)]
    Refused { message: String },
    /// The request went out and no answer came back.
    #[error(
        "the answer to the registration was lost ({0}); try again, and if the token is used up by \
         now, delete the host, create it anew and take its token"
    )]
    LostAnswer(ClientError),
    /// What answers is no control plane, or one in trouble.
    #[error("{server} did not answer as a control plane does: {reason}")]
    #[allow(missing_docs)]
    NotAControlPlane { server: String, reason: String },
    /// The control plane issued no certificate.
    #[error("the control plane issued no certificate for this host; see its log for the reason")]
    NoCertificate,
    /// What the control plane issued cannot be used.
    #[error("what the control plane issued cannot be used: {0}; see that both run one version")]
    Material(#[from] MaterialError),
    /// The key could not be made.
    #[error(transparent)]
    Key(#[from] hostler_identity::EnrollError),
}

/// Registers this machine. Uses up the token.
pub(crate) async fn enroll(
    config: &AgentConfig,
    machine: &Machine,
    token: &SecretString,
    door: &PeoplesDoor,
) -> Result<Credentials, EnrollError> {
    let KeyAndCsr { key_pem, csr_pem } = KeyAndCsr::generate(None)?;
    let registration = Registration {
        token: token.expose_secret(),
        address: config.address.as_deref(),
        machine,
        csr: &csr_pem,
    };
    let registered = door
        .register(&registration)
        .await
        .map_err(|error| explain(config, error))?;
    let credentials = Credentials {
        version: credentials::VERSION,
        host_id: registered.host.id,
        host_token: registered.token.into(),
        key_pem,
        svid_pem: registered.svid.ok_or(EnrollError::NoCertificate)?,
        bundle_pem: registered.bundle,
        machines_url: registered.machines_url,
        registered_with: fingerprint(token),
    };
    credentials.material()?;
    Ok(credentials)
}

/// Whether these credentials were got with this token: then it is an old command line, run again.
pub(crate) fn got_with(credentials: &Credentials, token: &SecretString) -> bool {
    let fingerprint = fingerprint(token);
    fingerprint
        .as_bytes()
        .ct_eq(credentials.registered_with.as_bytes())
        .into()
}

fn fingerprint(token: &SecretString) -> String {
    hex::encode(Sha256::digest(token.expose_secret().as_bytes()))
}

fn explain(config: &AgentConfig, error: LinkError) -> EnrollError {
    let server = config.server.to_string();
    match error {
        LinkError::NoAnswer(error) => explain_silence(server, error),
        LinkError::Refused { status, message } if status == StatusCode::UNAUTHORIZED => {
            EnrollError::Token { message }
        }
        LinkError::Refused { message, .. } | LinkError::NoSuchHost { message } => {
            EnrollError::Refused { message }
        }
        LinkError::Unexpected { status, reason } => EnrollError::NotAControlPlane {
            server,
            reason: format!("{status}, {reason}"),
        },
    }
}

fn explain_silence(server: String, error: ClientError) -> EnrollError {
    if error.may_have_been_carried_out() {
        return EnrollError::LostAnswer(error);
    }
    let ClientError::Handshake { source: tls, .. } = &error else {
        return EnrollError::Unreachable(error);
    };
    use CertificateError as Bad;
    match tls {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::Other(other) => match other.0.downcast_ref::<PinMismatch>() {
                Some(mismatch) => EnrollError::WrongPin(mismatch.to_string()),
                None => EnrollError::Unreachable(error),
            },
            Bad::UnknownIssuer | Bad::BadSignature => EnrollError::UnknownAuthority { server },
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                EnrollError::WrongName { source: error }
            }
            Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. } => EnrollError::Clock {
                source: error,
                now: jiff::Timestamp::now(),
            },
            _ => EnrollError::NotAControlPlane {
                server,
                reason: error.to_string(),
            },
        },
        _ => EnrollError::NotAControlPlane {
            server,
            reason: error.to_string(),
        },
    }
}
