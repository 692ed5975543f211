//! Who may stay. A handshake decides who comes in; this is asked again about every connection that
//! lives whenever the answer may be another one.

use std::fmt;
use std::sync::Arc;

use hostler_identity::{PeerIdentity, SpiffeId};
use tokio::sync::watch;

type Admits = Arc<dyn Fn(&SpiffeId) -> bool + Send + Sync>;

/// Says of a peer whether it may (still) be connected, and when to ask again. Cheap to clone.
#[derive(Clone)]
pub struct Admission {
    admits: Admits,
    changed: watch::Receiver<()>,
}

impl Admission {
    /// `admits` is asked about each peer at the beginning of its connection, and again whenever
    /// `changed` changes; it must not block. A connection whose peer is admitted no more is cut,
    /// with what is in flight on it.
    #[must_use]
    pub fn new(
        admits: impl Fn(&SpiffeId) -> bool + Send + Sync + 'static,
        changed: watch::Receiver<()>,
    ) -> Self {
        Self {
            admits: Arc::new(admits),
            changed,
        }
    }

    /// Waits until this peer is admitted no more. Without a peer there is nothing to wait for.
    pub(super) async fn withdrawn(mut self, peer: Option<PeerIdentity>) {
        let Some(peer) = peer else {
            return std::future::pending().await;
        };
        loop {
            // Marked before it is asked: what changes meanwhile is asked about again.
            self.changed.mark_unchanged();
            if !(self.admits)(peer.id()) {
                return;
            }
            if self.changed.changed().await.is_err() {
                // Nobody is left who could take anything back.
                return std::future::pending().await;
            }
        }
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}
