//! A bridge of the host, the VMs that are on it, and the rules that keep them apart.
//!
//! The bridge is there while a VM runs on it and gone with the last one. Whatever changes, the
//! rules are made anew from who is there and replaced in one step, so nothing depends on what they
//! were before: not on an earlier daemon, nor on somebody who flushed them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Mutex;

use super::error::NetworkError;
use super::holds::Hold;
use super::leases::Lease;
use super::names::Instance;
use super::rules::{Guest, Plan};
use super::subnet::Subnet;
use super::{host, links, rules};
use crate::driver::Tap;
use crate::leaks::{Leak, LeakKind};
use crate::model::{PortForward, VmId};
use crate::tool::Tool;

/// How often it is looked whether the rules are still there and the name server is still the same.
const ROUND: Duration = Duration::from_secs(15);

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

/// A VM that was found running.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) lease: Lease,
    pub(crate) forwards: Vec<PortForward>,
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
        tokio::spawn(look_after(Arc::downgrade(&bridge)));
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

    /// Takes over what an earlier daemon has left: the tap devices of VMs that still run stay,
    /// the others go, and the rules become what they should be. `residents` is asked under the
    /// bridge's lock, so no VM can end unnoticed meanwhile.
    pub(crate) async fn adopt(
        &self,
        residents: impl FnOnce() -> Vec<Resident>,
    ) -> Result<(), NetworkError> {
        let mut wire = self.wire.lock().await;
        let residents = residents();
        let interfaces = links::interfaces().await?;
        let names: BTreeSet<_> = interfaces
            .iter()
            .map(|found| found.ifname.as_str())
            .collect();
        let kept = residents.iter().map(|resident| self.tap(&resident.lease));
        let kept: BTreeSet<_> = kept.collect();
        let leftovers = names
            .iter()
            .filter(|name| name.starts_with(&self.instance.taps()) && !kept.contains(**name));
        let mut script: String = leftovers.map(|name| links::down(name)).collect();
        let is_there = names.contains(self.name().as_str());
        if residents.is_empty() {
            if is_there {
                script += &links::down(&self.name());
            }
            links::carry_out(&script).await?;
            return nft(&rules::removal(&self.instance)).await;
        }
        links::carry_out(&script).await?;
        wire.up = is_there;
        wire.mtu = links::mtu_of_ways_out(&links::routes().await?, &interfaces);
        for Resident { lease, forwards } in residents {
            if !names.contains(self.tap(&lease).as_str()) {
                let name = &lease.name;
                tracing::error!(vm = %name, "a VM's tap device is gone: stop and start the VM");
                continue;
            }
            let port = Port {
                holds: hold_again(&lease, &forwards),
                lease,
                forwards,
            };
            wire.ports.insert(port.lease.vm, port);
        }
        if !wire.up && !wire.ports.is_empty() {
            self.bring_up(&mut wire).await?;
            let taps = wire.ports.values().map(|port| self.tap(&port.lease));
            let script: String = taps
                .map(|tap| links::tap_back(&self.instance, &tap))
                .collect();
            links::carry_out(&script).await?;
        }
        host::set_kernel_up(&self.name())?;
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
            return nft(&rules::removal(&self.instance)).await;
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
        nft(&rules::replacement(&plan)).await
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
        let rules = rules::replacement(&plan);
        Tool::new("nft")
            .args(["-c", "-f", "-"])
            .input(rules)
            .run()
            .await?;
        Ok(())
    }

    /// What is on the host and belongs to no VM on the bridge.
    pub(crate) async fn strays(&self) -> Result<Vec<Leak>, NetworkError> {
        let wire = self.wire.lock().await;
        let mut ours: BTreeSet<_> = wire
            .ports
            .values()
            .map(|port| self.tap(&port.lease))
            .collect();
        if wire.up {
            ours.insert(self.name());
        }
        let (taps, bridge) = (self.instance.taps(), self.name());
        let interfaces = links::interfaces()
            .await?
            .into_iter()
            .map(|found| found.ifname);
        let is_stray =
            |name: &String| (name.starts_with(&taps) || *name == bridge) && !ours.contains(name);
        let stray = |kind, what| Leak {
            kind,
            what,
            reason: "it is of the VMs' network and no VM uses it; restart the daemon, which \
                     removes it"
                .to_owned(),
            vm_id: None,
        };
        let mut strays: Vec<_> = interfaces
            .filter(is_stray)
            .map(|name| stray(LeakKind::Interface, name))
            .collect();
        if wire.ports.is_empty() {
            let tables = self.tables().await?;
            strays.extend(tables.into_iter().map(|table| stray(LeakKind::Rule, table)));
        }
        Ok(strays)
    }

    /// Our tables that are there.
    async fn tables(&self) -> Result<Vec<String>, NetworkError> {
        let tables = Tool::new("nft").args(["list", "tables"]).run().await?;
        let name = self.instance.table();
        let ours = tables
            .lines()
            .map(str::trim)
            .filter(|line| line.split(' ').next_back() == Some(name.as_str()));
        Ok(ours.map(str::to_owned).collect())
    }

    /// Mends what others have done to the rules, or to the host's name server.
    async fn mend(&self) -> Result<(), NetworkError> {
        let mut wire = self.wire.lock().await;
        if wire.ports.is_empty() {
            return Ok(());
        }
        // One of each family.
        if self.tables().await?.len() < 2 {
            tracing::warn!("somebody removed the rules of the VMs' network; they are made anew");
        } else if host::name_server() == wire.name_server {
            return Ok(());
        }
        self.apply(&mut wire).await
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

/// Holds the ports again that an earlier daemon held. In the meantime another program may have
/// taken one: it gets nothing that way, and is not ours to end.
fn hold_again(lease: &Lease, forwards: &[PortForward]) -> Vec<(PortForward, Hold)> {
    let hold = |forward: &PortForward| match Hold::take(forward) {
        Ok(hold) => Some((*forward, hold)),
        Err(error) => {
            let name = &lease.name;
            tracing::warn!(vm = %name, %error, "a port leads to a VM and not to who listens on it");
            None
        }
    };
    forwards.iter().filter_map(hold).collect()
}

/// Carries out a transaction of nft(8).
async fn nft(transaction: &str) -> Result<(), NetworkError> {
    Tool::new("nft")
        .args(["-f", "-"])
        .input(transaction)
        .run()
        .await?;
    Ok(())
}

async fn look_after(bridge: Weak<Bridge>) {
    loop {
        tokio::time::sleep(ROUND).await;
        let Some(bridge) = bridge.upgrade() else {
            return;
        };
        if let Err(error) = bridge.mend().await {
            tracing::warn!(%error, "the VMs' network could not be looked after");
        }
    }
}
