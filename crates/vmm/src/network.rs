//! How VMs reach others and are reached.
//!
//! In **user mode** a VM has a network of its own inside its process, and is kept from its host
//! where that is possible ([`user`]). In **bridge mode** VMs share a bridge of the host with a
//! subnet of its own:
//!
//! ```text
//! Networks ── leases   who has which address, kept in network.json
//!    └─ Bridge ─┬ links   the bridge and its tap devices, by ip(8)
//!               ├ rules   who may reach whom, and which ports lead in, by nft(8)
//!               ├ holds   ports of the host that nobody else shall have
//!               └ host    what this host is and allows
//! ```
//!
//! A VM is told its network when it starts; one that runs keeps it, whatever a daemon is
//! configured to do meanwhile.

mod bridge;
mod error;
mod holds;
mod home;
mod host;
mod leases;
mod links;
mod names;
mod nft;
mod rules;
mod status;
mod store;
mod subnet;
mod user;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::bridge::{Bridge, Resident};
use self::leases::{Lease, Leases};
use self::store::Store;
use self::user::UserMode;
use crate::capacity::InsufficientCapacity;
use crate::config::{Config, NetworkChoice};
use crate::driver::Network;
use crate::files::StorageError;
use crate::leaks::Leak;
use crate::model::{DriverKind, PortForward, VmId};
use crate::name::VmName;
use crate::record::Record;
use crate::spec::{MacAddress, Spec};

pub use self::error::NetworkError;
pub(crate) use self::home::{Claim, Home};
pub use self::status::{BridgeStatus, NetworkStatus, UserModeStatus};
pub use self::subnet::{InvalidSubnet, Subnet};

/// The network of a host's VMs.
pub(crate) struct Networks {
    choice: NetworkChoice,
    /// What keeps VMs in user mode from the host, or why nothing does. In bridge mode some may
    /// still run that were started before.
    user: Result<Arc<UserMode>, String>,
    /// There when bridge mode is chosen, or was once and VMs may still be on it.
    bridged: Option<Bridged>,
}

struct Bridged {
    bridge: Arc<Bridge>,
    leases: Arc<Mutex<Leases>>,
    store: Store,
}

impl Networks {
    /// Opens what is there of a network, and makes sure that the chosen one is possible. Changes
    /// nothing on the host. `records` are the VMs, `damaged` the names of those that cannot be
    /// read: they keep their addresses.
    pub(crate) async fn open(
        config: &Config,
        file: &Path,
        records: &[Record],
        damaged: &BTreeSet<VmName>,
    ) -> Result<Self, NetworkError> {
        let (choice, range) = (config.network, config.bridge_range);
        let page = match (choice, store::load(file)?) {
            (NetworkChoice::User, None) => None,
            // VMs may still be on the bridge that was chosen once.
            (NetworkChoice::User, found) => found,
            (NetworkChoice::Bridge, found) => {
                host::check_privileges()?;
                Some(store::page_for_bridge(file, found, range, records, damaged).await?)
            }
        };
        let bridge = page.as_ref().map(|page| page.instance().bridge());
        let user = UserMode::open(&config.data_dir, bridge).await;
        if let (NetworkChoice::User, Err(reason)) = (choice, &user) {
            tracing::warn!(reason, "guests are not kept from this host");
        }
        let Some(page) = page else {
            let bridged = None;
            return Ok(Self {
                choice,
                user,
                bridged,
            });
        };
        let (store, mut leases) = Store::new(file, page);
        sort_out(&mut leases, records, damaged);
        let instance = store.instance().clone();
        let bridge = Bridge::new(instance, leases.subnet(), leases.gateway());
        if choice == NetworkChoice::Bridge {
            bridge.try_rules().await?;
        }
        let bridged = Bridged {
            bridge,
            leases: Arc::new(Mutex::new(leases)),
            store,
        };
        bridged.save().await?;
        Ok(Self {
            choice,
            user,
            bridged: Some(bridged),
        })
    }

    /// The network of a host that has no bridge and never had one.
    #[cfg(test)]
    pub(crate) fn user_mode() -> Self {
        Self {
            choice: NetworkChoice::User,
            user: Err("this is a test".to_owned()),
            bridged: None,
        }
    }

    /// A place for a VM in the making.
    pub(crate) fn claim(&self, vm: VmId, name: &VmName) -> Result<Claim, InsufficientCapacity> {
        let Some(bridged) = self.chosen() else {
            let home = Home::in_user_mode(MacAddress::generate());
            return Ok(Claim { home, given: None });
        };
        let lease = bridged.leases().grant(vm, name, None)?;
        Ok(Claim {
            home: Home::of(lease),
            given: Some((bridged.leases.clone(), vm)),
        })
    }

    /// Writes down who has which address.
    pub(crate) async fn save(&self) -> Result<(), StorageError> {
        match &self.bridged {
            Some(bridged) => bridged.save().await,
            None => Ok(()),
        }
    }

    /// Where a VM that is about to start belongs: it may have been made while the host had its VMs
    /// elsewhere.
    pub(crate) async fn home(&self, spec: &Spec) -> Result<Home, NetworkError> {
        let Some(bridged) = self.chosen() else {
            if spec.network == NetworkChoice::Bridge {
                self.leave(spec.id).await;
            }
            return Ok(Home::in_user_mode(spec.mac_address.clone()));
        };
        let known = bridged.leases().of(spec.id).cloned();
        if let Some(lease) = known {
            return Ok(Home::of(lease));
        }
        let mac = Some(&spec.mac_address);
        let lease = bridged.leases().grant(spec.id, &spec.name, mac)?;
        bridged.save().await?;
        Ok(Home::of(lease))
    }

    /// Makes a VM's way to the network, for a process of this user.
    pub(crate) async fn plug(
        &self,
        spec: &Spec,
        port_forwards: Vec<PortForward>,
        owner: Option<u32>,
    ) -> Result<Network, NetworkError> {
        let Some((bridged, lease)) = self.lease(spec.id) else {
            let user = self.user_mode_of(spec);
            if let Some(user) = user {
                user.admit(spec.id, &port_forwards).await?;
            }
            let run_as = user.map(|user| user.user());
            return Ok(Network::User {
                port_forwards,
                run_as,
            });
        };
        let owner = owner.unwrap_or_else(|| rustix::process::geteuid().as_raw());
        let tap = bridged.bridge.plug(lease, &port_forwards, owner).await?;
        Ok(Network::Tap(tap))
    }

    /// What [`Networks::plug`] would make, without making anything.
    pub(crate) fn outlook(&self, spec: &Spec, port_forwards: Vec<PortForward>) -> Network {
        match self.lease(spec.id) {
            Some((bridged, lease)) => Network::Tap(bridged.bridge.outlook(&lease)),
            None => Network::User {
                port_forwards,
                run_as: self.user_mode_of(spec).map(|user| user.user()),
            },
        }
    }

    /// What keeps this VM from the host while it is in user mode. On Firecracker it has no network
    /// then.
    fn user_mode_of(&self, spec: &Spec) -> Option<&UserMode> {
        let user = self.user.as_deref().ok();
        user.filter(|_| spec.driver == DriverKind::Qemu)
    }

    /// A VM's place on the chosen bridge, if there is one.
    fn lease(&self, vm: VmId) -> Option<(&Bridged, Lease)> {
        let bridged = self.chosen()?;
        let lease = bridged.leases().of(vm).cloned()?;
        Some((bridged, lease))
    }

    /// Takes away what [`Networks::plug`] has made; nothing happens when nothing is there.
    pub(crate) async fn unplug(&self, vm: VmId) {
        if let Ok(user) = &self.user {
            user.dismiss(vm).await;
        }
        if let Some(bridged) = &self.bridged {
            bridged.bridge.unplug(vm).await;
        }
    }

    /// Gives a VM's address back.
    pub(crate) async fn leave(&self, vm: VmId) {
        let Some(bridged) = &self.bridged else {
            return;
        };
        bridged.leases().release(vm);
        if let Err(error) = bridged.save().await {
            tracing::warn!(%error, "that an address is free could not be written down yet");
        }
    }

    /// Lets a port lead to a VM on the bridge; nothing happens for one that does not run.
    pub(crate) async fn add_forward(
        &self,
        vm: VmId,
        forward: PortForward,
    ) -> Result<(), NetworkError> {
        match &self.bridged {
            Some(bridged) => bridged.bridge.add_forward(vm, forward).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn remove_forward(
        &self,
        vm: VmId,
        forward: PortForward,
    ) -> Result<(), NetworkError> {
        match &self.bridged {
            Some(bridged) => bridged.bridge.remove_forward(vm, forward).await,
            None => Ok(()),
        }
    }

    /// Takes over the VMs that still run, and sweeps away what belongs to none. `running` tells of
    /// those that run, and is asked at moments when none can come or go.
    pub(crate) async fn adopt(
        &self,
        running: impl Fn() -> Vec<Record>,
        damaged: &BTreeSet<VmName>,
    ) -> Result<(), NetworkError> {
        // Neither is a reason to leave the other alone.
        let user = self.adopt_in_user_mode(&running, damaged).await;
        self.adopt_on_bridge(running, damaged).await.and(user)
    }

    async fn adopt_in_user_mode(
        &self,
        running: impl Fn() -> Vec<Record>,
        damaged: &BTreeSet<VmName>,
    ) -> Result<(), NetworkError> {
        let Ok(user) = &self.user else {
            return Ok(());
        };
        let residents = || {
            let running = running().into_iter();
            let inside = running.filter(|record| {
                let Spec {
                    network, driver, ..
                } = &record.spec;
                (*network, *driver) == (NetworkChoice::User, DriverKind::Qemu)
            });
            let residents = inside.map(|record| (record.spec.id, record.port_forwards));
            residents.collect()
        };
        user.adopt(residents, !damaged.is_empty()).await
    }

    async fn adopt_on_bridge(
        &self,
        running: impl Fn() -> Vec<Record>,
        damaged: &BTreeSet<VmName>,
    ) -> Result<(), NetworkError> {
        let Some(bridged) = &self.bridged else {
            return Ok(());
        };
        if host::check_privileges().is_err() {
            // An earlier daemon may have had privileges, and has swept up or left VMs running.
            let on_bridge = |record: &Record| record.spec.network == NetworkChoice::Bridge;
            let stranded = running().iter().any(on_bridge);
            return if stranded {
                Err(NetworkError::NotPrivileged)
            } else {
                Ok(())
            };
        }
        let residents = || {
            let leases = bridged.leases();
            let running = running().into_iter().filter_map(|record| {
                let lease = leases.of(record.spec.id).cloned()?;
                Some(Resident {
                    lease,
                    forwards: record.port_forwards,
                })
            });
            // Perhaps they run; their ports are written in records that cannot be read.
            let unknown = leases.all().filter(|lease| damaged.contains(&lease.name));
            let unknown = unknown.map(|lease| Resident {
                lease: lease.clone(),
                forwards: Vec::new(),
            });
            running.chain(unknown).collect()
        };
        bridged.bridge.adopt(residents).await
    }

    /// What is on the host of the network and belongs to no VM.
    pub(crate) async fn leaks(&self) -> Vec<Leak> {
        let mut looks = Vec::new();
        if let Ok(user) = &self.user {
            looks.push(user.strays().await);
        }
        if let Some(bridged) = &self.bridged {
            looks.push(bridged.bridge.strays().await);
        }
        let found = looks.into_iter().flat_map(|look| {
            look.unwrap_or_else(|error| {
                tracing::warn!(%error, "it cannot be told what is left of the VMs' network");
                Vec::new()
            })
        });
        found.collect()
    }

    pub(crate) fn status(&self) -> NetworkStatus {
        let bridge = self.chosen().map(|bridged| {
            let leases = bridged.leases();
            BridgeStatus {
                name: bridged.bridge.name(),
                subnet: leases.subnet(),
                gateway: leases.gateway(),
                leases_used: leases.used(),
                leases_total: leases.total(),
            }
        });
        NetworkStatus {
            mode: self.choice,
            user_mode: match self.choice {
                NetworkChoice::User => Some(UserModeStatus::of(&self.user)),
                NetworkChoice::Bridge => None,
            },
            bridge,
        }
    }

    /// The bridge, when VMs that start now are on it.
    fn chosen(&self) -> Option<&Bridged> {
        let bridged = self.bridged.as_ref();
        bridged.filter(|_| self.choice == NetworkChoice::Bridge)
    }
}

impl Bridged {
    fn leases(&self) -> MutexGuard<'_, Leases> {
        lock(&self.leases)
    }

    async fn save(&self) -> Result<(), StorageError> {
        self.store.save(&self.leases).await
    }
}

fn lock(leases: &Mutex<Leases>) -> MutexGuard<'_, Leases> {
    // A grant is one insertion, so a panic elsewhere cannot leave it half done.
    leases.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Brings leases and records together: a VM's record says that it is there, and a lease without a
/// VM is left from a creation or a deletion that was interrupted.
fn sort_out(leases: &mut Leases, records: &[Record], damaged: &BTreeSet<VmName>) {
    leases.retain(|lease| {
        let is_of = |record: &Record| record.spec.id == lease.vm;
        records.iter().any(is_of) || damaged.contains(&lease.name)
    });
    let on_bridge = records
        .iter()
        .filter(|record| record.spec.network == NetworkChoice::Bridge);
    for Record { spec, .. } in on_bridge {
        let entered = leases.enter(Lease {
            vm: spec.id,
            name: spec.name.clone(),
            address: spec.ip_address,
            mac: spec.mac_address.clone(),
        });
        if !entered {
            tracing::warn!(vm = %spec.name, "a VM's address is another's; it gets a new one");
        }
    }
}
