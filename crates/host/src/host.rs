//! The state that the host door's operations work on.

use std::sync::atomic::{AtomicBool, Ordering};

use hostler_identity::{Holder, PeerIdentity};
use hostler_operations::{Grants, Identity};
use hostler_vmm::{Health, Machines};
use tracing::{info, warn};

use crate::operations::SCOPES;

/// One host: its machines, and whether it takes new work at present.
pub struct Host {
    machines: Machines,
    takes_work: AtomicBool,
}

impl Host {
    /// A host that takes work.
    pub fn new(machines: Machines) -> Self {
        Self {
            machines,
            takes_work: AtomicBool::new(true),
        }
    }

    /// The machines of this host.
    pub fn machines(&self) -> &Machines {
        &self.machines
    }

    /// Whether VMs may be created and started. Only an agent whose control plane refuses it says
    /// no; stopping, deleting and looking are always possible.
    pub fn takes_work(&self) -> bool {
        self.takes_work.load(Ordering::Relaxed)
    }

    pub(crate) fn set_takes_work(&self, takes_work: bool) {
        let before = self.takes_work.swap(takes_work, Ordering::Relaxed);
        if before && !takes_work {
            warn!("the control plane refuses this host: it takes no new work until that is mended");
        } else if !before && takes_work {
            info!("the control plane accepts this host again: it takes work");
        }
    }

    /// Whether the host works and takes work. As quick as it can be asked.
    pub fn health(&self) -> Health {
        let health = self.machines.health();
        if self.takes_work() {
            return health;
        }
        let mut reasons = match health {
            Health::Degraded { reasons } => reasons,
            _ => Vec::new(),
        };
        reasons.push("the control plane refuses this host, so it takes no new work".to_owned());
        Health::Degraded { reasons }
    }

    /// Who calls the host door. The handshake has already let in only authorized peers, and those
    /// may do everything here.
    pub fn identify(&self, peer: Option<&PeerIdentity>) -> Option<Identity> {
        Some(everything(peer?.id().to_string()))
    }

    /// The same on a standalone host's door, which knows its operators by certificates of one CA,
    /// with or without a SPIFFE ID.
    pub fn identify_holder(&self, holder: &Holder) -> Identity {
        everything(holder.name().to_owned())
    }
}

fn everything(subject: String) -> Identity {
    Identity::new(subject, Grants::from_iter(SCOPES))
}
