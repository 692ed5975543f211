//! Trust bundles in the form that path validation needs, built once per change of a bundle
//! instead of once per handshake.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{Error, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};
use spiffe::TrustDomain;

use super::crypto_provider;
use crate::bundle::TrustBundles;

/// The roots of each trust domain, ready for use. A domain whose bundle is empty is not in here:
/// it trusts nobody.
pub(crate) struct Trust(BTreeMap<TrustDomain, Anchors>);

/// The roots of one trust domain.
pub(super) struct Anchors {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

impl Trust {
    pub(crate) fn new(bundles: &TrustBundles) -> Self {
        let ready = bundles.iter().filter_map(|(trust_domain, roots)| {
            Anchors::new(roots).map(|anchors| (trust_domain.clone(), anchors))
        });
        Self(ready.collect())
    }

    pub(super) fn anchors(&self, trust_domain: &TrustDomain) -> Option<&Anchors> {
        self.0.get(trust_domain)
    }
}

impl Anchors {
    fn new(bundle: &[CertificateDer<'static>]) -> Option<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(bundle.iter().cloned());
        let roots = Arc::new(roots);
        // Building fails for one reason: there is no root. Then there is nobody to trust either.
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), crypto_provider())
                .build()
                .ok()?;
        Some(Self { roots, clients })
    }

    /// Path validation (RFC 5280 §6) of a client's certificate at `now`.
    pub(super) fn verify_client(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.clients
            .verify_client_cert(leaf, signers, now)
            .map(|_| ())
    }

    /// Path validation (RFC 5280 §6) of a server's certificate at `now`, without its name.
    pub(super) fn verify_server(
        &self,
        leaf: &CertificateDer<'_>,
        signers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = crypto_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, signers, now, algorithms)
    }
}
