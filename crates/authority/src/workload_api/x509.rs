//! The X.509-SVID profile.

use std::collections::{BTreeMap, HashSet};

use hostler_identity::TrustBundles;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use secrecy::ExposeSecret;
use tonic::Status;
use tracing::warn;

use super::entries::Entry;
use super::follow::Profile;
use super::identities::Identity;
use super::issuer::{Issuer, IssuerError};
use super::proto::{X509BundlesResponse, X509svid, X509svidResponse};
use super::service::{Desk, status};
use crate::keys::Bundles;

/// `FetchX509SVID`: the caller's identities with everything that belongs to them.
pub(super) struct Svids;

/// `FetchX509Bundles`: whom to trust, for who presents nothing.
pub(super) struct Roots;

impl<I: Issuer> Profile<I> for Svids {
    type Message = X509svidResponse;

    async fn compose(
        desk: &Desk<I>,
        entries: &[Entry],
        bundles: &Bundles,
    ) -> Result<(X509svidResponse, Option<Timestamp>), Status> {
        let (mut svids, mut first_due, mut refused) = (Vec::new(), None, None);
        let mut hints = Hints::default();
        for entry in entries {
            match desk.identities.get(entry.id(), &bundles.signer).await {
                Ok((identity, due)) => {
                    if let Some(hint) = hints.of(entry) {
                        svids.push(wire(&identity, &bundles.x509, hint)?);
                    }
                    first_due = Some(first_due.map_or(due, |first: Timestamp| first.min(due)));
                }
                // The authority's word against the entry's; the other identities stand.
                Err(error @ IssuerError::Refused(_)) => refused = Some(error),
                Err(error) => return Err(status(error)),
            }
        }
        if svids.is_empty() {
            let error = refused.unwrap_or_else(|| IssuerError::Refused("no identity".to_owned()));
            return Err(status(error));
        }
        let own = |trust_domain: &_| {
            entries
                .iter()
                .any(|e| e.id().trust_domain() == trust_domain)
        };
        let foreign = bundles.x509.iter().filter(|(domain, _)| !own(domain));
        let message = X509svidResponse {
            svids,
            crl: Vec::new(),
            federated_bundles: foreign.map(bundle).collect(),
        };
        Ok((message, first_due))
    }
}

impl<I: Issuer> Profile<I> for Roots {
    type Message = X509BundlesResponse;

    async fn compose(
        _: &Desk<I>,
        _: &[Entry],
        bundles: &Bundles,
    ) -> Result<(X509BundlesResponse, Option<Timestamp>), Status> {
        let bundles: BTreeMap<_, _> = bundles.x509.iter().map(bundle).collect();
        let crl = Vec::new();
        Ok((X509BundlesResponse { crl, bundles }, None))
    }
}

fn wire(identity: &Identity, bundles: &TrustBundles, hint: String) -> Result<X509svid, Status> {
    let id = identity.svid.id();
    let roots = bundles.get(id.trust_domain()).ok_or_else(|| {
        Status::unavailable(format!("there is no bundle for {} yet", id.trust_domain()))
    })?;
    Ok(X509svid {
        spiffe_id: id.to_string(),
        x509_svid: der(identity.svid.chain()),
        x509_svid_key: identity.key_der.expose_secret().to_vec(),
        bundle: der(roots),
        hint,
    })
}

fn bundle(
    (trust_domain, roots): (&hostler_identity::TrustDomain, &[CertificateDer<'static>]),
) -> (String, Vec<u8>) {
    (trust_domain.id_string(), der(roots))
}

/// Certificates one after the other, as the standard has them.
fn der(certificates: &[CertificateDer<'static>]) -> Vec<u8> {
    let bytes = certificates
        .iter()
        .flat_map(|certificate| certificate.iter());
    bytes.copied().collect()
}

/// Keeps answers free of what a client could not tell apart: the same identity twice, and a hint
/// that stands at two identities (the first one keeps it).
#[derive(Default)]
pub(super) struct Hints<'a> {
    given: HashSet<&'a str>,
    seen: HashSet<(&'a hostler_identity::SpiffeId, Option<&'a str>)>,
}

impl<'a> Hints<'a> {
    /// The hint for this entry, empty for none; `None` when it says nothing that was not said.
    pub(super) fn of(&mut self, entry: &'a Entry) -> Option<String> {
        if !self.seen.insert((entry.id(), entry.hint())) {
            return None;
        }
        let hint = entry.hint().unwrap_or_default();
        if hint.is_empty() || self.given.insert(hint) {
            return Some(hint.to_owned());
        }
        warn!(hint, id = %entry.id(), "two identities of one process have the same hint");
        Some(String::new())
    }
}
