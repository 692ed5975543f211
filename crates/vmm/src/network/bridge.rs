//! A bridge of the host, the VMs that are on it, and the rules that keep them apart.
//!
//! The bridge is there while a VM runs on it and gone with the last one. Whatever changes, the
//! rules are made anew from who is there and replaced in one step, so nothing depends on what they
//! were before: not on an earlier daemon, nor on somebody who flushed them.

mod care;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::sync::Mutex;

pub(crate) use self::care::Resident;
use super::error::NetworkError;
use super::holds::Hold;
use super::leases::Lease;
use super::names::Instance;
use super::rules::{Guest, Plan};
use super::subnet::Subnet;
use super::{host, links, nft, rules};
use crate::driver::Tap;
use crate::model::{PortForward, VmId};

/// A bridge, whether it is there now or not.
pub(crate) struct Bridge {
    instance: Instance,
    subnet: Subnet,
    gateway: Ipv4Addr,
    wire: Mutex<Wire>,
}

/// What is on the host now.
#[derive(Debug, Default)]
struct Wire {
    /// Whether the host was brought together with what is known here, since the daemon opened.
    settled: bool,
    /// Whether the bridge is there.
    up: bool,
    mtu: Option<u16>,
    name_server: Option<Ipv4Addr>,
    ports: BTreeMap<VmId, Port>,
}

/// A VM on the bridge.
#[derive(Debug)]
struct Port {
    lease: Lease,
    forwards: Vec<PortForward>,
    /// By forward; one that could not be held again is missing.
    holds: Vec<(PortForward, Hold)>,
}

impl Bridge {
    /// A bridge that is looked after for as long as this lives.
    pub(crate) fn new(instance: Instance, subnet: Subnet, gateway: Ipv4Addr) -> Arc<Self> {
        let bridge = Arc::new(Self {
            instance,
            subnet,
            gateway,
            wire: Mutex::default(),
        });
        tokio::spawn(care::look_after(Arc::downgrade(&bridge)));
        bridge
    }

    pub(crate) fn name(&self) -> String {
        self.instance.bridge()
    }

    /// Puts a VM on the bridge: makes its tap device, for a process of `owner`, and lets ports
    /// lead to it. On an error nothing of it is there.
    pub(crate) async fn plug(
        &self,
        lease: Lease,
        forwards: &[PortForward],
        owner: u32,
    ) -> Result<Tap, NetworkError> {
        let hold = |forward: &PortForward| Hold::take(forward).map(|hold| (*forward, hold));
        let holds = forwards.iter().map(hold).collect::<Result<_, _>>()?;
        let mut wire = self.wire.lock().await;
        if !wire.settled {
            self.settle(&mut wire).await?;
        }
        let vm = lease.vm;
        let tap = self.tap(&lease);
        wire.ports.insert(
            vm,
            Port {
                lease,
                forwards: forwards.to_vec(),
                holds,
            },
        );
        let made = async {
            if !wire.up {
                self.bring_up(&mut wire).await?;
            }
            let script = links::tap_up(&self.instance, &tap, vm, owner, wire.mtu);
            links::carry_out(&script).await?;
            self.apply(&mut wire).await
        };
        if let Err(error) = made.await {
            self.unplug_from(&mut wire, vm).await;
            return Err(error);
        }
        Ok(Tap {
            mtu: wire.mtu,
            ..self.outlook(&wire.ports[&vm].lease)
        })
    }

    /// What [`Bridge::plug`] would make, as far as it is known before.
    pub(crate) fn outlook(&self, lease: &Lease) -> Tap {
        Tap {
            name: self.tap(lease),
            address: lease.address,
            prefix: self.subnet.prefix(),
            gateway: self.gateway,
            mtu: None,
        }
    }

    /// Takes a VM off the bridge, and with the last one the bridge off the host. What cannot be
    /// removed now is swept up when a daemon opens next.
    pub(crate) async fn unplug(&self, vm: VmId) {
        let mut wire = self.wire.lock().await;
        self.unplug_from(&mut wire, vm).await;
    }

    async fn unplug_from(&self, wire: &mut Wire, vm: VmId) {
        let Some(port) = wire.ports.remove(&vm) else {
            return;
        };
        // First the rules: they name what is about to go.
        let mut problems = vec![self.apply(wire).await];
        problems.push(links::carry_out(&links::down(&self.tap(&port.lease))).await);
        if wire.ports.is_empty() && wire.up {
            problems.push(links::carry_out(&links::down(&self.name())).await);
            wire.up = false;
        }
        for error in problems.into_iter().filter_map(Result::err) {
            tracing::warn!(vm = %port.lease.name, %error, "a VM's network was not removed whole");
        }
    }

    /// Lets a port lead to a VM from now on; nothing happens for one that is not on the bridge.
    pub(crate) async fn add_forward(
        &self,
        vm: VmId,
        forward: PortForward,
    ) -> Result<(), NetworkError> {
        let mut wire = self.wire.lock().await;
        let Some(port) = wire.ports.get_mut(&vm) else {
            return Ok(());
        };
        port.holds.push((forward, Hold::take(&forward)?));
        port.forwards.push(forward);
        let applied = self.apply(&mut wire).await;
        if applied.is_err() {
            strike_out(&mut wire, vm, forward);
        }
        applied
    }

    /// Takes such a port back.
    pub(crate) async fn remove_forward(
        &self,
        vm: VmId,
        forward: PortForward,
    ) -> Result<(), NetworkError> {
        let mut wire = self.wire.lock().await;
        strike_out(&mut wire, vm, forward);
        self.apply(&mut wire).await
    }

    async fn bring_up(&self, wire: &mut Wire) -> Result<(), NetworkError> {
        wire.mtu = links::mtu_of_ways_out(&links::routes().await?, &links::interfaces().await?);
        let script = links::bridge_up(&self.instance, self.gateway, self.subnet.prefix());
        // From here on there is something to take down.
        wire.up = true;
        links::carry_out(&script).await?;
        host::set_kernel_up(&self.name())?;
        Ok(())
    }

    /// Makes the rules what they should be.
    async fn apply(&self, wire: &mut Wire) -> Result<(), NetworkError> {
        if wire.ports.is_empty() {
            return nft::carry_out(&rules::removal(&self.instance)).await;
        }
        wire.name_server = host::name_server();
        let guests = wire.ports.values().map(|port| Guest {
            lease: &port.lease,
            forwards: &port.forwards,
        });
        let plan = Plan {
            instance: &self.instance,
            subnet: self.subnet,
            gateway: self.gateway,
            name_server: wire.name_server,
            guests: guests.collect(),
        };
        nft::carry_out(&rules::replacement(&plan)).await
    }

    /// Whether the kernel would take our rules.
    pub(crate) async fn try_rules(&self) -> Result<(), NetworkError> {
        let plan = Plan {
            instance: &self.instance,
            subnet: self.subnet,
            gateway: self.gateway,
            name_server: Some(self.gateway),
            guests: Vec::new(),
        };
        nft::check(&rules::replacement(&plan)).await
    }

    fn tap(&self, lease: &Lease) -> String {
        self.instance.tap(self.subnet, lease.address)
    }
}

fn strike_out(wire: &mut Wire, vm: VmId, forward: PortForward) {
    if let Some(port) = wire.ports.get_mut(&vm) {
        port.forwards.retain(|other| *other != forward);
        port.holds.retain(|(other, _)| *other != forward);
    }
}
