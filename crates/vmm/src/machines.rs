//! The desk: every request about VMs comes in here, finds its VM, and waits for its turn with it.
//!
//! Requests for different VMs never wait for each other, and a look at a VM never waits at all.
//! Whatever changes a VM is carried to its end even if the one who asked loses interest.

mod adoption;
mod create;
mod drivers;
mod forward;
mod guest;
mod keeper;
mod open;
mod pause;
mod power;
mod reopening;
mod restart;
mod restore;
mod snapshot;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::join_all;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::blocking::{finish, finish_wanted};
use crate::capacity::Capacity;
use crate::config::{Config, NetworkChoice};
use crate::driver::{Capabilities, Driver, Network};
use crate::errors::{
    CreateError, DeleteError, DeleteSnapshotError, ListSnapshotsError, NoDriver, NotFound,
    PauseError, PortForwardError, RestoreError, SnapshotError, StartError, StopError,
};
use crate::files::StorageError;
use crate::images::Images;
use crate::kernels::Kernels;
use crate::layout::Layout;
use crate::leaks::{self, Holds, Leak, Owner, Owners};
use crate::lifecycle::Phase;
use crate::metrics::{self, HostMetrics, Subject, VmMetrics};
use crate::model::{CreateVm, DriverKind, Mount, PortForward, Vm, VmState};
use crate::mounts::{self, MountError};
use crate::name::SnapshotName;
use crate::network::Networks;
use crate::ports::PortBook;
use crate::registry::Registry;
use crate::slot::{Presence, Slot, Turn};
use crate::snapshots::{Snapshot, Snapshots};
use crate::status::{self, Health, HostStatus};

use self::drivers::Drivers;
pub use self::open::OpenError;
use self::power::remove_traces;

/// The VMs of this host. Clones are one and the same.
#[derive(Clone)]
pub struct Machines {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    layout: Layout,
    registry: Arc<Registry>,
    ports: Arc<PortBook>,
    networks: Arc<Networks>,
    images: Images,
    kernels: Kernels,
    drivers: Drivers,
    /// VMs whose records could not be read, by name, and why.
    damaged: BTreeMap<String, String>,
    /// Starts VMs again that ended and should not have; from when the host is open.
    restarter: OnceLock<AbortOnDropHandle<()>>,
    /// Held for as long as this lives: a second daemon is refused.
    _lock: File,
}

impl Inner {
    /// What runs new VMs.
    fn driver(&self) -> Result<Arc<dyn Driver>, NoDriver> {
        self.drivers.chosen.clone()
    }

    /// What runs a VM that was made for this driver.
    fn driver_of(&self, kind: DriverKind) -> Result<Arc<dyn Driver>, NoDriver> {
        self.drivers.of(kind)
    }

    /// What a driver can do as this host is set up: on a bridge, ports lead into VMs by the host's
    /// rules, whatever their drivers can do.
    fn capabilities(&self, driver: &dyn Driver) -> Capabilities {
        let mut can = driver.capabilities();
        can.port_forwards |= self.config.network == NetworkChoice::Bridge;
        can
    }

    /// Gets hold of a directory that a VM shares, if it may.
    fn hold(&self, mount: &Mount) -> Result<OwnedFd, MountError> {
        mounts::hold(mount, &self.config.mount_allow, self.layout.root())
    }

    fn capacity(&self) -> Result<Capacity, StorageError> {
        status::capacity(self.layout.root(), self.config.cpu_overcommit)
    }

    fn slot(&self, name: &str) -> Result<Arc<Slot>, NotFound> {
        self.registry.get(name).ok_or_else(|| NotFound {
            name: name.to_owned(),
        })
    }
}

/// Waits for the turn with a VM that may be deleted in the meantime.
async fn turn(slot: &Slot, name: &str) -> Result<Turn, NotFound> {
    let turn = Arc::clone(&slot.turn).lock_owned().await;
    match *turn {
        Presence::Here => Ok(turn),
        Presence::Deleted => Err(NotFound {
            name: name.to_owned(),
        }),
    }
}

impl Inner {
    /// Does something with a VM when it is its turn. Whoever leaves before that has not done it; from
    /// then on it is carried to its end.
    async fn in_turn<T, E, F>(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(Arc<Self>, Arc<Slot>) -> F,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<NotFound> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.with_turn(name, |inner, slot, turn| {
            let work = work(inner, slot);
            async move {
                let _turn = turn;
                work.await
            }
        })
        .await
    }

    /// The same for what may end the VM.
    async fn with_turn<T, E, F>(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(Arc<Self>, Arc<Slot>, Turn) -> F,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<NotFound> + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let slot = self.slot(name)?;
        let turn = turn(&slot, name).await?;
        let span = slot.span();
        finish(work(Arc::clone(self), slot, turn).instrument(span)).await
    }
}

impl Machines {
    /// Opens a data directory: takes its lock, reads what is there, connects to the VMs that run,
    /// removes what interrupted work has left, and chooses a driver.
    ///
    /// That no driver works is no error: VMs can be looked at and deleted, and
    /// [`Machines::status`] says why none can run.
    ///
    /// # Errors
    /// When the directory cannot be used, or another daemon uses it.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        open::open(config).await
    }

    /// Creates a VM, which does not run yet.
    ///
    /// # Errors
    /// When the request is unsound, the name is taken, or something that it needs is not there or
    /// not free, or whoever asked has left before it was there; nothing is left behind.
    pub async fn create(&self, request: CreateVm) -> Result<Vm, CreateError> {
        let inner = self.inner.clone();
        let span = tracing::info_span!("vm", vm = %request.name);
        finish_wanted(|wanted| {
            async move { create::create(&inner, request, wanted).await }.instrument(span)
        })
        .await
    }

    /// All VMs, by name.
    pub async fn list(&self) -> Vec<Vm> {
        self.inner
            .registry
            .all()
            .iter()
            .map(|slot| slot.view())
            .collect()
    }

    /// A VM.
    ///
    /// # Errors
    /// When there is no VM of that name.
    pub async fn get(&self, name: &str) -> Result<Vm, NotFound> {
        Ok(self.inner.slot(name)?.view())
    }

    /// Starts a VM, and returns as soon as its process runs; its guest is up when `ready_at` is
    /// set. A VM that runs is left as it is; one that is paused goes on.
    ///
    /// # Errors
    /// When it cannot be started; it then is what it was before.
    pub async fn start(&self, name: &str) -> Result<Vm, StartError> {
        let work = |inner: Arc<Inner>, slot: Arc<Slot>| async move {
            slot.note(|record| record.restarts.forget()).await;
            power::start(&inner, &slot).await
        };
        self.inner.in_turn(name, work).await
    }

    /// Stops a VM: asks its guest, waits for `timeout`, then ends its process. A VM that does not
    /// run is left as it is.
    ///
    /// # Errors
    /// When there is no VM of that name, or its process cannot be ended.
    pub async fn stop(&self, name: &str, timeout: Duration) -> Result<Vm, StopError> {
        let work = move |_, slot: Arc<Slot>| async move { power::stop(&slot, timeout).await };
        self.inner.in_turn(name, work).await
    }

    /// Pauses a VM: its processors stand still until it is resumed, started or stopped. One that
    /// stands still is left as it is.
    ///
    /// # Errors
    /// When it does not run; nothing has changed then.
    pub async fn pause(&self, name: &str) -> Result<Vm, PauseError> {
        let work = move |_, slot: Arc<Slot>| async move { pause::pause(&slot).await };
        self.inner.in_turn(name, work).await
    }

    /// Lets a paused VM go on. One that runs is left as it is.
    ///
    /// # Errors
    /// When it is not there to go on; nothing has changed then.
    pub async fn resume(&self, name: &str) -> Result<Vm, PauseError> {
        let work = move |_, slot: Arc<Slot>| async move { pause::resume(&slot).await };
        self.inner.in_turn(name, work).await
    }

    /// Takes a snapshot of a VM under this name, or one that says when. A VM that runs stands
    /// still for as long as its memory and its disk are copied, and then goes on.
    ///
    /// # Errors
    /// When there is no VM of that name, there is no room, or the VM or its driver cannot; nothing
    /// is left behind, and the VM is what it was.
    pub async fn snapshot(
        &self,
        name: &str,
        snapshot: Option<SnapshotName>,
    ) -> Result<Snapshot, SnapshotError> {
        let work = move |inner: Arc<Inner>, slot: Arc<Slot>| async move {
            snapshot::take(&inner, &slot, snapshot).await
        };
        self.inner.in_turn(name, work).await
    }

    /// The snapshots of a VM, by name.
    ///
    /// # Errors
    /// When there is no VM of that name, or its directory cannot be read.
    pub async fn snapshots(&self, name: &str) -> Result<Vec<Snapshot>, ListSnapshotsError> {
        let slot = self.inner.slot(name)?;
        let snapshots = Snapshots::of(&slot.record().spec.name, &slot.dir);
        Ok(crate::blocking::run(move || snapshots.list()).await?)
    }

    /// Lets a VM be what it was when a snapshot was taken: its disk, and if it ran then its memory,
    /// and it runs on from there. One that has a process only with `force`, which ends that.
    ///
    /// # Errors
    /// When the snapshot is not there, damaged, or of something else than the VM and the host are
    /// now; then nothing has changed (a VM without a process counts as starting meanwhile). When the
    /// process does not come up all the same, the VM is stopped, with the disk that it had; should that
    /// process not end either, the error says where that disk is.
    pub async fn restore(
        &self,
        name: &str,
        snapshot: &str,
        force: bool,
    ) -> Result<Vm, RestoreError> {
        let snapshot = snapshot.to_owned();
        let work = move |inner: Arc<Inner>, slot: Arc<Slot>| async move {
            restore::restore(&inner, &slot, &snapshot, force).await
        };
        self.inner.in_turn(name, work).await
    }

    /// Deletes a snapshot, damaged or not.
    ///
    /// # Errors
    /// When there is no such VM or snapshot, or the disk refuses.
    pub async fn delete_snapshot(
        &self,
        name: &str,
        snapshot: &str,
    ) -> Result<(), DeleteSnapshotError> {
        let snapshot = snapshot.to_owned();
        let work = move |inner: Arc<Inner>, slot: Arc<Slot>| async move {
            snapshot::delete(&inner, &slot, &snapshot).await
        };
        self.inner.in_turn(name, work).await
    }

    /// Deletes a VM with its disk and its snapshots; one that runs only with `force`. Returns what it was last.
    ///
    /// # Errors
    /// When there is no VM of that name, it runs, or the disk refuses.
    pub async fn delete(&self, name: &str, force: bool) -> Result<Vm, DeleteError> {
        if self.inner.slot(name).is_err()
            && let Some(problem) = self.inner.damaged.get(name)
        {
            // Perhaps it runs: who is told that it is gone would never look for it.
            return Err(DeleteError::Damaged {
                name: name.to_owned(),
                problem: problem.clone(),
            });
        }
        let work = move |inner: Arc<Inner>, slot: Arc<Slot>, mut turn: Turn| async move {
            create::delete(&inner, &slot, &mut turn, force).await
        };
        self.inner.with_turn(name, work).await
    }

    /// Lets a port of the host lead into a VM, now if it runs and whenever it will. The same
    /// forward again changes nothing.
    ///
    /// # Errors
    /// When there is no VM of that name, or the port is not free; nothing has changed then.
    pub async fn port_forward(
        &self,
        name: &str,
        forward: PortForward,
    ) -> Result<Vm, PortForwardError> {
        let work = move |inner: Arc<Inner>, slot: Arc<Slot>| async move {
            forward::add(&inner, &slot, forward).await
        };
        self.inner.in_turn(name, work).await
    }

    /// The host's images.
    pub fn images(&self) -> &Images {
        &self.inner.images
    }

    /// The host's kernels.
    pub fn kernels(&self) -> &Kernels {
        &self.inner.kernels
    }

    /// What this was opened with; paths are absolute.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// The state of the host.
    ///
    /// # Errors
    /// When the data directory cannot be looked at.
    pub async fn status(&self) -> Result<HostStatus, StorageError> {
        let inner = &self.inner;
        let capacity = inner.capacity()?;
        let used = inner.registry.used();
        let vms = self.list().await;
        let running = vms.iter().filter(|vm| vm.state == VmState::Running).count();
        Ok(HostStatus {
            hostname: status::hostname(),
            arch: std::env::consts::ARCH.to_owned(),
            drivers: inner.drivers.status.clone(),
            network: inner.networks.status(),
            total: capacity.total,
            used,
            available: capacity.available(used),
            running_vms: running as u64,
            total_vms: vms.len() as u64,
            uptime_seconds: status::uptime_seconds(),
            load_average: status::load_average(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    /// What is on the host and belongs to no VM; nothing, on a healthy host.
    pub async fn leaks(&self) -> Vec<Leak> {
        let mut leaks = leaks::look(|| self.owners()).await;
        leaks.extend(self.inner.networks.leaks().await);
        leaks
    }

    fn owners(&self) -> Owners {
        let inner = &self.inner;
        let vms = inner.registry.all().into_iter().map(|slot| {
            let record = slot.record();
            // Whoever has the turn is changing what the VM holds.
            let holds = match (slot.turn.try_lock(), &record.phase) {
                (Err(_), _) | (_, Phase::Starting { .. }) => Holds::Anything,
                (Ok(_), Phase::Live(live)) => Holds::Process(live.process.birth.clone()),
                (Ok(_), Phase::Idle(_)) => Holds::Nothing,
            };
            let owner = Owner {
                id: record.spec.id,
                dir: slot.dir.clone(),
                holds,
            };
            (record.spec.name, owner)
        });
        Owners {
            layout: inner.layout.clone(),
            vms: vms.collect(),
            damaged: inner.damaged.keys().cloned().collect(),
        }
    }

    /// What the host and its VMs use at this moment.
    ///
    /// # Errors
    /// When the data directory cannot be looked at.
    pub async fn metrics(&self) -> Result<HostMetrics, StorageError> {
        let inner = &self.inner;
        let (capacity, used) = (inner.capacity()?, inner.registry.used());
        let subject = |slot: Arc<Slot>| {
            let record = slot.record();
            Subject {
                vm: record.view(),
                hostname: record.spec.hostname.to_string(),
                dir: slot.dir.clone(),
                process: record.phase.live().map(|live| live.process.clone()),
            }
        };
        let vms = inner.registry.all().into_iter().map(subject).collect();
        let measuring = crate::blocking::run(move || metrics::measure(capacity, used, vms));
        let mut metrics = measuring.await;
        let uncounted = |vm: &&mut VmMetrics| vm.network.is_none();
        let asked = metrics.vms.iter_mut().filter(uncounted).map(async |vm| {
            vm.network = self.network_of(vm.vm.name.as_str()).await;
        });
        join_all(asked).await;
        Ok(metrics)
    }

    /// Whether the host works. Takes no lock and no time.
    pub fn health(&self) -> Health {
        let inner = &self.inner;
        let mut reasons = Vec::new();
        reasons.extend(status::data_dir_problem(inner.layout.root()));
        reasons.extend(inner.drivers.chosen.as_ref().err().map(ToString::to_string));
        reasons.extend(inner.damaged.values().cloned());
        if reasons.is_empty() {
            Health::Healthy
        } else {
            Health::Degraded { reasons }
        }
    }

    /// The bare command that boots a VM's disk, kernel and configuration in the foreground, without
    /// anything of ours around it: what a start costs beyond this is our own doing. It has a
    /// network in user mode. Run it only while the VM is stopped.
    ///
    /// # Errors
    /// As [`Machines::start`].
    pub async fn boot_command(&self, name: &str) -> Result<Vec<OsString>, StartError> {
        let inner = &self.inner;
        let slot = inner.slot(name)?;
        let _turn = turn(&slot, name).await?;
        let driver = inner.driver_of(slot.record().spec.driver)?;
        let network = Network::User {
            port_forwards: slot.record().port_forwards,
            run_as: None,
        };
        let blueprint = power::blueprint(inner, &*driver, &slot, network).await?;
        Ok(driver.bare_command(&blueprint))
    }
}
