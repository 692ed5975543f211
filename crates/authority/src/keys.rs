//! Everything that an authority signs with, and the bundle that follows from it.
//!
//! There are two successions, of roots for X.509-SVIDs and of keys for JWT-SVIDs, that move by
//! the same rule and are stored and published together.

use std::time::Duration;

use hostler_identity::{BundleDocument, JwtBundle, JwtBundles, TrustBundles, TrustDomain};
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;

use crate::authority::Lifetimes;
use crate::jwt_signer::JwtSigner;
use crate::mint;
use crate::signer::Signer;
use crate::succession::{Dated, Succession};

/// By what members of a trust domain recognise each other, and members of federated ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundles {
    /// The roots of X.509-SVIDs.
    pub x509: TrustBundles,
    /// The keys of JWT-SVIDs.
    pub jwt: JwtBundles,
    /// Which root signs at present, by a fingerprint. When it is another one, identities are made
    /// anew at once: the root before it may have been given up because its key became known.
    pub signer: String,
}

/// The keys of one authority.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) roots: Succession<Signer>,
    pub(crate) jwt: Succession<JwtSigner>,
}

impl Keys {
    pub(crate) fn begin(
        trust_domain: &TrustDomain,
        lifetimes: &Lifetimes,
        now: Timestamp,
    ) -> Result<Self, rcgen::Error> {
        Ok(Self {
            roots: Succession::begin(root(trust_domain, lifetimes, now)?),
            jwt: Succession::begin(jwt_key(lifetimes, now)?),
        })
    }

    /// The keys of an authority that began before it signed JWT-SVIDs.
    pub(crate) fn with_first_jwt_key(
        roots: Succession<Signer>,
        lifetimes: &Lifetimes,
        now: Timestamp,
    ) -> Result<Self, rcgen::Error> {
        let mut jwt = Succession::begin(jwt_key(lifetimes, now)?);
        // The published set has changed by it.
        jwt.sequence += 1;
        Ok(Self { roots, jwt })
    }

    /// Moves on to what holds at `now`. Answers whether anything has changed.
    pub(crate) fn advance(
        &mut self,
        trust_domain: &TrustDomain,
        lifetimes: &Lifetimes,
        now: Timestamp,
    ) -> Result<bool, rcgen::Error> {
        let roots = self
            .roots
            .advance(now, || root(trust_domain, lifetimes, now))?;
        let jwt = self.jwt.advance(now, || jwt_key(lifetimes, now))?;
        Ok(roots || jwt)
    }

    /// Publishes new keys at once, which sign from `sign_at` on.
    pub(crate) fn force(
        &mut self,
        sign_at: Timestamp,
        trust_domain: &TrustDomain,
        lifetimes: &Lifetimes,
        now: Timestamp,
    ) -> Result<(), rcgen::Error> {
        // Peers whose clocks are behind accept for a little longer what has expired.
        let linger = |life: SignedDuration| life + lifetimes.backdate;
        self.roots.force(sign_at, linger(lifetimes.svid), || {
            root(trust_domain, lifetimes, now)
        })?;
        self.jwt
            .force(sign_at, linger(mint::LONGEST), || jwt_key(lifetimes, now))
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(crate) fn due(&self) -> Timestamp {
        self.roots.due().min(self.jwt.due())
    }

    /// When the first of the keys that sign comes to its end.
    pub(crate) fn first_end(&self) -> Timestamp {
        let root = self.roots.active.root().not_after();
        root.min(self.jwt.active.public().not_after())
    }

    /// Grows with every change of the published set, because each part only grows; 1 at first.
    pub(crate) fn sequence(&self) -> u64 {
        self.roots.sequence + self.jwt.sequence - 1
    }

    pub(crate) fn bundles(&self, trust_domain: &TrustDomain) -> Bundles {
        let mut bundles = Bundles::default();
        bundles
            .x509
            .insert(trust_domain.clone(), self.root_certificates())
            .expect("our own roots are certificate authorities");
        bundles.jwt.insert(trust_domain.clone(), self.jwt_bundle());
        bundles.signer = self.roots.active.root().fingerprint();
        bundles
    }

    /// The bundle as a JWK set.
    pub(crate) fn document(&self, refresh_hint: SignedDuration) -> String {
        let document = BundleDocument {
            roots: self.root_certificates(),
            jwt: self.jwt_bundle(),
            sequence: Some(self.sequence()),
            refresh_hint: Some(Duration::from_secs(refresh_hint.as_secs().unsigned_abs())),
        };
        document.to_json().expect("our own roots are ECDSA P-256")
    }

    fn root_certificates(&self) -> Vec<CertificateDer<'static>> {
        self.roots.roots().map(|root| root.der().clone()).collect()
    }

    fn jwt_bundle(&self) -> JwtBundle {
        let mut bundle = JwtBundle::new();
        for public in self.jwt.roots() {
            bundle.insert(public.kid.clone(), public.key.clone());
        }
        bundle
    }
}

fn root(
    trust_domain: &TrustDomain,
    lifetimes: &Lifetimes,
    now: Timestamp,
) -> Result<Signer, rcgen::Error> {
    Signer::spiffe(trust_domain, now - lifetimes.backdate, lifetimes.root)
}

fn jwt_key(lifetimes: &Lifetimes, now: Timestamp) -> Result<JwtSigner, rcgen::Error> {
    JwtSigner::generate(now - lifetimes.backdate, lifetimes.root)
}
