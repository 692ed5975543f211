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

use tokio::sync::{Notify, watch};
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
    pub(crate) turn: tokio::sync::Mutex<Presence>,
    pen: tokio::sync::Mutex<()>,
    record: RwLock<Record>,
    attachment: Mutex<Option<Attachment>>,
    /// Rung when the VM has ended, once it is registered: somebody may have to start it again.
    bell: OnceLock<Arc<Notify>>,
}

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
            turn: tokio::sync::Mutex::new(Presence::Here),
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

    /// Changes the record in memory in any case, because what it says has happened. Should the disk
    /// refuse, the next start of the daemon finds it out again.
    pub(crate) async fn note<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        let _pen = self.pen.lock().await;
        let (outcome, next) = self.changed(change);
        if let Some(next) = next {
            self.replace(next.clone());
            let name = next.spec.name.clone();
            if let Err(error) = self.save(next).await {
                tracing::error!(vm = %name, %error, "a VM's new state could not be written down");
            }
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

    pub(crate) fn detach(&self) -> Option<Attachment> {
        self.attachment_lock().take()
    }

    fn attachment_lock(&self) -> MutexGuard<'_, Option<Attachment>> {
        self.attachment
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
