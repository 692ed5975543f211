//! A VM's place on the network: given to it before it is there, and given back unless it comes to be.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use super::leases::{Lease, Leases};
use super::lock;
use crate::config::NetworkChoice;
use crate::initrd::GUEST_ADDRESS;
use crate::model::VmId;
use crate::spec::MacAddress;

/// Where a VM is on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) network: NetworkChoice,
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: MacAddress,
}

/// A place for a VM in the making, given back unless the VM comes to be.
pub(crate) struct Claim {
    pub(crate) home: Home,
    pub(super) given: Option<(Arc<Mutex<Leases>>, VmId)>,
}

impl Claim {
    pub(crate) fn keep(mut self) {
        self.given = None;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What is written down of it counts for nothing without its VM, and goes with the next
        // change.
        if let Some((leases, vm)) = self.given.take() {
            lock(&leases).release(vm);
        }
    }
}

impl Home {
    pub(super) fn in_user_mode(mac: MacAddress) -> Self {
        Self {
            network: NetworkChoice::User,
            address: GUEST_ADDRESS,
            mac,
        }
    }

    pub(super) fn of(lease: Lease) -> Self {
        Self {
            network: NetworkChoice::Bridge,
            address: lease.address,
            mac: lease.mac,
        }
    }
}
