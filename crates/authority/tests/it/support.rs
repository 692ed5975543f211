//! An authority in a directory of its own.

use std::path::Path;

use hostler_authority::{Authority, Lifetimes, OpenError};
use hostler_identity::{KeyAndCsr, SpiffeId, Svid, TrustDomain};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

pub(crate) const HOUR: SignedDuration = SignedDuration::from_hours(1);
pub(crate) const DAY: SignedDuration = SignedDuration::from_hours(24);

pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("a.example").unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    format!("spiffe://a.example{path}").parse().unwrap()
}

pub(crate) fn new() -> (Authority, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open(dir.path()).unwrap(), dir)
}

pub(crate) fn open(dir: &Path) -> Result<Authority, OpenError> {
    Authority::open(dir, domain())
}

pub(crate) fn open_at(dir: &Path, now: Timestamp) -> Result<Authority, OpenError> {
    Authority::open_with(dir, domain(), Lifetimes::default(), now)
}

/// An SVID for a fresh key, by way of a certificate request.
pub(crate) fn enrol(authority: &Authority, path: &str, now: Timestamp) -> Svid {
    let own = KeyAndCsr::generate(None).unwrap();
    let issued = authority.sign_csr(&own.csr_pem, &id(path), now).unwrap();
    Svid::from_pem(&issued.chain_pem, &own.key_pem).unwrap()
}
