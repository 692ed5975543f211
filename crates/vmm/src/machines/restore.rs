//! Restoring a VM: what it was when a snapshot was taken.
//!
//! In this order, so that whatever fails costs as little as it can: everything is compared and
//! read, while the disk is copied beside the one that is there; what runs is ended; the two disks
//! change names; the process is made and the memory loaded. Should that fail, the disks change back.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Inner, power};
use crate::errors::{RestoreError, StartError};
use crate::files::{self, DraftFile};
use crate::model::Vm;
use crate::record::Record;
use crate::slot::Slot;
use crate::snapshots::{Found, Memory, Snapshots};
use crate::{blocking, disk, fault};

/// Restores a VM whose turn the caller has.
pub(super) async fn restore(
    inner: &Inner,
    slot: &Arc<Slot>,
    snapshot: &str,
    force: bool,
) -> Result<Vm, RestoreError> {
    let Record { spec, phase, .. } = slot.record();
    let snapshots = Snapshots::of(&spec.name, &slot.dir);
    let found = snapshots.find(snapshot)?;
    found.manifest.fits(&spec)?;
    if found.manifest.memory().is_some() {
        found.manifest.fits_here(&here(inner, slot)?)?;
    }
    if phase.live().is_some() && !force {
        return Err(RestoreError::Running {
            name: spec.name,
            state: phase.state(),
        });
    }
    let draft = DraftFile::begin(slot.dir.path());
    let (from, to) = (found.disk(), draft.path().to_owned());
    // Reading takes the processor and copying takes the disk. Both are waited for, whatever the
    // other has come to: a copy that is still being written cannot be removed.
    let (verified, copied) = tokio::join!(
        blocking::run(move || snapshots.verify(&found).map(|()| found)),
        blocking::run(move || disk::copy_flushed(&from, &to)),
    );
    let found = verified?;
    copied?;
    fault::point("restore.copied");
    if phase.live().is_some() {
        power::kill(slot).await?;
    }
    fault::point("restore.ended");
    files::exchange(draft.path(), &slot.dir.disk())?;
    fault::point("restore.exchanged");
    if let Err(error) = go_on(inner, slot, &found).await {
        files::exchange(draft.path(), &slot.dir.disk())?;
        return Err(error);
    }
    Ok(slot.view())
}

/// What a memory would be loaded into.
fn here(inner: &Inner, slot: &Slot) -> Result<Memory, RestoreError> {
    let Record {
        spec,
        port_forwards,
        ..
    } = slot.record();
    let driver = inner.driver_of(spec.driver)?;
    let network = inner.networks.outlook(&spec, port_forwards);
    let blueprint = power::describe(inner, slot, network);
    let blueprint = blueprint.map_err(|error| not_started(slot, error))?;
    let form = driver.memory_form(&blueprint);
    let form = form.map_err(|error| not_started(slot, error.into()))?;
    Ok(Memory {
        arch: std::env::consts::ARCH.to_owned(),
        kernel_sha256: inner.kernels.known(&spec.kernel)?.sha256,
        form,
    })
}

/// Lets a VM that has its disk again be what it was beside that.
async fn go_on(inner: &Inner, slot: &Arc<Slot>, found: &Found) -> Result<(), RestoreError> {
    if found.manifest.memory().is_none() {
        // Whatever its last process came to, it has nothing to do with this disk.
        let now = Timestamp::now();
        slot.commit(|record| {
            record.restarts.forget();
            record.phase.stop(now)
        })
        .await?;
        return Ok(());
    }
    let started = power::start_saved(inner, slot, found.directory()).await;
    started.map_err(|source| not_started(slot, source))
}

fn not_started(slot: &Slot, source: StartError) -> RestoreError {
    RestoreError::Start {
        name: slot.record().spec.name,
        source: Box::new(source),
    }
}
