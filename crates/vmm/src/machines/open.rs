//! Opening a data directory: what an earlier daemon left is found, understood and taken over.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::join_all;
use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::Signal;

use super::{Inner, Machines, OWNER, keeper, remove_traces};
use crate::config::{Config, DriverChoice};
use crate::driver::qemu::{Qemu, probe};
use crate::driver::{Driver, GuestEndpoint, Link, LinkError};
use crate::errors::NoDriver;
use crate::files::{self, Context as _, StorageError};
use crate::images::Images;
use crate::kernels::Kernels;
use crate::layout::Layout;
use crate::lifecycle::{Ending, Phase};
use crate::model::{DriverKind, PortForward};
use crate::process::{Birth, Process, Watched};
use crate::record::Record;
use crate::slot::Slot;
use crate::status::DriverStatus;
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
    /// A driver was asked for that this program does not have.
    #[error("driver {0} is not part of this version; use driver auto or qemu")]
    Driver(DriverKind),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

pub(super) async fn open(mut config: Config) -> Result<Machines, OpenError> {
    if config.driver == DriverChoice::Firecracker {
        return Err(OpenError::Driver(DriverKind::Firecracker));
    }
    let data_dir = config.data_dir.clone();
    files::make_private_dir(&data_dir)?;
    // Absolute and without links: VMs' processes and sockets are named after it.
    config.data_dir = fs::canonicalize(&data_dir).context("find", &data_dir)?;
    config.cache_dir = std::path::absolute(&config.cache_dir).context("find", &config.cache_dir)?;
    let layout = Layout::new(config.data_dir.clone());
    let lock = take_lock(&layout)?;

    files::make_private_dir(&layout.vms())?;
    files::sweep_drafts(&layout.vms())?;
    let registry = Arc::default();
    let kernels = Kernels::open(layout.kernels(), Arc::clone(&registry))?;
    let cache = config.cache_dir.clone();
    let images = Images::open(
        layout.images(),
        layout.blobs(),
        cache,
        kernels.clone(),
        Arc::clone(&registry),
    )?;
    let (driver, drivers) = choose_driver(&config).await;
    let (records, damaged) = load_records(&layout)?;

    let inner = Arc::new(Inner {
        config,
        layout,
        registry,
        ports: Arc::default(),
        images,
        kernels,
        driver,
        drivers,
        damaged,
        _lock: lock,
    });
    let machines = Machines { inner };
    machines.take_over(records).await;
    machines.sweep_sockets();
    machines.read_ahead();
    machines.start_those_that_want().await;
    Ok(machines)
}

/// Takes the lock that says "in use"; the kernel gives it back however the daemon ends.
fn take_lock(layout: &Layout) -> Result<File, OpenError> {
    let path = layout.lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .mode(0o600)
        .write(true)
        .open(&path);
    let file = file.context("open", &path)?;
    let taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
    if taken == Err(Errno::WOULDBLOCK) {
        return Err(OpenError::InUse {
            data_dir: layout.root().to_owned(),
        });
    }
    taken.context("lock", &path)?;
    Ok(file)
}

async fn choose_driver(config: &Config) -> (Result<Arc<dyn Driver>, NoDriver>, Vec<DriverStatus>) {
    let firecracker = DriverStatus {
        kind: DriverKind::Firecracker,
        selected: false,
        version: None,
        reason: "not part of this version".to_owned(),
        capabilities: None,
    };
    let mut status = DriverStatus {
        kind: DriverKind::Qemu,
        ..firecracker.clone()
    };
    let driver = match probe::probe(&config.qemu_binary).await {
        Ok(found) => {
            status.selected = true;
            status.version = Some(found.version.clone());
            status.reason = found.reason.clone();
            let driver = Qemu::new(found);
            status.capabilities = Some(driver.capabilities());
            Ok(Arc::new(driver) as Arc<dyn Driver>)
        }
        Err(error) => {
            status.reason = error.to_string();
            Err(NoDriver {
                reason: error.to_string(),
            })
        }
    };
    (driver, vec![status, firecracker])
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
            slot
        });
        let slots: Vec<_> = slots.collect();
        join_all(
            slots
                .iter()
                .map(|slot| take_over(slot, inner.driver.as_deref().ok())),
        )
        .await;
    }

    /// Removes directories of sockets whose VM is gone. (Most VMs have theirs in their own
    /// directory, and those go with it.)
    fn sweep_sockets(&self) {
        let vms = self.inner.layout.vms();
        let Ok(entries) = fs::read_dir(crate::layout::runtime_dir()) else {
            return;
        };
        for directory in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let Ok(owner) = fs::read_link(directory.join(OWNER)) else {
                continue;
            };
            let is_ours = directory
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"hostler-"));
            if is_ours && owner.parent() == Some(vms.as_path()) && !owner.exists() {
                tracing::info!(path = %directory.display(), "removing sockets without a VM");
                let _ = fs::remove_dir_all(&directory);
            }
        }
    }

    /// Lets the system read what a start reads, so that the first start is as fast as the second.
    fn read_ahead(&self) {
        let inner = &self.inner;
        let mut paths = inner
            .driver
            .as_ref()
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

/// Finds out what became of a VM, and connects to it if it runs.
async fn take_over(slot: &Arc<Slot>, driver: Option<&dyn Driver>) {
    let record = slot.record();
    match record.phase.live() {
        Some(live) => take_over_live(slot, driver, &live.process).await,
        None => take_over_unrecorded(slot, driver).await,
    }
}

/// A VM that was running: it still does, or it ended unwatched.
async fn take_over_live(slot: &Arc<Slot>, driver: Option<&dyn Driver>, process: &Process) {
    let Record { spec, .. } = slot.record();
    let watched = match Watched::open(&process.birth) {
        Ok(Some(watched)) => watched,
        gone => {
            if let Err(error) = gone {
                tracing::error!(vm = %spec.name, %error, "a VM's process cannot be watched");
            }
            slot.note(|record| record.phase.ended(Ending::Unwatched, Timestamp::now()))
                .await;
            remove_traces(&slot.dir);
            return;
        }
    };
    let link = match driver {
        Some(driver) => driver
            .reconnect(spec.id, process)
            .await
            .map_err(|e| e.to_string()),
        None => Err("the driver that started it is gone from this host".to_owned()),
    };
    match link {
        Ok(link) => {
            reconcile(slot, &*link).await;
            keeper::attach(slot, watched, Some(link)).await;
            tracing::info!(vm = %spec.name, "a VM that was left running is ours again");
        }
        Err(reason) => {
            tracing::error!(vm = %spec.name, reason, "a VM runs and does not answer");
            slot.note(|record| record.phase.unresponsive(reason)).await;
            keeper::attach(slot, watched, None).await;
        }
    }
}

/// A VM that was not running as far as anybody wrote down. If the daemon died between launching it
/// and writing that down, its process is there, and its pid file leads to it.
async fn take_over_unrecorded(slot: &Arc<Slot>, driver: Option<&dyn Driver>) {
    let Some((process, watched)) = find_unrecorded(slot, driver) else {
        if matches!(slot.record().phase, Phase::Starting { .. }) {
            slot.note(|record| record.phase.launch_failed()).await;
        }
        remove_traces(&slot.dir);
        return;
    };
    let Record { spec, .. } = slot.record();
    let link = match driver {
        Some(driver) => driver.reconnect(spec.id, &process).await.ok(),
        None => None,
    };
    let Some(link) = link else {
        // Half launched and silent: ended, as a failed start is.
        tracing::warn!(vm = %spec.name, "ending a process whose start was interrupted");
        let _ = watched.signal(Signal::KILL);
        watched.ended().await;
        slot.note(|record| record.phase.launch_failed()).await;
        remove_traces(&slot.dir);
        return;
    };
    slot.note(|record| {
        let now = Timestamp::now();
        record.phase.start(now);
        record.phase.launched(process, now);
    })
    .await;
    reconcile(slot, &*link).await;
    keeper::attach(slot, watched, Some(link)).await;
}

/// The process that a VM's pid file names, if it is the VM's: pids are used again, so the VM's id
/// has to be among its arguments.
fn find_unrecorded(slot: &Slot, driver: Option<&dyn Driver>) -> Option<(Process, Watched)> {
    let pid: i32 = fs::read_to_string(slot.dir.pid_file())
        .ok()?
        .trim()
        .parse()
        .ok()?;
    let birth = Birth::of(pid)?;
    let watched = Watched::open(&birth).ok().flatten()?;
    let id = slot.record().spec.id.to_string();
    let arguments = fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).ok()?;
    if !arguments
        .split(|byte| *byte == 0)
        .any(|argument| argument == id.as_bytes())
    {
        return None;
    }
    let guest = slot.dir.guest_socket();
    let process = Process {
        birth,
        control_socket: slot.dir.control_socket(),
        guest: match driver {
            Some(driver) => driver.guest(guest),
            None => GuestEndpoint::Socket(guest),
        },
    };
    Some((process, watched))
}

/// Brings the record and the process together again, where a daemon died between changing the one
/// and the other: the record is what callers were told.
async fn reconcile(slot: &Slot, link: &dyn Link) {
    let record = slot.record();
    let name = record.spec.name.as_str();
    match link.standstill().await {
        Ok(standstill) => {
            slot.note(|record| {
                record.phase.adopted();
                if let Some(reason) = standstill {
                    record.phase.paused(reason);
                }
            })
            .await;
        }
        Err(error) => tracing::warn!(vm = name, %error, "a VM's state is not known"),
    }
    if let Err(error) = reconcile_forwards(&record.port_forwards, link).await {
        tracing::warn!(vm = name, %error, "a VM's port forwards could not be checked");
    }
}

async fn reconcile_forwards(recorded: &[PortForward], link: &dyn Link) -> Result<(), LinkError> {
    let actual = link.forwards().await?;
    for surplus in actual.iter().filter(|forward| !recorded.contains(forward)) {
        link.remove_forward(surplus).await?;
    }
    for missing in recorded.iter().filter(|forward| !actual.contains(forward)) {
        link.add_forward(missing).await?;
    }
    Ok(())
}
