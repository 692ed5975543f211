//! Starting and stopping.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::time::{Instant, timeout};

use super::{Inner, keeper};
use crate::driver::firecracker::jail;
use crate::driver::{Blueprint, Driver, LaunchError, Launched, LinkError, Network, Prepared};
use crate::errors::{StartError, StopError};
use crate::fault;
use crate::files::{self, Context as _, StorageError};
use crate::initrd::{self, GuestConfig};
use crate::kernels::KernelFiles;
use crate::layout::{OWNER, VmDir};
use crate::lifecycle::{Mode, Phase, StartStep, StopStep};
use crate::model::Vm;
use crate::mounts::{MountError, Shared};
use crate::name::{ItemName, VmName};
use crate::process::{Process, Watched};
use crate::record::Record;
use crate::slot::{Attachment, Slot};
use crate::spec::Spec;

/// How long a process may take to end after SIGTERM, and again after SIGKILL.
const AFTER_TERM: Duration = Duration::from_secs(5);
const AFTER_KILL: Duration = Duration::from_secs(30);

/// How long the guest of a process that does not answer may take: its processor may be all right.
const UNRESPONSIVE: Duration = Duration::from_secs(5);

/// The most that the guest's own processes get to finish.
const GUEST_GRACE: Duration = Duration::from_secs(5);

/// Starts a VM whose turn the caller has.
pub(super) async fn start(inner: &Inner, slot: &Arc<Slot>) -> Result<Vm, StartError> {
    match slot
        .commit(|record| record.phase.start(Timestamp::now()))
        .await?
    {
        StartStep::AlreadyRunning => {}
        StartStep::Resume => resume_processors(slot).await?,
        StartStep::Launch => {
            fault::point("start.intended");
            if let Err(error) = launch(inner, slot).await {
                undo(inner, slot).await;
                return Err(error);
            }
        }
    }
    Ok(slot.view())
}

/// Makes a process for a memory that was saved, as far as it goes while the VM's disk is still at
/// another place (see [`Driver::prepare`]), for a VM that has none and whose turn the caller has.
pub(super) async fn prepare_saved(
    inner: &Inner,
    slot: &Slot,
    disk: &Path,
) -> Result<Box<dyn Prepared>, StartError> {
    let step = slot
        .commit(|record| record.phase.start(Timestamp::now()))
        .await?;
    debug_assert_eq!(step, StartStep::Launch);
    let prepared = async {
        let (driver, blueprint) = lay_out(inner, slot).await?;
        Ok::<_, StartError>(driver.prepare(blueprint, disk).await?)
    };
    let prepared = prepared.await;
    if prepared.is_err() {
        undo(inner, slot).await;
    }
    prepared
}

/// Loads a memory that was saved to a directory into such a process, as far as it goes.
pub(super) async fn load_saved(
    inner: &Inner,
    slot: &Slot,
    mut prepared: Box<dyn Prepared>,
    saved: &Path,
) -> Result<Box<dyn Prepared>, StartError> {
    match prepared.load(saved).await {
        Ok(()) => {
            fault::point("restore.loaded");
            Ok(prepared)
        }
        Err(error) => {
            give_up_saved(inner, slot, prepared).await;
            Err(error.into())
        }
    }
}

/// Ends such a process, and the VM is again what it was.
pub(super) async fn give_up_saved(inner: &Inner, slot: &Slot, prepared: Box<dyn Prepared>) {
    prepared.give_up().await;
    undo(inner, slot).await;
}

/// Lets a VM go on that has its disk, with such a process.
pub(super) async fn start_saved(
    inner: &Inner,
    slot: &Arc<Slot>,
    prepared: Box<dyn Prepared>,
    saved: &Path,
) -> Result<(), StartError> {
    let gone_on = async {
        let launched = prepared.complete(saved).await?;
        fault::point("restore.completed");
        // What it was to be started again for is over. Whatever becomes of it from now on counts.
        let as_restored = |record: &mut Record| {
            record.is_restored = false;
            record.restarts.forget();
        };
        keep(inner, slot, launched, as_restored).await?;
        // The first time that these processors run. Whoever dies from here on leaves a process that the
        // next daemon sets going.
        fault::point("restore.recorded");
        Ok::<_, StartError>(resume_processors(slot).await?)
    };
    let Err(error) = gone_on.await else {
        return Ok(());
    };
    if slot.record().phase.live().is_some() {
        if let Err(error) = kill(slot).await {
            tracing::error!(%error, "a VM that could not be restored is still there");
        }
    } else {
        // It died while it was told to run. Who restored it hears that it does not run now, so its restart
        // policy must not have it run a moment later.
        if !matches!(slot.record().phase, Phase::Starting { .. }) {
            slot.note(|record| record.restarts.forget()).await;
        }
        undo(inner, slot).await;
    }
    Err(error)
}

/// Takes back what was begun for a process that there is none of.
async fn undo(inner: &Inner, slot: &Slot) {
    slot.note(|record| record.phase.launch_failed()).await;
    inner.networks.unplug(slot.record().spec.id).await;
    remove_traces(&slot.dir);
}

async fn launch(inner: &Inner, slot: &Arc<Slot>) -> Result<(), StartError> {
    let (driver, blueprint) = lay_out(inner, slot).await?;
    let begun = Instant::now();
    let launched = driver.launch(&blueprint).await?;
    let vmm_ms = begun.elapsed().as_secs_f64() * 1000.0;
    tracing::info!(vmm_ms, "the VM's process is up");
    fault::point("start.launched");
    keep(inner, slot, launched, |_| ()).await
}

/// Prepares everything that a process needs.
async fn lay_out(inner: &Inner, slot: &Slot) -> Result<(Arc<dyn Driver>, Blueprint), StartError> {
    // An earlier process has ended, but its keeper may still be clearing up: it must not take the
    // new one's sockets for the old one's.
    if let Some(earlier) = slot.attachment() {
        earlier.let_go().await;
    }
    let driver = inner.driver_of(slot.record().spec.driver)?;
    let network = plug(inner, &*driver, slot).await?;
    fault::point("start.plugged");
    let blueprint = blueprint(inner, &*driver, slot, network).await?;
    fault::point("start.initrd-written");
    prepare_sockets(&slot.dir)?;
    fault::point("start.sockets-prepared");
    Ok((driver, blueprint))
}

/// Writes a process down that was just made, with what else there is to say then, and appoints its keeper.
async fn keep(
    inner: &Inner,
    slot: &Arc<Slot>,
    launched: Launched,
    also: impl FnOnce(&mut Record),
) -> Result<(), StartError> {
    match adopt_newborn(slot, launched.process, also).await? {
        Some(watched) => {
            fault::point("start.recorded");
            let networks = inner.networks.clone();
            let line = keeper::Line::Open(launched.link);
            keeper::attach(slot, networks, watched, line).await;
            Ok(())
        }
        // It has ended already; what it said last is in its log.
        None => Err(LinkError::Unknown {
            command: "start",
            answer: "the VM's process ended as soon as it had started".to_owned(),
        }
        .into()),
    }
}

/// Puts a VM on the network that the host has its VMs on now.
async fn plug(inner: &Inner, driver: &dyn Driver, slot: &Slot) -> Result<Network, StartError> {
    let home = inner.networks.home(&slot.record().spec).await?;
    slot.commit(|record| {
        record.spec.network = home.network;
        record.spec.ip_address = home.address;
        record.spec.mac_address = home.mac;
    })
    .await?;
    let Record {
        spec,
        port_forwards,
        ..
    } = slot.record();
    let owner = driver.tap_owner(spec.id);
    Ok(inner.networks.plug(&spec, port_forwards, owner).await?)
}

/// Takes hold of a process that was just made and writes it down. A process that cannot be held or
/// written down is ended: nobody would find it again.
async fn adopt_newborn(
    slot: &Slot,
    process: Process,
    also: impl FnOnce(&mut Record),
) -> Result<Option<Watched>, StorageError> {
    let watched = match Watched::open(&process.birth) {
        Ok(Some(watched)) => watched,
        Ok(None) => return Ok(None),
        Err(error) => {
            process.birth.kill();
            return Err(error).context("watch", slot.dir.path());
        }
    };
    process.birth.yield_to_others();
    let noted = slot
        .commit(|record| {
            record.phase.launched(process, Timestamp::now());
            also(record);
        })
        .await;
    if let Err(error) = noted {
        let _ = watched.signal(Signal::KILL);
        watched.ended().await;
        return Err(error);
    }
    Ok(Some(watched))
}

/// Lets the processors of a VM run whose turn the caller has.
pub(super) async fn resume_processors(slot: &Slot) -> Result<(), LinkError> {
    // Without a link the VM would be unresponsive, not paused.
    if let Some(link) = slot.attachment().and_then(|attachment| attachment.link) {
        link.resume().await?;
        slot.note(|record| record.phase.resumed()).await;
        slot.keep_time();
    }
    Ok(())
}

/// What the driver needs to know, with the initial RAM disk written.
pub(super) async fn blueprint(
    inner: &Inner,
    driver: &dyn Driver,
    slot: &Slot,
    network: Network,
) -> Result<Blueprint, StartError> {
    let spec = slot.record().spec;
    let kernel = inner.kernels.files(&spec.kernel)?;
    check_kernel(driver, &spec.kernel, &kernel)?;
    let config = GuestConfig::of(&spec, kernel.modules_on(driver.bus()), &network);
    let config = config
        .with_mounts(&spec.mounts, &kernel.mount_modules)
        .with_program(inner.images.stand_in(&spec.image));
    let mut archives = vec![kernel.modules_archive.clone()];
    if !spec.mounts.is_empty() {
        archives.extend(kernel.mount_modules_archive.clone());
    }
    let initrd = slot.dir.initrd();
    crate::blocking::run(move || initrd::write(&initrd, &archives, &config)).await?;
    describe(inner, slot, network)
}

/// What the driver needs to know of a VM that is on this network.
pub(super) fn describe(
    inner: &Inner,
    slot: &Slot,
    network: Network,
) -> Result<Blueprint, StartError> {
    let spec = slot.record().spec;
    let kernel = inner.kernels.files(&spec.kernel)?;
    let dir = &slot.dir;
    Ok(Blueprint {
        id: spec.id,
        directory: dir.path().to_owned(),
        name: spec.name.to_string(),
        cpus: spec.cpus,
        memory_mb: spec.memory_mb,
        mac_address: spec.mac_address.as_str().to_owned(),
        kernel: kernel.kernel,
        initrd: dir.initrd(),
        disk: dir.disk(),
        console: dir.console(),
        pid_file: dir.pid_file(),
        control_socket: dir.control_socket(),
        guest_socket: dir.guest_socket(),
        network,
        shares: shares(inner, &spec, dir)?,
    })
}

/// Refuses a kernel that this driver cannot boot, or whose modules are for other machines.
fn check_kernel(
    driver: &dyn Driver,
    name: &ItemName,
    kernel: &KernelFiles,
) -> Result<(), LaunchError> {
    let kind = driver.kind();
    if !driver.boots(kernel.format) {
        let format = kernel.format;
        return Err(LaunchError::Kernel(format!(
            "kernel {name} is a {format}, which driver {kind} does not boot; import a kernel in \
             another form (for Firecracker an ELF vmlinux)"
        )));
    }
    if !kernel.knows(driver.bus()) {
        return Err(LaunchError::Kernel(format!(
            "kernel {name} came without the modules for driver {kind}; delete it and pull the \
             default image again"
        )));
    }
    Ok(())
}

/// Gets hold of the directories that a VM shares: allowed once is not allowed for ever.
fn shares(inner: &Inner, spec: &Spec, dir: &VmDir) -> Result<Vec<Shared>, MountError> {
    let shares = spec.mounts.iter().enumerate().map(|(index, mount)| {
        Ok(Shared {
            tag: mount.guest_tag.clone(),
            read_only: mount.read_only,
            directory: Arc::new(inner.hold(mount)?),
            socket: dir.share_socket(index),
        })
    });
    shares.collect()
}

/// Makes the place for the VM's sockets when it is not the VM's own directory, and marks there
/// whose it is, so that a sweep can tell.
pub(super) fn prepare_sockets(dir: &VmDir) -> Result<(), StorageError> {
    if dir.has_own_sockets() {
        return Ok(());
    }
    files::make_private_dir_among_others(dir.sockets())?;
    let mark = dir.sockets().join(OWNER);
    match std::os::unix::fs::symlink(dir.path(), &mark) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).context("create", &mark)
        }
        _ => Ok(()),
    }
}

/// Stops a VM whose turn the caller has: its guest is asked, then its process, then nobody.
pub(super) async fn stop(slot: &Slot, patience: Duration) -> Result<Vm, StopError> {
    let before = slot.record();
    let patience = match before.phase.live().map(|live| &live.mode) {
        Some(Mode::Running) => patience,
        // To shut down, a guest has to run. One that stands still for another reason could not.
        Some(Mode::Paused { reason: None })
            if !patience.is_zero() && resume_processors(slot).await.is_ok() =>
        {
            patience
        }
        // Its process does not answer; the guest itself may.
        Some(Mode::Unresponsive { .. }) => patience.min(UNRESPONSIVE),
        _ => Duration::ZERO,
    };
    // Noted, not committed: a full disk must not keep anybody from stopping a VM.
    let step = slot
        .note(|record| {
            record.restarts.forget();
            record.phase.stop(Timestamp::now())
        })
        .await;
    if let StopStep::End(_) = step {
        let name = before.spec.name;
        // A process that could not be taken hold of; it is tried again and again.
        let Some(attachment) = slot.attachment() else {
            return Err(StopError::Stubborn { name });
        };
        fault::point("stop.intended");
        end(&name, attachment, patience).await?;
        fault::point("stop.ended");
    }
    Ok(slot.view())
}

/// Ends a process, and returns once its end is written down.
async fn end(name: &VmName, at: Attachment, patience: Duration) -> Result<(), StopError> {
    let watched = &at.watched;
    let asked_and_gone = async {
        let asked = ask_guest(&at, patience).await;
        if asked {
            watched.ended().await;
        }
        asked
    };
    let gone = timeout(patience, asked_and_gone).await == Ok(true)
        || (watched.heeds_term() && ends_after(watched, Signal::TERM, AFTER_TERM).await)
        || ends_after(watched, Signal::KILL, AFTER_KILL).await;
    if !gone {
        return Err(StopError::Stubborn { name: name.clone() });
    }
    at.let_go().await;
    Ok(())
}

/// Asks the guest to end itself; true when it said that it would, or was faster than its answer.
async fn ask_guest(at: &Attachment, patience: Duration) -> bool {
    let Some(guest) = at.guest.as_ref().filter(|_| !patience.is_zero()) else {
        return false;
    };
    let grace = GUEST_GRACE.min(patience / 2);
    tokio::select! {
        asked = guest.power_off(grace) => match asked {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(%error, "the guest could not be asked to end");
                false
            }
        },
        () = at.watched.ended() => true,
    }
}

async fn ends_after(watched: &Watched, signal: Signal, limit: Duration) -> bool {
    if let Err(error) = watched.signal(signal) {
        tracing::warn!(%error, "a VM's process could not be signalled");
    }
    timeout(limit, watched.ended()).await.is_ok()
}

/// Ends a VM that is about to be deleted: what its guest has not written does not matter.
pub(super) async fn kill(slot: &Slot) -> Result<(), StopError> {
    stop(slot, Duration::ZERO).await.map(drop)
}

/// Removes what a process leaves behind when it cannot do so itself.
pub(super) fn remove_traces(dir: &VmDir) {
    let shares = dir.share_sockets().into_iter();
    for path in shares.chain([dir.control_socket(), dir.guest_socket(), dir.pid_file()]) {
        remove_trace(&path);
    }
    jail::clear(dir.path());
    if !dir.has_own_sockets() {
        remove_trace(&dir.sockets().join(OWNER));
        let _ = fs::remove_dir(dir.sockets());
    }
}

fn remove_trace(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "a VM's leftover could not be removed");
        }
        _ => {}
    }
}
