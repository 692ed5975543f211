//! The roll of enrolled hosts: who may come through the machines' door, and stay inside.
//!
//! It is asked in each handshake and must answer at once, so it is kept in memory beside the
//! books. Whoever is not on it is refused: a machine that was deleted has a valid certificate for
//! up to an hour, and it opens nothing any more.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock};

use hostler_identity::SpiffeId;
use tokio::sync::watch;

use crate::fleet::Fleet;
use crate::ids::HostId;

/// The hosts that have registered.
pub(crate) struct Roll {
    hosts: RwLock<HashSet<HostId>>,
    struck: watch::Sender<()>,
}

impl Roll {
    pub(crate) fn new(hosts: impl IntoIterator<Item = HostId>) -> Self {
        Self {
            hosts: RwLock::new(hosts.into_iter().collect()),
            struck: watch::Sender::new(()),
        }
    }

    /// Puts a host on the roll. To be called **before** the registration is committed, while no
    /// other change of the books can come in between; a host too many has no certificate yet.
    pub(crate) fn enter(&self, host: &HostId) {
        let mut hosts = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        hosts.insert(host.clone());
    }

    /// Takes a host from the roll, after it was deleted from the books.
    pub(crate) fn strike(&self, host: &HostId) {
        let mut hosts = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        hosts.remove(host);
        drop(hosts);
        self.struck.send_replace(());
    }

    /// Puts what the books say in the place of what was known.
    pub(crate) fn replace(&self, enrolled: impl IntoIterator<Item = HostId>) {
        let enrolled = enrolled.into_iter().collect();
        let mut hosts = self.hosts.write().unwrap_or_else(PoisonError::into_inner);
        let before: HashSet<HostId> = std::mem::replace(&mut *hosts, enrolled);
        let struck = before.iter().any(|host| !hosts.contains(host));
        drop(hosts);
        if struck {
            self.struck.send_replace(());
        }
    }

    fn holds(&self, host: &HostId) -> bool {
        let hosts = self.hosts.read().unwrap_or_else(PoisonError::into_inner);
        hosts.contains(host)
    }
}

impl Fleet {
    /// Whether this peer may come through the machines' door: an enrolled host, or a replica of
    /// the control plane, of our own trust domain. Never blocks.
    pub fn admits(&self, peer: &SpiffeId) -> bool {
        let ours = peer.is_member_of(self.authority.trust_domain());
        let replica = peer.path().strip_prefix("/control-plane/");
        ours && (replica.is_some_and(|name| !name.is_empty())
            || self
                .host_of(peer)
                .is_some_and(|host| self.roll.holds(&host)))
    }

    /// Changes whenever a peer that was admitted may be admitted no more.
    pub fn watch_dismissals(&self) -> watch::Receiver<()> {
        self.roll.struck.subscribe()
    }
}
