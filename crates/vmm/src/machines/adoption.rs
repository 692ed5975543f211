//! Taking VMs over that an earlier daemon has left: each is found, connected to, and brought together
//! with what was written down of it.
//!
//! Nothing that somebody was told of is given up on a doubt. A process that cannot be looked at now is
//! looked at again, and one that does not answer yet (it may be writing its memory to a file) is asked
//! again by its keeper, for as long as it lives. One that nobody wrote down is kept only if it runs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::time::sleep;
use tracing::Instrument as _;

use super::{keeper, remove_traces};
use crate::blocking;
use crate::config::NetworkChoice;
use crate::driver::{Driver, GuestEndpoint, Link, LinkError};
use crate::lifecycle::{Condition, Ending, Phase};
use crate::model::PortForward;
use crate::network::Networks;
use crate::process::{Process, Watched};
use crate::processes::{self, VmProcess};
use crate::record::Record;
use crate::slot::{Slot, Turn};

/// How long to wait before something is tried again that failed: longer each time, up to a while.
pub(super) fn pauses() -> impl Iterator<Item = Duration> {
    (0..).map(|time: u32| Duration::from_secs(1 << time.min(5)))
}

/// What takes a VM over.
#[derive(Clone)]
pub(super) struct Heir {
    pub(super) slot: Arc<Slot>,
    pub(super) networks: Arc<Networks>,
    /// None when the driver that started the VM is gone from this host.
    pub(super) driver: Option<Arc<dyn Driver>>,
}

impl Heir {
    /// Finds out what became of the VM, and connects to it if it runs. While that cannot be found out,
    /// it is tried again, and nobody has the VM's turn.
    pub(super) async fn take_over(self, found: &[VmProcess]) {
        let Err(error) = self.try_once(found).await else {
            return;
        };
        tracing::error!(%error, "a VM's process cannot be looked at; it will be tried again");
        let reason = format!("its process cannot be looked at: {error}");
        self.slot
            .note(|record| record.phase.unresponsive(reason))
            .await;
        let turn = Arc::clone(&self.slot.turn).lock_owned().await;
        let span = self.slot.span();
        tokio::spawn(self.look_again(turn).instrument(span));
    }

    async fn look_again(self, _turn: Turn) {
        for pause in pauses() {
            sleep(pause).await;
            let vms = self.slot.dir.path().parent().map(Path::to_owned);
            let vms = vms.unwrap_or_default();
            let found = blocking::run(move || processes::of(&vms)).await;
            match self.try_once(&found).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "a VM's process still cannot be looked at"),
            }
        }
    }

    /// # Errors
    /// When it cannot be found out whether the VM has a process; nothing has changed then.
    async fn try_once(&self, found: &[VmProcess]) -> io::Result<()> {
        match self.slot.record().phase.live() {
            None => self.take_over_unrecorded(found).await?,
            Some(live) => match Watched::open(&live.process.birth)? {
                Some(watched) => self.connect(&live.process, watched).await,
                None => self.note_end().await,
            },
        }
        if self.slot.record().is_restored {
            let interrupted = |record: &mut Record| record.restore_interrupted(Timestamp::now());
            self.slot.note(interrupted).await;
            self.slot.ring();
        }
        Ok(())
    }

    async fn note_end(&self) {
        let slot = &self.slot;
        slot.note(|record| record.ended(Ending::Unwatched, Timestamp::now()))
            .await;
        self.networks.unplug(slot.record().spec.id).await;
        remove_traces(&slot.dir);
        // It may have to be started again.
        slot.ring();
    }

    /// Speaks to a process that lives.
    async fn connect(&self, process: &Process, watched: Watched) {
        let Self { slot, driver, .. } = self;
        let networks = Arc::clone(&self.networks);
        let id = slot.record().spec.id;
        let link = match driver {
            Some(driver) => driver
                .reconnect(id, process)
                .await
                .map_err(|e| e.to_string()),
            None => Err("the driver that started it is gone from this host".to_owned()),
        };
        match link {
            Ok(link) => {
                reconcile(slot, &*link).await;
                keeper::attach(slot, networks, watched, keeper::Line::Open(link)).await;
                tracing::info!("a VM that was left running is ours again");
            }
            Err(reason) => {
                tracing::error!(reason, "a VM runs and does not answer");
                slot.note(|record| record.phase.unresponsive(reason)).await;
                let lost = keeper::Line::Lost(driver.clone());
                keeper::attach(slot, networks, watched, lost).await;
            }
        }
    }

    /// A VM that was not running as far as anybody wrote down. If the daemon died between launching
    /// it and writing that down, its process is there, perhaps without anything yet that could be
    /// spoken to.
    async fn take_over_unrecorded(&self, found: &[VmProcess]) -> io::Result<()> {
        let slot = &self.slot;
        let Some((process, watched)) = self.find_unrecorded(found)? else {
            if matches!(slot.record().phase, Phase::Starting { .. }) {
                slot.note(|record| record.phase.launch_failed()).await;
            }
            remove_traces(&slot.dir);
            return Ok(());
        };
        let id = slot.record().spec.id;
        let link = match &self.driver {
            Some(driver) => driver.reconnect(id, &process).await.ok(),
            None => None,
        };
        // One whose processors stand still, whatever for, is a restore that was interrupted: its disk
        // may be one that is swept. Nobody was told of it, so ending it takes nothing back.
        let runs = match &link {
            Some(link) => matches!(link.condition().await, Ok(Condition::Running)),
            None => false,
        };
        let Some(link) = link.filter(|_| runs) else {
            // Half launched or half restored: ended, as a failed start is.
            tracing::warn!("ending a process whose start was interrupted");
            let _ = watched.signal(Signal::KILL);
            watched.ended().await;
            slot.note(|record| record.phase.launch_failed()).await;
            remove_traces(&slot.dir);
            return Ok(());
        };
        slot.note(|record| {
            let now = Timestamp::now();
            record.phase.start(now);
            record.phase.launched(process, now);
        })
        .await;
        reconcile(slot, &*link).await;
        let networks = Arc::clone(&self.networks);
        keeper::attach(slot, networks, watched, keeper::Line::Open(link)).await;
        Ok(())
    }

    /// The VM's process that nobody wrote down.
    fn find_unrecorded(&self, found: &[VmProcess]) -> io::Result<Option<(Process, Watched)>> {
        let slot = &self.slot;
        let id = slot.record().spec.id;
        let birth = match found.iter().find(|process| process.id == id) {
            Some(process) => Some(process.birth.clone()),
            None => processes::named_in(&slot.dir.pid_file(), id),
        };
        let Some(birth) = birth else {
            return Ok(None);
        };
        let Some(watched) = Watched::open(&birth)? else {
            return Ok(None);
        };
        let guest = slot.dir.guest_socket();
        let process = Process {
            birth,
            control_socket: slot.dir.control_socket(),
            guest: match &self.driver {
                Some(driver) => driver.guest(guest),
                None => GuestEndpoint::Socket(guest),
            },
        };
        Ok(Some((process, watched)))
    }
}

/// Brings the record and the process together again, where a daemon died between changing the one
/// and the other: the record is what callers were told. Says whether the process told how it is.
pub(super) async fn reconcile(slot: &Slot, link: &dyn Link) -> bool {
    let record = slot.record();
    let condition = link.condition().await;
    let knows = condition.is_ok();
    match condition {
        Ok(found) => {
            let set_going = slot.note(|record| record.phase.adopted(found)).await;
            if set_going && let Err(error) = link.resume().await {
                tracing::error!(%error, "a VM stands still and does not go on");
                let reason = error.to_string();
                slot.note(|record| record.phase.stuck(reason)).await;
            }
        }
        Err(error) => tracing::warn!(%error, "a VM's state is not known"),
    }
    if record.spec.network == NetworkChoice::Bridge {
        // Those are rules of the host, and made anew with all the others.
        return knows;
    }
    if let Err(error) = reconcile_forwards(&record, link).await {
        tracing::warn!(%error, "a VM's port forwards could not be checked");
    }
    knows
}

async fn reconcile_forwards(record: &Record, link: &dyn Link) -> Result<(), LinkError> {
    let recorded = &record.port_forwards;
    let actual = link.forwards().await?;
    let surplus = |forward: &&PortForward| !recorded.contains(forward);
    for surplus in actual.iter().filter(surplus) {
        link.remove_forward(surplus).await?;
    }
    for missing in recorded.iter().filter(|forward| !actual.contains(forward)) {
        link.add_forward(missing).await?;
    }
    Ok(())
}
