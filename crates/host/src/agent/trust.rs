//! How the agent recognises the people's door of the control plane, before it has an identity of
//! its own and whenever that has lapsed: one-way TLS 1.3.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hostler_identity::crypto_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::pin::{PinVerifier, ServerPin};

/// Where Linux distributions keep the certificate authorities of the web.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// By what the control plane's people's door is recognised.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServerTrust {
    /// A file with PEM certificates, one of which has signed the server's.
    CaFile(PathBuf),
    /// The same, as text.
    CaPem(String),
    /// The fingerprint of the server's key, or of its authority's.
    Pin(ServerPin),
    /// The certificate authorities that this system trusts.
    System,
}

/// What was given to recognise the server by cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The file cannot be read.
    #[error(
        "cannot read the CA file {}: {source}; copy ca.pem from the server's data directory",
        path.display()
    )]
    #[allow(missing_docs)]
    Read { path: PathBuf, source: io::Error },
    /// There is no certificate, or one that is none.
    #[error(
        "{place} holds no usable certificate ({reason}); copy ca.pem from the server's data \
         directory again"
    )]
    #[allow(missing_docs)]
    NoCertificate { place: String, reason: String },
    /// The system has no file of trusted authorities.
    #[error(
        "this system has no list of trusted certificate authorities; install ca-certificates, or \
         give the server's own CA or its pin"
    )]
    NoSystemRoots,
}

impl ServerTrust {
    /// A client's side of TLS that goes on only with that server.
    pub(crate) fn tls(&self) -> Result<ClientConfig, TrustError> {
        let builder = ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has the suites of TLS 1.3");
        let config = match self {
            Self::Pin(pin) => builder
                .dangerous() // rustls's word for any verifier that is not the web's
                .with_custom_certificate_verifier(Arc::new(PinVerifier(*pin)))
                .with_no_client_auth(),
            Self::CaFile(path) => builder
                .with_root_certificates(roots(&path.display().to_string(), &read(path)?)?)
                .with_no_client_auth(),
            Self::CaPem(pem) => builder
                .with_root_certificates(roots("the CA given", pem.as_bytes())?)
                .with_no_client_auth(),
            Self::System => builder
                .with_root_certificates(system_roots()?)
                .with_no_client_auth(),
        };
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TrustError> {
    std::fs::read(path).map_err(|source| TrustError::Read {
        path: path.to_owned(),
        source,
    })
}

fn roots(place: &str, pem: &[u8]) -> Result<RootCertStore, TrustError> {
    let unusable = |reason: String| TrustError::NoCertificate {
        place: place.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("it has no CERTIFICATE block".to_owned()));
    }
    Ok(roots)
}

/// The system's list may hold a certificate or two that webpki does not read; the others count.
fn system_roots() -> Result<RootCertStore, TrustError> {
    let path = SYSTEM_ROOTS
        .iter()
        .map(Path::new)
        .find(|path| path.exists());
    let pem = read(path.ok_or(TrustError::NoSystemRoots)?)?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(TrustError::NoSystemRoots);
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_empty_ca_file_is_an_error_that_names_it() {
        let missing = ServerTrust::CaFile("/nowhere/ca.pem".into());
        let text = missing.tls().unwrap_err().to_string();
        assert!(
            text.contains("/nowhere/ca.pem") && text.contains("copy ca.pem"),
            "{text}"
        );
        for bad in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let error = ServerTrust::CaPem(bad.to_owned()).tls().unwrap_err();
            assert!(
                matches!(error, TrustError::NoCertificate { .. }),
                "{bad:?}: {error}"
            );
        }
    }
}
