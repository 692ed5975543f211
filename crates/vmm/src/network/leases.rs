//! Who has which address of the bridge's subnet: arithmetic, without a disk or a host.
//!
//! An address is a VM's from its creation to its deletion, running or not. The next one to be
//! given is the first free one behind the last that was given, so an address rests for as long as
//! it can before somebody else gets it: what still remembers the old owner has time to forget.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::subnet::Subnet;
use crate::capacity::{InsufficientCapacity, Resource};
use crate::model::VmId;
use crate::name::VmName;
use crate::spec::MacAddress;

/// An address on the bridge, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lease {
    pub(crate) vm: VmId,
    /// What the VM is called: it keeps its address even while its record cannot be read.
    pub(crate) name: VmName,
    pub(crate) address: Ipv4Addr,
    pub(crate) mac: MacAddress,
}

/// All leases of a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Pages", into = "Pages")]
pub(crate) struct Leases {
    subnet: Subnet,
    /// The address that was given last.
    last: Ipv4Addr,
    leases: BTreeMap<VmId, Lease>,
}

/// Leases as they are written down.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pages {
    subnet: Subnet,
    last: Ipv4Addr,
    leases: Vec<Lease>,
}

impl Leases {
    pub(crate) fn new(subnet: Subnet) -> Self {
        Self {
            subnet,
            last: gateway(subnet),
            leases: BTreeMap::new(),
        }
    }

    pub(crate) fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// The host's own address on the subnet: the first.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        gateway(self.subnet)
    }

    /// How many VMs can have an address.
    pub(crate) fn total(&self) -> u64 {
        u64::from(self.subnet.hosts().end - self.subnet.hosts().start).saturating_sub(1)
    }

    pub(crate) fn used(&self) -> u64 {
        self.leases.len() as u64
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    pub(crate) fn of(&self, vm: VmId) -> Option<&Lease> {
        self.leases.get(&vm)
    }

    /// Gives a VM an address; the one that it has, when it has one. It keeps its MAC address
    /// unless another VM has that too.
    pub(crate) fn grant(
        &mut self,
        vm: VmId,
        name: &VmName,
        mac: Option<&MacAddress>,
    ) -> Result<Lease, InsufficientCapacity> {
        if let Some(lease) = self.of(vm) {
            return Ok(lease.clone());
        }
        let address = self.free_address().ok_or(InsufficientCapacity {
            resource: Resource::Addresses,
            asked: 1,
            available: 0,
        })?;
        let is_taken = |mac: &MacAddress| self.all().any(|lease| lease.mac == *mac);
        let mut mac = mac.cloned().unwrap_or_else(MacAddress::generate);
        while is_taken(&mac) {
            mac = MacAddress::generate();
        }
        let lease = Lease {
            vm,
            name: name.clone(),
            address,
            mac,
        };
        self.last = address;
        self.leases.insert(vm, lease.clone());
        Ok(lease)
    }

    /// Enters a lease that a VM's own record tells of; false when another VM has the address.
    pub(crate) fn enter(&mut self, lease: Lease) -> bool {
        let fits = self.is_for_guests(lease.address)
            && !self.all().any(|other| {
                other.vm != lease.vm && (other.address == lease.address || other.mac == lease.mac)
            });
        if fits {
            self.leases.insert(lease.vm, lease);
        }
        fits
    }

    /// Keeps the leases of which this is true.
    pub(crate) fn retain(&mut self, keep: impl Fn(&Lease) -> bool) {
        self.leases.retain(|_, lease| keep(lease));
    }

    pub(crate) fn release(&mut self, vm: VmId) {
        self.leases.remove(&vm);
    }

    fn free_address(&self) -> Option<Ipv4Addr> {
        let hosts = self.subnet.hosts();
        let last = u32::from(self.last);
        let behind = last.saturating_add(1).clamp(hosts.start, hosts.end);
        let candidates = (behind..hosts.end).chain(hosts.start..behind);
        candidates.map(Ipv4Addr::from).find(|address| {
            self.is_for_guests(*address) && !self.all().any(|lease| lease.address == *address)
        })
    }

    fn is_for_guests(&self, address: Ipv4Addr) -> bool {
        self.subnet.hosts().contains(&u32::from(address)) && address != self.gateway()
    }
}

fn gateway(subnet: Subnet) -> Ipv4Addr {
    subnet.hosts().start.into()
}

impl TryFrom<Pages> for Leases {
    type Error = String;

    fn try_from(pages: Pages) -> Result<Self, String> {
        let mut leases = Self {
            last: pages.last,
            ..Self::new(pages.subnet)
        };
        for lease in pages.leases {
            let address = lease.address;
            if leases.of(lease.vm).is_some() || !leases.enter(lease) {
                return Err(format!(
                    "{address} is leased twice, or is not of the subnet"
                ));
            }
        }
        Ok(leases)
    }
}

impl From<Leases> for Pages {
    fn from(leases: Leases) -> Self {
        Self {
            subnet: leases.subnet,
            last: leases.last,
            leases: leases.leases.into_values().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn leases(subnet: &str) -> Leases {
        Leases::new(subnet.parse().unwrap())
    }

    fn grant(leases: &mut Leases) -> Result<Lease, InsufficientCapacity> {
        leases.grant(VmId::generate(), &"web-1".parse().unwrap(), None)
    }

    #[test]
    fn a_full_subnet_is_an_error_and_not_an_address_that_somebody_has() {
        let mut leases = leases("10.77.3.0/29");
        assert_eq!(leases.total(), 5);
        let given: Vec<_> = (0..5).map(|_| grant(&mut leases).unwrap()).collect();
        let addresses: BTreeSet<_> = given.iter().map(|lease| lease.address).collect();
        assert_eq!(addresses.len(), 5);
        assert!(!addresses.contains(&leases.gateway()));
        let error = grant(&mut leases).unwrap_err();
        assert!(error.to_string().contains("0 addresses"), "{error}");
        leases.release(given[2].vm);
        assert_eq!(grant(&mut leases).unwrap().address, given[2].address);
    }

    #[test]
    fn an_address_rests_before_it_is_given_again() {
        let mut leases = leases("10.77.3.0/24");
        let first = grant(&mut leases).unwrap();
        leases.release(first.vm);
        assert_ne!(grant(&mut leases).unwrap().address, first.address);
    }

    #[test]
    fn a_vm_keeps_its_addresses_unless_another_has_its_mac_too() {
        let mut leases = leases("10.77.3.0/24");
        let first = grant(&mut leases).unwrap();
        assert_eq!(leases.grant(first.vm, &first.name, None), Ok(first.clone()));
        let (id, mac) = (VmId::generate(), MacAddress::generate());
        let kept = leases.grant(id, &first.name, Some(&mac)).unwrap();
        assert_eq!(kept.mac, mac);
        let twin = leases.grant(VmId::generate(), &first.name, Some(&mac));
        assert_ne!(twin.unwrap().mac, mac);
    }

    #[test]
    fn pages_that_give_an_address_twice_are_not_read() {
        let mut leases = leases("10.77.3.0/24");
        let mut twice = grant(&mut leases).unwrap();
        twice.vm = VmId::generate();
        let mut pages = Pages::from(leases.clone());
        let json = serde_json::to_value(&pages).unwrap();
        assert_eq!(serde_json::from_value::<Leases>(json).unwrap(), leases);
        pages.leases.push(twice);
        let json = serde_json::to_value(&pages).unwrap();
        assert!(serde_json::from_value::<Leases>(json).is_err());
    }

    proptest! {
        #[test]
        fn no_two_vms_ever_have_one_address(
            steps in prop::collection::vec((any::<bool>(), 0usize..8), 0..100),
        ) {
            let mut leases = leases("10.77.3.0/29");
            let mut held: Vec<Lease> = Vec::new();
            for (take, index) in steps {
                if take {
                    match grant(&mut leases) {
                        Ok(lease) => held.push(lease),
                        Err(_) => prop_assert_eq!(held.len(), 5),
                    }
                } else if index < held.len() {
                    leases.release(held.remove(index).vm);
                }
                let addresses: BTreeSet<_> = held.iter().map(|lease| lease.address).collect();
                prop_assert_eq!(addresses.len(), held.len());
                prop_assert_eq!(leases.used(), held.len() as u64);
            }
        }
    }
}
