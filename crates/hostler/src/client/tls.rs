//! One-way TLS: the server must be signed by the given CA, or by one that this system trusts. Client
//! commands recognise their control plane by it, and a control plane foreign bundle endpoints.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use rustls::{CertificateError, ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::failure::{Doing, Failure};

/// Debian's, Fedora's and Alpine's place for what the system trusts.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

pub(crate) fn config(ca: Option<&Path>) -> Result<ClientConfig, Failure> {
    speaking(&[&rustls::version::TLS13], ca)
}

/// For servers that are not ours, which may not know TLS 1.3 yet.
pub(crate) fn of_others(ca: Option<&Path>) -> Result<ClientConfig, Failure> {
    speaking(&[&rustls::version::TLS13, &rustls::version::TLS12], ca)
}

fn speaking(
    versions: &[&'static SupportedProtocolVersion],
    ca: Option<&Path>,
) -> Result<ClientConfig, Failure> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .doing(|| "cannot set up TLS")?
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    Ok(config)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, Failure> {
    let system = || {
        SYSTEM_ROOTS
            .iter()
            .map(Path::new)
            .find(|path| path.exists())
    };
    let path = ca.or_else(system).ok_or_else(|| {
        Failure::new("which CA signed the server's certificate? give --ca FILE or set HOSTLER_CA")
    })?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .doing(|| format!("cannot read the CA {}", path.display()))?;
    let (added, _) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(Failure::new(format!(
            "{} holds no CA certificate",
            path.display()
        )));
    }
    Ok(roots)
}

/// What TLS did not like about the server.
pub(super) enum TlsComplaint {
    /// No known CA signed its certificate.
    UnknownAuthority,
    /// Its certificate is for these names.
    OtherName(String),
}

/// Finds what TLS did not like in a chain of causes.
pub(super) fn complaint(error: &(dyn Error + 'static)) -> Option<TlsComplaint> {
    let mut link = Some(error);
    while let Some(error) = link {
        // An I/O error is not the source of what it carries, so it has to be unpacked.
        let carried = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(found) = carried.and_then(|carried| complaint(carried)) {
            return Some(found);
        }
        let tls = error.downcast_ref::<rustls::Error>();
        if let Some(rustls::Error::InvalidCertificate(bad)) = tls {
            return match bad {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Some(TlsComplaint::UnknownAuthority)
                }
                CertificateError::NotValidForNameContext { presented, .. } => {
                    Some(TlsComplaint::OtherName(presented.join(", ")))
                }
                _ => None,
            };
        }
        link = error.source();
    }
    None
}
