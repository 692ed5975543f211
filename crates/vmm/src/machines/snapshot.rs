//! Taking snapshots, and deleting them.
//!
//! A VM that runs stands still for as long as its memory and its disk are copied, both at once.
//! What can wait (flushing, measuring, describing) is done when it runs again.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::Inner;
use crate::driver::Link;
use crate::errors::{DeleteSnapshotError, SnapshotError, Unsupported};
use crate::files::StorageError;
use crate::layout::disk_in;
use crate::lifecycle::{Mode, Phase};
use crate::name::SnapshotName;
use crate::record::Record;
use crate::slot::Slot;
use crate::snapshots::{MAX_SNAPSHOTS, Memory, Parts, Snapshot, Snapshots, taken_mb_of};
use crate::{blocking, disk, fault};

/// What the driver's files take beside the guest's memory, in MiB: more than they do.
const DEVICES_MB: u64 = 16;

/// Takes a snapshot of a VM whose turn the caller has.
pub(super) async fn take(
    inner: &Inner,
    slot: &Arc<Slot>,
    name: Option<SnapshotName>,
) -> Result<Snapshot, SnapshotError> {
    let record = slot.record();
    let vm = record.spec.name.clone();
    let snapshots = Snapshots::of(&vm, &slot.dir);
    let now = Timestamp::now();
    let name = name.unwrap_or_else(|| SnapshotName::of(now));
    let known = snapshots.names()?;
    if known.contains(&name) {
        return Err(SnapshotError::Exists { vm, name });
    }
    if known.len() >= MAX_SNAPSHOTS {
        return Err(SnapshotError::TooMany { vm });
    }
    let link = link_to_save(inner, slot, &record)?;
    let memory = match &link {
        Some(link) => Some(memory_of(inner, &**link, &record).await?),
        None => None,
    };
    let parts = Parts {
        name,
        created_at: now,
        vm_id: record.spec.id,
        driver: record.spec.driver,
        cpus: record.spec.cpus,
        memory_mb: record.spec.memory_mb,
        disk_size_mb: record.spec.disk_size_mb,
        kernel: record.spec.kernel.clone(),
        memory,
    };
    reserve(inner, slot, &parts)?;
    let taken = write(slot, link.as_deref(), &snapshots, parts).await;
    count(inner, slot, &snapshots);
    taken
}

/// The conversation through which the memory is saved; none for a VM that has no process.
fn link_to_save(
    inner: &Inner,
    slot: &Slot,
    record: &Record,
) -> Result<Option<Arc<dyn Link>>, SnapshotError> {
    let not_now = || SnapshotError::NotNow {
        name: record.spec.name.clone(),
        state: record.phase.state(),
    };
    match record.phase.live().map(|live| &live.mode) {
        Some(Mode::Running | Mode::Paused { reason: None }) => {}
        Some(_) => return Err(not_now()),
        None if matches!(record.phase, Phase::Idle(_)) => return Ok(None),
        None => return Err(not_now()),
    }
    let driver = inner.driver_of(record.spec.driver)?;
    if !record.spec.mounts.is_empty() {
        // What serves a directory knows what the guest has open in it, and cannot be asked.
        return Err(Unsupported {
            feature: "a snapshot of a VM that runs with mounts".to_owned(),
            driver: driver.kind(),
        }
        .into());
    }
    if !driver.capabilities().snapshots {
        return Err(Unsupported {
            feature: "a snapshot of a VM that runs".to_owned(),
            driver: driver.kind(),
        }
        .into());
    }
    let link = slot.attachment().and_then(|attachment| attachment.link);
    link.map(Some).ok_or_else(not_now)
}

/// What will have to be the same where the memory is loaded.
async fn memory_of(
    inner: &Inner,
    link: &dyn Link,
    record: &Record,
) -> Result<Memory, SnapshotError> {
    let kernel = &record.spec.kernel;
    Ok(Memory {
        arch: std::env::consts::ARCH.to_owned(),
        kernel_sha256: inner.kernels.known(kernel)?.sha256,
        form: link.memory_form().await?,
    })
}

/// Reserves the room that the snapshot takes at most.
fn reserve(inner: &Inner, slot: &Slot, parts: &Parts) -> Result<(), SnapshotError> {
    let memory_mb = match parts.memory {
        Some(_) => parts.memory_mb + DEVICES_MB,
        None => 0,
    };
    let asked_mb = memory_mb + taken_mb_of(&slot.dir.disk())?;
    let name = slot.record().spec.name;
    let reserved = inner
        .registry
        .reserve_snapshot(&name, asked_mb, inner.capacity()?);
    reserved.map_err(|short| SnapshotError::NoRoom {
        asked_mb,
        available_mb: short.available,
    })
}

/// Writes down what the snapshots of a VM take, now that it is known.
fn count(inner: &Inner, slot: &Slot, snapshots: &Snapshots) {
    let name = slot.record().spec.name;
    match snapshots.size_mb() {
        Ok(size_mb) => inner.registry.note_snapshots(&name, size_mb),
        Err(error) => tracing::warn!(vm = %name, %error, "a VM's snapshots were not counted"),
    }
}

async fn write(
    slot: &Slot,
    link: Option<&dyn Link>,
    snapshots: &Snapshots,
    parts: Parts,
) -> Result<Snapshot, SnapshotError> {
    let draft = snapshots.draft()?;
    match link {
        None => copy_disk(slot, draft.path()).await?,
        Some(link) => freeze(slot, link, draft.path()).await?,
    }
    let snapshots = snapshots.clone();
    Ok(blocking::run(move || snapshots.put(draft, parts)).await?)
}

/// Saves memory and disk of a VM that stands still, and lets it go on if it ran before.
async fn freeze(slot: &Slot, link: &dyn Link, directory: &Path) -> Result<(), SnapshotError> {
    let ran = slot
        .record()
        .phase
        .live()
        .is_some_and(|live| live.mode == Mode::Running);
    if ran {
        link.pause().await?;
        slot.note(|record| record.phase.saving()).await;
    }
    fault::point("snapshot.paused");
    // Whatever comes of one, the other is waited for: the VM must not run under it.
    let (saved, copied) = tokio::join!(link.save(directory), copy_disk(slot, directory));
    fault::point("snapshot.copied");
    if ran {
        let resumed = link.resume().await;
        let stuck = resumed.as_ref().err().map(ToString::to_string);
        slot.note(|record| match stuck {
            None => record.phase.resumed(),
            Some(reason) => record.phase.stuck(reason),
        })
        .await;
        resumed?;
        slot.keep_time();
    }
    // A disk that is full says so more clearly than who else could not write to it.
    copied?;
    Ok(saved?)
}

async fn copy_disk(slot: &Slot, directory: &Path) -> Result<(), StorageError> {
    let (from, to) = (slot.dir.disk(), disk_in(directory));
    blocking::run(move || disk::copy_sparse(&from, &to, 0)).await
}

/// Deletes a snapshot of a VM whose turn the caller has.
pub(super) async fn delete(
    inner: &Inner,
    slot: &Slot,
    name: &str,
) -> Result<(), DeleteSnapshotError> {
    let snapshots = Snapshots::of(&slot.record().spec.name, &slot.dir);
    let (doomed, name) = (snapshots.clone(), name.to_owned());
    blocking::run(move || doomed.remove(&name)).await?;
    count(inner, slot, &snapshots);
    Ok(())
}
