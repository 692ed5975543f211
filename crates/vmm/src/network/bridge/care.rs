//! What a bridge needs over time: to be taken over by the next daemon, to be looked after while
//! others change the host, and to tell what is left of it.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use super::{Bridge, Port, Wire};
use crate::leaks::{Leak, LeakKind};
use crate::model::PortForward;
use crate::network::error::NetworkError;
use crate::network::holds::Hold;
use crate::network::leases::Lease;
use crate::network::{host, links, nft, rules};
use crate::tool::Tool;

/// How often it is looked whether the rules are still there and the name server is still the same.
const ROUND: Duration = Duration::from_secs(15);

/// A VM that was found running.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) lease: Lease,
    pub(crate) forwards: Vec<PortForward>,
}

impl Bridge {
    /// Takes over what an earlier daemon has left: the tap devices of VMs that still run stay,
    /// the others go, and the rules become what they should be. `residents` is asked under the
    /// bridge's lock, so no VM can end unnoticed meanwhile.
    pub(crate) async fn adopt(
        &self,
        residents: impl FnOnce() -> Vec<Resident>,
    ) -> Result<(), NetworkError> {
        let mut wire = self.wire.lock().await;
        for Resident { lease, forwards } in residents() {
            let port = Port {
                holds: hold_again(&lease, &forwards),
                lease,
                forwards,
            };
            wire.ports.insert(port.lease.vm, port);
        }
        self.settle(&mut wire).await
    }

    /// Brings the host together with what is known of it here: who is on the bridge. Should that fail,
    /// it is done again before anything else is, so that nobody takes what is there for nothing.
    pub(super) async fn settle(&self, wire: &mut Wire) -> Result<(), NetworkError> {
        let interfaces = links::interfaces().await?;
        let names: BTreeSet<_> = interfaces
            .iter()
            .map(|found| found.ifname.as_str())
            .collect();
        let kept = wire.ports.values().map(|port| self.tap(&port.lease));
        let kept: BTreeSet<_> = kept.collect();
        let leftovers = names
            .iter()
            .filter(|name| name.starts_with(&self.instance.taps()) && !kept.contains(**name));
        let mut script: String = leftovers.map(|name| links::down(name)).collect();
        let is_there = names.contains(self.name().as_str());
        if wire.ports.is_empty() {
            if is_there {
                script += &links::down(&self.name());
            }
            links::carry_out(&script).await?;
            nft::carry_out(&rules::removal(&self.instance)).await?;
            wire.up = false;
            wire.settled = true;
            return Ok(());
        }
        links::carry_out(&script).await?;
        wire.up = is_there;
        wire.mtu = links::mtu_of_ways_out(&links::routes().await?, &interfaces);
        wire.ports.retain(|_, port| {
            let is_there = names.contains(self.tap(&port.lease).as_str());
            if !is_there {
                let name = &port.lease.name;
                tracing::error!(vm = %name, "a VM's tap device is gone: stop and start the VM");
            }
            is_there
        });
        if !wire.up && !wire.ports.is_empty() {
            self.bring_up(wire).await?;
            let taps = wire.ports.values().map(|port| self.tap(&port.lease));
            let script: String = taps
                .map(|tap| links::tap_back(&self.instance, &tap))
                .collect();
            links::carry_out(&script).await?;
        }
        host::set_kernel_up(&self.name())?;
        self.apply(wire).await?;
        wire.settled = true;
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
        let tables = Tool::new("nft").within(links::LIMIT);
        let tables = tables.args(["list", "tables"]).run().await?;
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
        if !wire.settled {
            return self.settle(&mut wire).await;
        }
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

pub(super) async fn look_after(bridge: Weak<Bridge>) {
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
