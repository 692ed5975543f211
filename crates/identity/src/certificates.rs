//! Mutual TLS by the certificates of one private authority, with or without SPIFFE IDs.
//!
//! For a server that an operator runs by itself, beside no authority that issues identities: whoever
//! holds a certificate of the configured CA gets in, and nobody else. [`Certificates`] reads three
//! PEM files, follows them as they are replaced, and makes the server's side of TLS 1.3 of them;
//! [`Holder`] says who a verified certificate belongs to. Between members of a trust domain use a
//! [`Source`](crate::Source) instead: it knows who may be on the other end, this only knows who
//! signed.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError};
use rustls::{RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tracing::{info, warn};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::files::{Changes, FilesError, SvidFiles, read};
use crate::rules;
use crate::tls::{ALPN, crypto_provider};

/// More certificates than this between leaf and root are not looked at.
const MAX_SIGNERS: usize = 8;

/// A subject that is longer is cut in logs and audit trails.
const MAX_NAME: usize = 200;

/// A certificate with its key, and the authority whose clients are let in, from files and as
/// current as those. Cheap to clone.
#[derive(Clone)]
pub struct Certificates {
    current: watch::Receiver<Arc<Material>>,
}

struct Material {
    certified: Arc<CertifiedKey>,
    not_after: Timestamp,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Certificates {
    /// Reads a certificate chain, its key, and (as `bundle`) the authorities that sign clients'
    /// certificates. Later sets that do not fit together are logged once and tried again, while the
    /// last good one is used. Must be called within a tokio runtime.
    pub async fn files(files: SvidFiles) -> Result<Self, FilesError> {
        let (material, changes) = Changes::of(files, material).await?;
        let (writer, current) = watch::channel(Arc::new(material));
        tokio::spawn(async move {
            let take = |material: Material| {
                info!(expires_at = %material.not_after, "certificate files were read again");
                writer.send_replace(Arc::new(material));
            };
            tokio::select! {
                () = writer.closed() => {}
                never = changes.follow(take) => match never {},
            }
        });
        Ok(Self { current })
    }

    /// The server's side of mutual TLS 1.3, which follows the files by itself. Without session
    /// resumption, because a resumed session would outlive the certificates that it began with.
    #[must_use]
    pub fn server_config(&self) -> ServerConfig {
        let mut config = ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has the suites of TLS 1.3")
            .with_client_cert_verifier(Arc::new(self.clone()))
            .with_cert_resolver(Arc::new(self.clone()));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        config
    }

    fn current(&self) -> Arc<Material> {
        Arc::clone(&self.current.borrow())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

/// Reads the set and checks that it fits together.
fn material(files: &SvidFiles) -> Result<Material, FilesError> {
    let unusable = |reason: String| FilesError::Certificate {
        chain: files.chain.clone(),
        key: files.key.clone(),
        reason,
    };
    let key = read::key(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes())
        .map_err(|error| unusable(format!("cannot read the private key as PEM: {error}")))?;
    let chain = certificates(&read::public(&files.chain)?).map_err(unusable)?;
    let not_after = chain.first().and_then(expiry);
    let not_after =
        not_after.ok_or_else(|| unusable("there is no certificate in it".to_owned()))?;
    let certified = CertifiedKey::from_der(chain, key, &crypto_provider())
        .map_err(|error| unusable(error.to_string()))?;
    let clients = authority(files)?;
    Ok(Material {
        certified: Arc::new(certified),
        not_after,
        clients,
    })
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("cannot read certificates as PEM: {error}"))
}

fn authority(files: &SvidFiles) -> Result<Arc<dyn ClientCertVerifier>, FilesError> {
    let unusable = |reason: String| FilesError::Authority {
        path: files.bundle.clone(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(&read::public(&files.bundle)?).map_err(unusable)? {
        // A leaf here would let in whoever holds that one certificate: never what was meant.
        rules::root(&root).map_err(|rule| unusable(rule.to_string()))?;
        roots
            .add(root)
            .map_err(|error| unusable(error.to_string()))?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), crypto_provider());
    let clients = clients.build();
    clients.map_err(|error| unusable(error.to_string()))
}

fn expiry(certificate: &CertificateDer<'static>) -> Option<Timestamp> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

/// Why a client was refused; for our log, the client reads `certificate_unknown`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct ClientRefused(String);

fn refused(reason: impl fmt::Display) -> Error {
    info!(%reason, "client refused in the handshake");
    let refusal = ClientRefused(reason.to_string());
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let material = self.current();
        if material.not_after <= Timestamp::now() {
            warn!(
                expired_at = %material.not_after,
                "our certificate has expired, so nobody can connect; replace its file"
            );
            return None;
        }
        Some(Arc::clone(&material.certified))
    }
}

impl ClientCertVerifier for Certificates {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if signers.len() > MAX_SIGNERS {
            return Err(refused("its chain is too long"));
        }
        let clients = &self.current().clients;
        clients
            .verify_client_cert(leaf, signers, now)
            .map_err(refused)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // TLS 1.2 is not offered; the inner one knows what to do if it were.
        let clients = &self.current().clients;
        clients.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let clients = &self.current().clients;
        clients.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().clients.supported_verify_schemes()
    }
}

/// Who a certificate belongs to, as it says itself. Worth as much as whoever verified it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    name: String,
    expires_at: Timestamp,
}

impl Holder {
    /// Reads a leaf certificate; `None` when it is not a well-formed one.
    #[must_use]
    pub fn of(leaf: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        let name = match rules::leaf(leaf) {
            Ok(svid) => svid.id.to_string(),
            // A word before it, so that no subject can pass for a SPIFFE ID.
            Err(_) => format!("certificate {}", printable(&parsed.subject().to_string())),
        };
        Some(Self {
            name,
            expires_at: Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?,
        })
    }

    /// The SPIFFE ID of an X.509-SVID, else `certificate` and the subject, such as
    /// `certificate CN=ops`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When the certificate expires.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

/// A subject as one short line: whoever had it signed chose its characters.
fn printable(subject: &str) -> String {
    let plain = subject.chars().filter(|c| !c.is_control());
    plain.take(MAX_NAME).collect()
}
