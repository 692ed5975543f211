//! Restoring a VM: what it was when a snapshot was taken.
//!
//! In this order, so that whatever fails costs as little as it can: everything is compared and
//! read, while the disk is copied beside the one that is there; what runs is ended; a process is made
//! and the memory loaded; the two disks change names; the processors run. Should that fail, the disks
//! change back. A process that does not end then has the snapshot's disk, and the next daemon may adopt
//! it: the other one is kept beside it. Should the daemon end meanwhile, the next one takes a VM whose
//! process gave way for one that failed, and its restart policy says what becomes of it.
//!
//! A VM that does not run is given its process while everything is still read and copied: a restore is
//! waited for, and most of what it does can be done at once. Until the end that process has the disk
//! under a name that the next daemon sweeps, so a daemon that finds a process with a memory that never
//! ran, and that nobody wrote down, ends it.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Inner, power};
use crate::driver::Prepared;
use crate::errors::{RestoreError, StartError};
use crate::files::{self, DraftFile, StorageError};
use crate::model::Vm;
use crate::record::Record;
use crate::slot::Slot;
use crate::snapshots::{Found, Memory, Snapshots};
use crate::{blocking, disk, fault};

/// What the disk of a VM is called that lost its place and could not get it back.
const OUSTED: (&str, &str) = ("disk-before-restore", "ext4");

/// Restores a VM whose turn the caller has.
pub(super) async fn restore(
    inner: &Inner,
    slot: &Arc<Slot>,
    snapshot: &str,
    force: bool,
) -> Result<Vm, RestoreError> {
    let restored = go_back(inner, slot, snapshot, force).await;
    if slot.record().is_restored {
        // The caller hears that it failed; nobody else has to find out.
        slot.note(|record| record.is_restored = false).await;
    }
    restored
}

async fn go_back(
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
    let restoring = Restoring {
        inner,
        slot,
        snapshots: &snapshots,
        found: &found,
        draft: draft.path(),
    };
    let prepared = restoring.prepare().await?;
    if let Err(error) = files::exchange(draft.path(), &slot.dir.disk()) {
        restoring.give_up(prepared).await;
        return Err(error.into());
    }
    fault::point("restore.exchanged");
    let starts = prepared.is_some();
    let gone_on = match prepared {
        Some(prepared) => power::start_saved(inner, slot, prepared, found.directory()).await,
        None => rest(slot).await.map_err(StartError::from),
    };
    let Err(source) = gone_on else {
        return Ok(slot.view());
    };
    Err(match (give_back(slot, draft), source) {
        (Some(kept), source) => RestoreError::Ousted {
            name: spec.name,
            kept,
            source: Box::new(source),
        },
        (None, StartError::Storage(error)) if !starts => error.into(),
        (None, source) => not_started(slot, source),
    })
}

/// A restore, up to where the VM's disk is touched.
struct Restoring<'a> {
    inner: &'a Inner,
    slot: &'a Arc<Slot>,
    snapshots: &'a Snapshots,
    found: &'a Found,
    /// The disk that is to be the VM's.
    draft: &'a Path,
}

impl Restoring<'_> {
    /// Verifies the snapshot, copies its disk, ends the VM's process, and makes another one with the
    /// saved memory; none when there is no such memory.
    async fn prepare(&self) -> Result<Option<Box<dyn Prepared>>, RestoreError> {
        let with_memory = self.found.manifest.memory().is_some();
        let lives = self.slot.record().phase.live().is_some();
        let copy = disk::Copy::begin(&self.found.disk(), self.draft, 0)?;
        let memory = async {
            // A VM that has no process can be given one meanwhile.
            match with_memory && !lives {
                true => self.process(self.verify()).await.map(Some),
                false => self.verify().await.map(|()| None),
            }
        };
        // Both are waited for, whatever the other has come to: a copy that is still being written
        // cannot be removed.
        let (prepared, copied) = tokio::join!(memory, blocking::run(move || copy.finish_flushed()));
        let prepared = prepared?;
        if let Err(error) = copied {
            self.give_up(prepared).await;
            return Err(error.into());
        }
        fault::point("restore.copied");
        if !lives {
            return Ok(prepared);
        }
        // Its end is not what anybody wishes for it. Should this daemon end too, the next one knows.
        self.slot.commit(|record| record.is_restored = true).await?;
        power::kill(self.slot).await?;
        fault::point("restore.ended");
        match with_memory {
            true => self.process(async { Ok(()) }).await.map(Some),
            false => Ok(None),
        }
    }

    async fn verify(&self) -> Result<(), RestoreError> {
        let (snapshots, found) = (self.snapshots.clone(), self.found.clone());
        Ok(blocking::run(move || snapshots.verify(&found)).await?)
    }

    /// Makes a process, and loads the memory once that is verified.
    async fn process(
        &self,
        verified: impl Future<Output = Result<(), RestoreError>>,
    ) -> Result<Box<dyn Prepared>, RestoreError> {
        let &Self { inner, slot, .. } = self;
        let started = |error| not_started(slot, error);
        let prepared = power::prepare_saved(inner, slot, self.draft);
        let (verified, prepared) = tokio::join!(verified, prepared);
        if let Err(error) = verified {
            self.give_up(prepared.ok()).await;
            return Err(error);
        }
        let prepared = prepared.map_err(started)?;
        let loaded = power::load_saved(inner, slot, prepared, self.found.directory()).await;
        loaded.map_err(started)
    }

    async fn give_up(&self, prepared: Option<Box<dyn Prepared>>) {
        if let Some(prepared) = prepared {
            power::give_up_saved(self.inner, self.slot, prepared).await;
        }
    }
}

/// Gives the VM the disk again that it had. Should that not be possible, that disk is kept, and this
/// says under which name.
fn give_back(slot: &Slot, draft: DraftFile) -> Option<String> {
    let problem = match slot.record().phase.live() {
        Some(_) => "its process does not end, and has the disk of the snapshot".to_owned(),
        None => match files::exchange(draft.path(), &slot.dir.disk()) {
            Ok(()) => return None,
            Err(error) => error.to_string(),
        },
    };
    let (stem, extension) = OUSTED;
    let kept = draft.keep_as(stem, extension).unwrap_or_else(|error| {
        tracing::error!(%error, "a disk keeps its name until the next start, and goes then");
        error.path().to_owned()
    });
    let vm = slot.record().spec.name;
    let (kept, name) = (kept.display(), kept.file_name().unwrap_or_default());
    tracing::error!(%vm, problem, %kept, "a VM did not get its disk back after a restore that failed");
    Some(name.to_string_lossy().into_owned())
}

/// A VM whose snapshot has no memory does not run. Whatever its last process came to, it has nothing
/// to do with this disk.
async fn rest(slot: &Slot) -> Result<(), StorageError> {
    let now = Timestamp::now();
    let rested = slot.commit(|record| {
        record.is_restored = false;
        record.restarts.forget();
        record.phase.stop(now)
    });
    rested.await.map(drop)
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

fn not_started(slot: &Slot, source: StartError) -> RestoreError {
    RestoreError::Start {
        name: slot.record().spec.name,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::driver::GuestEndpoint;
    use crate::layout::Layout;
    use crate::process::{Birth, Process};
    use crate::record::tests::record;

    #[tokio::test]
    async fn a_vm_that_is_restored_without_a_memory_is_not_started_again() {
        let data = tempfile::tempdir().unwrap();
        let mut record = record();
        let dir = Layout::new(data.path().to_owned()).vm(&record.spec.name);
        fs::create_dir_all(dir.path()).unwrap();
        record.restarts.begun();
        record.restarts.due = Some(Timestamp::now());
        let slot = Slot::new(dir, record);
        rest(&slot).await.unwrap();
        let vm = slot.view();
        assert_eq!((vm.restarts, vm.next_restart_at), (0, None));
    }

    #[test]
    fn a_disk_gets_its_place_back_and_is_kept_when_it_cannot() {
        let data = tempfile::tempdir().unwrap();
        let mut record = record();
        let dir = Layout::new(data.path().to_owned()).vm(&record.spec.name);
        fs::create_dir_all(dir.path()).unwrap();
        let process = Process {
            birth: Birth::of(1).unwrap(),
            control_socket: dir.control_socket(),
            guest: GuestEndpoint::Socket(dir.guest_socket()),
        };
        let (disk, slot) = (dir.disk(), Slot::new(dir.clone(), record.clone()));
        let ousted = || {
            let draft = DraftFile::begin(slot.dir.path());
            fs::write(draft.path(), "old").unwrap();
            draft
        };
        let names = || fs::read_dir(slot.dir.path()).unwrap().count();

        fs::write(&disk, "new").unwrap();
        assert_eq!(give_back(&slot, ousted()), None);
        assert_eq!(fs::read_to_string(&disk).unwrap(), "old");
        assert_eq!(names(), 1, "the other one goes");

        // Nothing is there to change places with.
        fs::remove_file(&disk).unwrap();
        let kept = |slot| {
            let name = give_back(slot, ousted()).unwrap();
            let content = fs::read_to_string(slot.dir.path().join(&name)).unwrap();
            (name, content)
        };
        let old = |name: &str| (name.to_owned(), "old".to_owned());
        assert_eq!(kept(&slot), old("disk-before-restore.ext4"));
        assert_eq!(names(), 1);

        // A process that does not end has the new one.
        fs::write(&disk, "new").unwrap();
        record.phase.start(Timestamp::now());
        record.phase.launched(process, Timestamp::now());
        let slot = Slot::new(dir, record);
        assert_eq!(kept(&slot), old("disk-before-restore-2.ext4"));
        assert_eq!(fs::read_to_string(&disk).unwrap(), "new");
        assert_eq!(names(), 3);
    }
}
