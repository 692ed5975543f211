//! A live identity: what a process is right now, and by whom it recognises others.
//!
//! A [`Source`] is read in every handshake; whoever provides the identity (the Workload API, the
//! embedded authority, an enrolled host, a test) holds the other end, a [`SourceWriter`]. A write
//! is seen by the next handshake, with no moment in between in which a handshake would fail.
//! Everything fails closed: a withdrawn identity, an expired one, and one whose writer is gone
//! are neither presented nor used to recognise anybody.

use std::sync::Arc;

use jiff::Timestamp;
use spiffe::{SpiffeId, TrustDomain};
use tokio::sync::watch;

use crate::bundle::TrustBundles;
use crate::svid::Svid;
use crate::tls::Trust;

/// A live identity. Cheap to clone; clones see the same identity.
#[derive(Clone)]
pub struct Source {
    state: watch::Receiver<State>,
}

/// The writing end of a [`Source`]. When it is dropped, the source is closed: its identity is no
/// longer presented.
pub struct SourceWriter {
    state: watch::Sender<State>,
}

/// Why a source has no identity to present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// Whoever gave the identity took it back.
    #[error("the identity was withdrawn; it comes back when its provider issues one again")]
    Withdrawn,
    /// The certificate's time is over and no newer one has come.
    #[error("the identity expired at {0} and was not renewed; check its provider and the clock")]
    Expired(Timestamp),
    /// The provider of the identity has ended.
    #[error("the source of the identity is closed; make a new one")]
    Closed,
}

/// The source's writer is gone: there will be no further change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the source of the identity is closed; make a new one")]
pub struct SourceClosed;

#[derive(Clone)]
enum State {
    Live(Arc<Material>),
    Withdrawn,
}

/// An identity and the roots that belong with it, replaced as one.
pub(crate) struct Material {
    pub(crate) svid: Svid,
    pub(crate) bundles: TrustBundles,
    pub(crate) trust: Trust,
}

impl Material {
    fn new(svid: Svid, bundles: TrustBundles) -> Self {
        let trust = Trust::new(&bundles);
        Self {
            svid,
            bundles,
            trust,
        }
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        self.svid.id().trust_domain()
    }
}

impl Source {
    /// A source in memory, and the writer that replaces or withdraws its identity.
    #[must_use]
    pub fn memory(svid: Svid, bundles: TrustBundles) -> (Self, SourceWriter) {
        let (sender, receiver) = watch::channel(State::live(svid, bundles));
        (Self { state: receiver }, SourceWriter { state: sender })
    }

    /// The identity as it is now.
    pub fn svid(&self) -> Result<Svid, Unavailable> {
        self.current(Timestamp::now())
            .map(|material| material.svid.clone())
    }

    /// The SPIFFE ID as it is now.
    pub fn id(&self) -> Result<SpiffeId, Unavailable> {
        self.current(Timestamp::now())
            .map(|material| material.svid.id().clone())
    }

    /// When the present certificate expires.
    pub fn svid_expiry(&self) -> Result<Timestamp, Unavailable> {
        self.current(Timestamp::now())
            .map(|material| material.svid.not_after())
    }

    /// The trust bundles as they are now.
    pub fn bundles(&self) -> Result<TrustBundles, Unavailable> {
        self.current(Timestamp::now())
            .map(|material| material.bundles.clone())
    }

    /// Waits for the next change after the last one that this clone has seen: a new identity,
    /// new bundles, or a withdrawal. Changes that come together are seen as one.
    pub async fn changed(&mut self) -> Result<(), SourceClosed> {
        self.state.changed().await.map_err(|_| SourceClosed)
    }

    /// What may be presented at `now`.
    pub(crate) fn current(&self, now: Timestamp) -> Result<Arc<Material>, Unavailable> {
        // The channel says whether its sender is gone only together with whether it has changed.
        if self.state.has_changed().is_err() {
            return Err(Unavailable::Closed);
        }
        match &*self.state.borrow() {
            State::Withdrawn => Err(Unavailable::Withdrawn),
            State::Live(material) if material.svid.not_after() < now => {
                Err(Unavailable::Expired(material.svid.not_after()))
            }
            State::Live(material) => Ok(Arc::clone(material)),
        }
    }
}

impl SourceWriter {
    /// Replaces identity and bundles at once.
    pub fn replace(&self, svid: Svid, bundles: TrustBundles) {
        self.state.send_replace(State::live(svid, bundles));
    }

    /// Replaces the identity and keeps the bundles. A withdrawn source stays withdrawn, because
    /// it has no bundles to keep: the answer is then `false`, and [`replace`](Self::replace) is
    /// what brings it back.
    pub fn replace_svid(&self, svid: Svid) -> bool {
        self.state.send_if_modified(|state| match state {
            State::Live(old) => {
                *state = State::live(svid, old.bundles.clone());
                true
            }
            State::Withdrawn => false,
        })
    }

    /// Replaces the bundles and keeps the identity; `false` when there is none to keep.
    pub fn replace_bundles(&self, bundles: TrustBundles) -> bool {
        self.state.send_if_modified(|state| match state {
            State::Live(old) => {
                *state = State::live(old.svid.clone(), bundles);
                true
            }
            State::Withdrawn => false,
        })
    }

    /// Takes the identity back. From now on it is not presented, and peers are refused.
    pub fn withdraw(&self) {
        self.state.send_replace(State::Withdrawn);
    }

    /// The identity as it was last written; `None` when it is withdrawn.
    #[must_use]
    pub fn svid(&self) -> Option<Svid> {
        match &*self.state.borrow() {
            State::Live(material) => Some(material.svid.clone()),
            State::Withdrawn => None,
        }
    }

    /// The bundles as they were last written; `None` when the identity is withdrawn.
    #[must_use]
    pub fn bundles(&self) -> Option<TrustBundles> {
        match &*self.state.borrow() {
            State::Live(material) => Some(material.bundles.clone()),
            State::Withdrawn => None,
        }
    }

    /// Waits until nobody uses the source any more, neither directly nor through a TLS
    /// configuration made from it: the time for a renewing task to end.
    pub async fn unused(&self) {
        self.state.closed().await;
    }
}

impl State {
    fn live(svid: Svid, bundles: TrustBundles) -> Self {
        Self::Live(Arc::new(Material::new(svid, bundles)))
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Source").field(&self.svid()).finish()
    }
}

impl std::fmt::Debug for SourceWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceWriter").finish_non_exhaustive()
    }
}
