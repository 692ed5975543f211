//! Federation: the bundles of foreign trust domains, fetched from where they publish them and
//! kept fresh ([SPIFFE Federation](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md) §5).
//!
//! A [`BundleEndpoint`] says where, and by which [`Client`](hostler_identity::Client) to ask: one
//! over web certificates is the profile `https_web`, one that accepts a SPIFFE ID of the foreign
//! domain is `https_spiffe`. [`Federated`] is an [`Issuer`] that adds what they answer to the
//! bundles of another one; local processes then recognise the foreign domains' members, if their
//! authorizers name them.
//!
//! An endpoint that is away, or answers nonsense, takes nothing back: the last good bundle stays.

mod endpoint;
mod schedule;

use std::collections::BTreeMap;

use hostler_identity::{BundleDocument, SpiffeId, TrustDomain};
use secrecy::SecretString;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::keys::Bundles;
use crate::random;
use crate::workload_api::{Issuer, IssuerError};
pub use endpoint::{BundleEndpoint, BundleEndpointError, FetchError};
use schedule::{News, Pace};

/// An issuer whose local processes recognise foreign trust domains too.
#[derive(Debug)]
pub struct Federated<I> {
    issuer: I,
    bundles: watch::Receiver<Bundles>,
}

/// Endpoints that cannot be followed together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FederationError {
    /// Somebody else would say who our own members are.
    #[error("{0} is our own trust domain; its bundle is not to be had from elsewhere")]
    OwnTrustDomain(TrustDomain),
    /// Two endpoints speak for one trust domain.
    #[error("there are two bundle endpoints for {0}; give one")]
    Twice(TrustDomain),
}

impl<I: Issuer> Federated<I> {
    /// Begins to follow the endpoints, in a background task that ends with the last receiver of
    /// the bundles. Until an endpoint has answered, its domain's members are not recognised.
    /// Must be called within a tokio runtime.
    pub fn new(issuer: I, endpoints: Vec<BundleEndpoint>) -> Result<Self, FederationError> {
        let own = issuer.bundles();
        let now = own.borrow().clone();
        let mut named = BTreeMap::new();
        for endpoint in endpoints {
            let domain = endpoint.trust_domain().clone();
            if now.x509.get(&domain).is_some() || now.jwt.get(&domain).is_some() {
                return Err(FederationError::OwnTrustDomain(domain));
            }
            if named.insert(domain.clone(), endpoint).is_some() {
                return Err(FederationError::Twice(domain));
            }
        }
        let (sender, bundles) = watch::channel(now);
        tokio::spawn(merge(own, named.into_values().collect(), sender));
        Ok(Self { issuer, bundles })
    }
}

impl<I: Issuer> Issuer for Federated<I> {
    fn sign(
        &self,
        id: SpiffeId,
        csr_pem: String,
    ) -> impl Future<Output = Result<String, IssuerError>> + Send {
        self.issuer.sign(id, csr_pem)
    }

    fn mint(
        &self,
        id: SpiffeId,
        audience: Vec<String>,
    ) -> impl Future<Output = Result<SecretString, IssuerError>> + Send {
        self.issuer.mint(id, audience)
    }

    fn bundles(&self) -> watch::Receiver<Bundles> {
        self.bundles.clone()
    }
}

type Found = (TrustDomain, BundleDocument);

/// Our own bundles with the foreign ones, again whenever one of them changes.
async fn merge(
    mut own: watch::Receiver<Bundles>,
    endpoints: Vec<BundleEndpoint>,
    all: watch::Sender<Bundles>,
) {
    let (found, mut foreign) = mpsc::channel(1);
    // They end with this set.
    let mut following = JoinSet::new();
    for endpoint in endpoints {
        following.spawn(follow(endpoint, found.clone()));
    }
    let mut known = BTreeMap::new();
    loop {
        tokio::select! {
            () = all.closed() => return,
            changed = own.changed() => if changed.is_err() { return },
            // We hold a sender, so the channel does not end.
            Some((domain, document)) = foreign.recv() => drop(known.insert(domain, document)),
        }
        let mut merged = own.borrow_and_update().clone();
        for (domain, document) in &known {
            add(&mut merged, domain, document);
        }
        all.send_if_modified(|now| {
            let changed = *now != merged;
            *now = merged;
            changed
        });
    }
}

/// What is our own stays our own, whatever anybody publishes.
fn add(bundles: &mut Bundles, domain: &TrustDomain, document: &BundleDocument) {
    if bundles.x509.get(domain).is_some() || bundles.jwt.get(domain).is_some() {
        return;
    }
    if let Err(error) = bundles.x509.insert(domain.clone(), document.roots.clone()) {
        // The document's reader has asked the same of its roots.
        warn!(%domain, %error, "a foreign bundle cannot be used");
        return;
    }
    bundles.jwt.insert(domain.clone(), document.jwt.clone());
}

/// Asks an endpoint again and again, and passes on what is new.
async fn follow(endpoint: BundleEndpoint, found: mpsc::Sender<Found>) {
    let domain = endpoint.trust_domain();
    let mut last: Option<BundleDocument> = None;
    let mut pace = Pace::default();
    loop {
        match endpoint.fetch().await {
            Ok(document) => {
                pace.succeeded(document.refresh_hint);
                match schedule::compare(last.as_ref(), &document) {
                    News::Same => {}
                    News::Older { known, found } => {
                        warn!(%domain, known, found, "an older bundle was answered, and is left");
                    }
                    News::New => {
                        info!(%domain, sequence = document.sequence, "foreign bundle");
                        last = Some(document.clone());
                        if found.send((domain.clone(), document)).await.is_err() {
                            return;
                        }
                    }
                }
            }
            Err(error) => {
                pace.failed();
                warn!(%domain, %error, "no foreign bundle; the last one stays");
            }
        }
        tokio::time::sleep(pace.wait(random::jitter())).await;
    }
}
