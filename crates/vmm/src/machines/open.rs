//! Opening a data directory: what an earlier daemon left is found, understood and taken over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::Signal;
use tracing::Instrument;

use super::adoption::Heir;
use super::drivers::Drivers;
use super::{Inner, Machines, restart};
use crate::config::Config;
use crate::driver::qemu;
use crate::files::{self, Context as _, StorageError};
use crate::images::Images;
use crate::kernels::Kernels;
use crate::layout::Layout;
use crate::leaks::Holds;
use crate::model::DriverKind;
use crate::mounts::{self, MountError};
use crate::name::VmName;
use crate::network::{NetworkError, Networks};
use crate::process::Watched;
use crate::processes::{self, VmProcess};
use crate::record::Record;
use crate::slot::Slot;
use crate::snapshots::Snapshots;
use crate::sources::{self, Sources, UnusableDirectory};
use crate::{DEFAULT_KERNEL, ItemName};

/// A data directory could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another daemon uses it.
    #[error(
        "{} is in use by another daemon; stop that one, or use another data directory",
        data_dir.display()
    )]
    InUse { data_dir: PathBuf },
    /// A driver was asked for that does not work here.
    #[error("driver {driver} does not work on this host: {reason}; mend that, or use driver auto")]
    Driver { driver: DriverKind, reason: String },
    /// A directory that VMs may share cannot be used.
    #[error("--mount-allow is wrong: {0}")]
    MountAllow(#[from] MountError),
    /// A directory that imports may read cannot be used.
    #[error("--import-allow is wrong: {0}")]
    ImportAllow(#[from] UnusableDirectory),
    /// The chosen network is not possible here.
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

pub(super) async fn open(mut config: Config) -> Result<Machines, OpenError> {
    let data_dir = config.data_dir.clone();
    files::make_private_dir(&data_dir)?;
    // Absolute and without links: VMs' processes and sockets are named after it.
    config.data_dir = fs::canonicalize(&data_dir).context("find", &data_dir)?;
    config.cache_dir = std::path::absolute(&config.cache_dir).context("find", &config.cache_dir)?;
    config.mount_allow = mounts::real_directories(&config.mount_allow)?;
    config.import_allow = sources::real_directories(&config.import_allow)?;
    let layout = Layout::new(config.data_dir.clone());
    let lock = take_lock(&layout).await?;

    files::make_private_dir(&layout.vms())?;
    sweep_mounts(&layout);
    files::sweep_drafts(&layout.vms())?;
    sweep_vms(&layout);
    let registry = Arc::default();
    let sources = Sources::new(config.import_allow.clone(), layout.root());
    let kernels = Kernels::open(layout.kernels(), sources.clone(), Arc::clone(&registry))?;
    let cache = config.cache_dir.clone();
    let images = Images::open(
        layout.images(),
        layout.blobs(),
        cache,
        sources,
        kernels.clone(),
        Arc::clone(&registry),
    )?;
    let drivers = Drivers::choose(&config, &layout).await?;
    let (records, damaged) = load_records(&layout)?;
    let unreadable: BTreeSet<VmName> = damaged.keys().filter_map(|n| n.parse().ok()).collect();
    let networks = Networks::open(&config, &layout.network(), &records, &unreadable).await?;

    let inner = Arc::new(Inner {
        config,
        layout,
        registry,
        ports: Arc::default(),
        networks: Arc::new(networks),
        images,
        kernels,
        drivers,
        damaged,
        restarter: OnceLock::new(),
        _lock: lock,
    });
    let machines = Machines { inner };
    machines.take_over(records).await;
    machines.sweep_processes().await;
    qemu::shares::sweep(&machines.inner.layout.vms());
    machines.take_over_network(&unreadable).await;
    machines.sweep_sockets();
    machines.sweep_jails();
    machines.read_ahead();
    machines.start_those_that_want().await;
    let restarter = restart::watch(&machines.inner);
    // Nobody else sets it.
    let _ = machines.inner.restarter.set(restarter);
    Ok(machines)
}

/// How long a lock may outlive the daemon that had it: a child that it was about to start has it too,
/// until it is the program that it is to be.
const LOCK_LINGERS: Duration = Duration::from_secs(2);

/// Takes the lock that says "in use"; the kernel gives it back however the daemon ends.
async fn take_lock(layout: &Layout) -> Result<File, OpenError> {
    let path = layout.lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .mode(0o600)
        .write(true)
        .open(&path);
    let file = file.context("open", &path)?;
    let deadline = Instant::now() + LOCK_LINGERS;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(OpenError::InUse {
                    data_dir: layout.root().to_owned(),
                });
            }
            taken => {
                taken.context("lock", &path)?;
                return Ok(file);
            }
        }
    }
}

/// Takes down what was being mounted in VMs' directories when an earlier daemon died, before anything
/// of those is removed.
fn sweep_mounts(layout: &Layout) {
    for directory in directories_in(&layout.vms()) {
        if let Err(error) = mounts::sweep(&directory) {
            tracing::warn!(path = %directory.display(), %error, "a mount stays");
        }
    }
}

/// Removes what was being written in VMs' directories when an earlier daemon died. What cannot be
/// removed shows as a leak, and costs no VM.
fn sweep_vms(layout: &Layout) {
    for directory in directories_in(&layout.vms()) {
        if let Err(error) = files::sweep_drafts(&directory) {
            tracing::warn!(%error, "a leftover stays");
        }
    }
}

fn directories_in(place: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.is_dir())
}

/// Why the records of VMs could not be read, by the VMs' names.
type Damaged = BTreeMap<String, String>;

/// Reads every VM's record. One that cannot be read costs that VM, not all of them.
fn load_records(layout: &Layout) -> Result<(Vec<Record>, Damaged), StorageError> {
    let (mut records, mut damaged) = (Vec::new(), Damaged::new());
    let root = layout.vms();
    for entry in fs::read_dir(&root).context("read", &root)? {
        let directory = entry.context("read", &root)?.path();
        match Record::load(&directory) {
            Ok(record) => records.push(record),
            Err(error) => {
                tracing::error!(%error, "a VM is left out");
                let name = directory.file_name().unwrap_or_default().to_string_lossy();
                damaged.insert(name.into_owned(), error.to_string());
            }
        }
    }
    Ok((records, damaged))
}

impl Machines {
    /// Enters all VMs, and connects to those that run.
    async fn take_over(&self, records: Vec<Record>) {
        let inner = &self.inner;
        let slots = records.into_iter().map(|record| {
            inner.ports.enter(&record.spec.name, &record.port_forwards);
            let slot = Arc::new(Slot::new(inner.layout.vm(&record.spec.name), record));
            inner.registry.enter(slot.clone());
            take_over_files(inner, &slot);
            slot
        });
        let slots: Vec<_> = slots.collect();
        let found = self.processes().await;
        let found = found.as_slice();
        join_all(slots.iter().map(|slot| {
            let heir = Heir {
                slot: Arc::clone(slot),
                networks: Arc::clone(&inner.networks),
                driver: inner.driver_of(slot.record().spec.driver).ok(),
            };
            heir.take_over(found).instrument(slot.span())
        }))
        .await;
    }

    /// Finds the network of the VMs that run, and removes what belongs to none. A failure costs
    /// what depends on it, and is no reason to leave VMs without a daemon.
    async fn take_over_network(&self, unreadable: &BTreeSet<VmName>) {
        let registry = &self.inner.registry;
        let running = || {
            let records = registry.all().into_iter().map(|slot| slot.record());
            records
                .filter(|record| record.phase.live().is_some())
                .collect()
        };
        if let Err(error) = self.inner.networks.adopt(running, unreadable).await {
            tracing::error!(%error, "the VMs' network is not what it should be");
        }
    }

    /// The processes on this host that run VMs of this data directory.
    async fn processes(&self) -> Vec<VmProcess> {
        let vms = self.inner.layout.vms();
        crate::blocking::run(move || processes::of(&vms)).await
    }

    /// Ends the processes that run VMs which are gone, or which another process runs.
    async fn sweep_processes(&self) {
        let inner = &self.inner;
        let owners = self.owners();
        for stray in self.processes().await {
            let owned = match owners.by_id(stray.id).map(|owner| &owner.holds) {
                Some(Holds::Process(birth)) => *birth == stray.birth,
                Some(Holds::Anything) => true,
                Some(Holds::Nothing) | None => inner.damaged.contains_key(&stray.name),
            };
            if owned {
                continue;
            }
            let VmProcess { pid, id, .. } = stray;
            tracing::warn!(pid, %id, "ending a process that runs a VM and belongs to none");
            if let Ok(Some(watched)) = Watched::open(&stray.birth)
                && watched.signal(Signal::KILL).is_ok()
            {
                watched.ended().await;
            }
        }
    }

    /// Removes directories of sockets whose VM is gone. (Most VMs have theirs in their own
    /// directory, and those go with it.)
    fn sweep_sockets(&self) {
        let vms = self.inner.layout.vms();
        for (directory, owner) in crate::layout::socket_dirs_of(&vms) {
            if !owner.exists() {
                tracing::info!(path = %directory.display(), "removing sockets without a VM");
                let _ = fs::remove_dir_all(&directory);
            }
        }
    }

    /// Removes jails and control groups whose VM is gone, or has no process.
    fn sweep_jails(&self) {
        let Some(jailer) = self.inner.drivers.jailer() else {
            return;
        };
        let records: Vec<_> = self.inner.registry.all();
        let records: Vec<_> = records.iter().map(|slot| slot.record()).collect();
        let known = records.iter().map(|record| record.spec.id).collect();
        let alive = records
            .iter()
            .filter(|record| record.phase.live().is_some());
        // A VM whose record is damaged may run all the same, and nobody knows its id.
        if self.inner.damaged.is_empty() {
            jailer.sweep(&known, &alive.map(|record| record.spec.id).collect());
        }
    }

    /// Lets the system read what a start reads, so that the first start is as fast as the second.
    fn read_ahead(&self) {
        let inner = &self.inner;
        let mut paths = inner
            .driver()
            .map(|driver| driver.files())
            .unwrap_or_default();
        let kernel = inner.kernels.files(&ItemName::literal(DEFAULT_KERNEL));
        paths.extend(
            kernel
                .into_iter()
                .flat_map(|files| [files.kernel, files.modules_archive]),
        );
        // Nobody waits for it, and nothing depends on it.
        tokio::task::spawn_blocking(move || {
            for path in paths {
                let read =
                    File::open(&path).and_then(|mut file| io::copy(&mut file, &mut io::sink()));
                if let Err(error) = read {
                    tracing::debug!(path = %path.display(), %error, "a file was not read ahead");
                }
            }
        });
    }

    /// Starts the `auto_start` VMs that do not run and that nobody stopped, without waiting.
    async fn start_those_that_want(&self) {
        for slot in self.inner.registry.all() {
            let Record { spec, phase, .. } = slot.record();
            if !spec.auto_start || !phase.wants_auto_start() {
                continue;
            }
            let machines = self.clone();
            tokio::spawn(async move {
                if let Err(error) = machines.start(spec.name.as_str()).await {
                    tracing::error!(vm = %spec.name, %error, "a VM did not start by itself");
                }
            });
        }
    }
}

/// Sweeps a VM's snapshots, and counts what they take.
fn take_over_files(inner: &Inner, slot: &Slot) {
    let name = slot.record().spec.name;
    let snapshots = Snapshots::of(&name, &slot.dir);
    let counted = snapshots.sweep().and_then(|()| snapshots.size_mb());
    match counted {
        Ok(size_mb) => inner.registry.note_snapshots(&name, size_mb),
        Err(error) => tracing::warn!(vm = %name, %error, "a VM's snapshots were not counted"),
    }
}
