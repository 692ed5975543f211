//! Taking VMs over that an earlier daemon has left: each is found, connected to, and brought together
//! with what was written down of it.
//!
//! Nothing of a VM is given up on a doubt. A process that cannot be looked at now is looked at again,
//! and one that does not answer yet (it may be writing its memory to a file) is asked again by its
//! keeper, for as long as it lives.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::Signal;
use tokio::time::sleep;
use tracing::Instrument as _;

use super::{keeper, remove_traces};
use crate::config::NetworkChoice;
use crate::driver::{Driver, GuestEndpoint, Link, LinkError};
use crate::lifecycle::{Condition, Ending, Phase};
use crate::model::PortForward;
use crate::network::Networks;
use crate::process::{Process, Watched};
use crate::processes::{self, VmProcess};
use crate::record::Record;
use crate::slot::Slot;

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
    /// Finds out what became of the VM, and connects to it if it runs.
    pub(super) async fn take_over(self, found: &[VmProcess]) {
        match self.slot.record().phase.live() {
            Some(live) => self.take_over_live(live.process.clone()).await,
            None => self.take_over_unrecorded(found).await,
        }
    }

    /// A VM that was running: it still does, or it ended unwatched.
    async fn take_over_live(self, process: Process) {
        match Watched::open(&process.birth) {
            Ok(Some(watched)) => self.connect(&process, watched).await,
            Ok(None) => self.note_end().await,
            Err(error) => {
                tracing::error!(%error, "a VM's process cannot be watched; it will be tried again");
                let reason = format!("its process cannot be watched: {error}");
                self.slot
                    .note(|record| record.phase.unresponsive(reason))
                    .await;
                let span = self.slot.span();
                tokio::spawn(self.look_again(process).instrument(span));
            }
        }
    }

    async fn look_again(self, process: Process) {
        for pause in pauses() {
            sleep(pause).await;
            match Watched::open(&process.birth) {
                Ok(Some(watched)) => return self.connect(&process, watched).await,
                Ok(None) => return self.note_end().await,
                Err(error) => tracing::debug!(%error, "a VM's process still cannot be watched"),
            }
        }
    }

    async fn note_end(&self) {
        self.slot
            .note(|record| record.ended(Ending::Unwatched, Timestamp::now()))
            .await;
        self.networks.unplug(self.slot.record().spec.id).await;
        remove_traces(&self.slot.dir);
    }

    /// Speaks to a process that lives.
    async fn connect(self, process: &Process, watched: Watched) {
        let Self {
            slot,
            networks,
            driver,
        } = self;
        let id = slot.record().spec.id;
        let link = match &driver {
            Some(driver) => driver
                .reconnect(id, process)
                .await
                .map_err(|e| e.to_string()),
            None => Err("the driver that started it is gone from this host".to_owned()),
        };
        match link {
            Ok(link) => {
                reconcile(&slot, &*link).await;
                keeper::attach(&slot, networks, watched, keeper::Line::Open(link)).await;
                tracing::info!("a VM that was left running is ours again");
            }
            Err(reason) => {
                tracing::error!(reason, "a VM runs and does not answer");
                slot.note(|record| record.phase.unresponsive(reason)).await;
                keeper::attach(&slot, networks, watched, keeper::Line::Lost(driver)).await;
            }
        }
    }

    /// A VM that was not running as far as anybody wrote down. If the daemon died between launching
    /// it and writing that down, its process is there, perhaps without anything yet that could be
    /// spoken to.
    async fn take_over_unrecorded(self, found: &[VmProcess]) {
        let slot = &self.slot;
        let Some((process, watched)) = self.find_unrecorded(found) else {
            if matches!(slot.record().phase, Phase::Starting { .. }) {
                slot.note(|record| record.phase.launch_failed()).await;
            }
            remove_traces(&slot.dir);
            return;
        };
        let id = slot.record().spec.id;
        let link = match &self.driver {
            Some(driver) => driver.reconnect(id, &process).await.ok(),
            None => None,
        };
        let loading = match &link {
            Some(link) => matches!(link.condition().await, Ok(Condition::Loading)),
            None => false,
        };
        let Some(link) = link.filter(|_| !loading) else {
            // Half launched or half restored: ended, as a failed start is.
            tracing::warn!("ending a process whose start was interrupted");
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
        keeper::attach(slot, self.networks, watched, keeper::Line::Open(link)).await;
    }

    /// The VM's process that nobody wrote down.
    fn find_unrecorded(&self, found: &[VmProcess]) -> Option<(Process, Watched)> {
        let slot = &self.slot;
        let id = slot.record().spec.id;
        let birth = match found.iter().find(|process| process.id == id) {
            Some(process) => process.birth.clone(),
            None => processes::named_in(&slot.dir.pid_file(), id)?,
        };
        let watched = Watched::open(&birth).ok().flatten()?;
        let guest = slot.dir.guest_socket();
        let process = Process {
            birth,
            control_socket: slot.dir.control_socket(),
            guest: match &self.driver {
                Some(driver) => driver.guest(guest),
                None => GuestEndpoint::Socket(guest),
            },
        };
        Some((process, watched))
    }
}

/// Brings the record and the process together again, where a daemon died between changing the one
/// and the other: the record is what callers were told.
pub(super) async fn reconcile(slot: &Slot, link: &dyn Link) {
    let record = slot.record();
    match link.condition().await {
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
        return;
    }
    if let Err(error) = reconcile_forwards(&record, link).await {
        tracing::warn!(%error, "a VM's port forwards could not be checked");
    }
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
