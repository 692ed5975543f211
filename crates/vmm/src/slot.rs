//! A VM's slot: its record, the order in which things happen to it, and its keeper.
//!
//! Three things keep VMs out of each other's way, and readers out of everybody's:
//!
//! - `turn` is the VM's lock: who starts, stops or deletes the VM holds it from beginning to end,
//!   and nobody holds two;
//! - `pen` makes a change of the record and its writing one step, for those with the turn and for
//!   the keeper, who has none;
//! - the record itself is behind a lock that is held for a copy, so a look at a VM never waits.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use tokio::sync::{Notify, OwnedMutexGuard, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::console::Console;
use crate::driver::Link;
use crate::files::StorageError;
use crate::guest::{self, Guest};
use crate::layout::VmDir;
use crate::model::Vm;
use crate::process::Watched;
use crate::record::Record;

/// A VM that exists.
pub(crate) struct Slot {
    pub(crate) dir: VmDir,
    pub(crate) console: Console,
    pub(crate) turn: Arc<tokio::sync::Mutex<Presence>>,
    pen: tokio::sync::Mutex<()>,
    record: RwLock<Record>,
    attachment: Mutex<Option<Attachment>>,
    /// Rung when the VM has ended, once it is registered: somebody may have to start it again.
    bell: OnceLock<Arc<Notify>>,
}

/// The turn with a VM.
pub(crate) type Turn = OwnedMutexGuard<Presence>;

/// Whether the VM is still there for those who waited for their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Here,
    Deleted,
}

/// What connects us to a VM's process.
#[derive(Clone)]
pub(crate) struct Attachment {
    pub(crate) watched: Arc<Watched>,
    /// Absent when the process does not answer.
    pub(crate) link: Option<Arc<dyn Link>>,
    pub(crate) guest: Option<Arc<Guest>>,
    /// Closed once the keeper has seen the process's end and written it down.
    pub(crate) kept: watch::Receiver<()>,
    /// The task that watches; it ends with the last attachment.
    pub(crate) _keeper: Arc<AbortOnDropHandle<()>>,
}

impl Attachment {
    /// Waits until the keeper has seen the process's end, written it down and cleared up.
    pub(crate) async fn let_go(mut self) {
        // The keeper never sends; it closes the channel when it is done.
        while self.kept.changed().await.is_ok() {}
    }
}

impl Slot {
    pub(crate) fn new(dir: VmDir, record: Record) -> Self {
        Self {
            console: Console::new(dir.console()),
            dir,
            turn: Arc::new(tokio::sync::Mutex::new(Presence::Here)),
            pen: tokio::sync::Mutex::new(()),
            record: RwLock::new(record),
            attachment: Mutex::new(None),
            bell: OnceLock::new(),
        }
    }

    pub(crate) fn hang_bell(&self, bell: Arc<Notify>) {
        // A slot is registered once, and a second bell would be the same one.
        let _ = self.bell.set(bell);
    }

    /// Says that the VM has ended.
    pub(crate) fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            bell.notify_one();
        }
    }

    /// What log lines about this VM carry.
    pub(crate) fn span(&self) -> tracing::Span {
        let record = self.record.read().unwrap_or_else(PoisonError::into_inner);
        tracing::info_span!("vm", vm = %record.spec.name, vm_id = %record.spec.id)
    }

    /// A copy of the record.
    pub(crate) fn record(&self) -> Record {
        self.record
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn view(&self) -> Vm {
        self.record
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .view()
    }

    /// Changes the record on disk, and then in memory. When it cannot be written, nothing has
    /// changed: for intentions.
    pub(crate) async fn commit<T>(
        &self,
        change: impl FnOnce(&mut Record) -> T,
    ) -> Result<T, StorageError> {
        let _pen = self.pen.lock().await;
        let (outcome, next) = self.changed(change);
        if let Some(next) = next {
            self.save(next.clone()).await?;
            self.replace(next);
        }
        Ok(outcome)
    }

    /// Changes the record on disk, and then in memory in any case, because what it says has happened.
    /// Should the disk refuse, the next start of the daemon finds it out again; but what somebody was
    /// told, a daemon that ends right then does not forget.
    pub(crate) async fn note<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let _pen = self.pen.lock().await;
        let (outcome, next) = self.changed(change);
        if let Some(next) = next {
            if let Err(error) = self.save(next.clone()).await {
                let vm = &next.spec.name;
                tracing::error!(%vm, %error, "a VM's new state could not be written down");
            }
            self.replace(next);
        }
        outcome
    }

    /// Applies a change to a copy; returns the copy if it differs.
    fn changed<T>(&self, change: impl FnOnce(&mut Record) -> T) -> (T, Option<Record>) {
        let before = self.record();
        let mut after = before.clone();
        let outcome = change(&mut after);
        (outcome, (after != before).then_some(after))
    }

    fn replace(&self, record: Record) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = record;
    }

    async fn save(&self, record: Record) -> Result<(), StorageError> {
        let directory = self.dir.path().to_owned();
        crate::blocking::run(move || record.save(&directory)).await
    }

    /// Tells the guest the time, because it stood still. Nobody waits for that.
    pub(crate) fn keep_time(&self) {
        if let Some(guest) = self.attachment().and_then(|attachment| attachment.guest) {
            guest::keep_time(&guest, self.record().spec.name.as_str());
        }
    }

    pub(crate) fn attachment(&self) -> Option<Attachment> {
        self.attachment_lock().clone()
    }

    pub(crate) fn attach(&self, attachment: Attachment) {
        *self.attachment_lock() = Some(attachment);
    }

    /// Gives the attachment a link that it had none of.
    pub(crate) fn relink(&self, link: Arc<dyn Link>) {
        if let Some(attachment) = &mut *self.attachment_lock() {
            attachment.link = Some(link);
        }
    }

    pub(crate) fn detach(&self) -> Option<Attachment> {
        self.attachment_lock().take()
    }

    fn attachment_lock(&self) -> MutexGuard<'_, Option<Attachment>> {
        self.attachment
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::driver::GuestEndpoint;
    use crate::layout::Layout;
    use crate::process::{Birth, Process};
    use crate::record::tests::record;

    #[tokio::test]
    async fn what_is_told_of_a_vm_is_written_down_already() {
        let data = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let mut record = record();
            record.spec.name = format!("web-{round}").parse().unwrap();
            let dir = Layout::new(data.path().to_owned()).vm(&record.spec.name);
            std::fs::create_dir_all(dir.path()).unwrap();
            let now = Timestamp::now();
            let process = Process {
                birth: Birth::of(1).unwrap(),
                control_socket: dir.control_socket(),
                guest: GuestEndpoint::Socket(dir.guest_socket()),
            };
            record.phase.start(now);
            record.phase.launched(process, now);
            record.save(dir.path()).unwrap();
            let slot = Arc::new(Slot::new(dir, record));

            let reader = Arc::clone(&slot);
            let reading = std::thread::spawn(move || {
                while reader.view().ready_at.is_none() {
                    std::hint::spin_loop();
                }
                Record::load(reader.dir.path()).unwrap().view().ready_at
            });
            slot.note(|record| record.phase.ready(now)).await;
            assert_eq!(reading.join().unwrap(), Some(now), "in round {round}");
        }
    }
}
