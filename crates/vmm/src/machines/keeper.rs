//! The keeper of a running VM: a task that watches its process and its guest, and writes down what
//! happens to them.
//!
//! It is the only one that declares a process ended. So whoever ends one waits for the keeper, and
//! then finds the record, the files and the attachment as they should be.

use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::blocking;
use crate::console;
use crate::driver::{Event, Link};
use crate::guest::{Guest, GuestError};
use crate::lifecycle::Ending;
use crate::process::Watched;
use crate::slot::{Attachment, Slot};

/// How often the console's log is looked at.
const CONSOLE_ROUND: Duration = Duration::from_secs(5);

/// Connects a VM to its living process and appoints its keeper.
pub(super) async fn attach(slot: &Arc<Slot>, watched: Watched, link: Option<Box<dyn Link>>) {
    let watched = Arc::new(watched);
    let link: Option<Arc<dyn Link>> = link.map(Arc::from);
    let guest = connect_guest(&slot.dir.guest_socket()).await;
    let (keeping, kept) = watch::channel(());
    let keeper = Keeper {
        slot: Arc::downgrade(slot),
        watched: watched.clone(),
        link: link.clone(),
        guest: guest.clone(),
        _keeping: keeping,
    };
    let keeper = Arc::new(AbortOnDropHandle::new(tokio::spawn(keeper.keep())));
    slot.attach(Attachment {
        watched,
        link,
        guest,
        kept,
        _keeper: keeper,
    });
}

async fn connect_guest(socket: &Path) -> Option<Arc<Guest>> {
    match Guest::connect(socket).await {
        Ok(guest) => Some(Arc::new(guest)),
        Err(error) => {
            tracing::warn!(%error, "a guest cannot be spoken to; it will be stopped the hard way");
            None
        }
    }
}

struct Keeper {
    /// Weak, because the slot owns the keeper.
    slot: Weak<Slot>,
    watched: Arc<Watched>,
    link: Option<Arc<dyn Link>>,
    guest: Option<Arc<Guest>>,
    /// Dropped at the keeper's end, which is how others learn of it.
    _keeping: watch::Sender<()>,
}

impl Keeper {
    async fn keep(self) {
        let mut announced = None;
        let mut greeted = false;
        // One question for the whole life of the VM, whatever else happens meanwhile.
        let mut greeting = pin!(greeting(self.guest.as_deref()));
        let mut console_round = interval(CONSOLE_ROUND);
        console_round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What happened before the end is heard before the end.
                biased;
                event = next_event(self.link.as_deref()) => match event {
                    Event::Paused { reason } => self.note(|p| p.paused(reason)).await,
                    Event::Resumed => self.note(|p| p.resumed()).await,
                    Event::Ending(ending) => announced = Some(ending),
                },
                answer = &mut greeting, if !greeted => {
                    greeted = true;
                    self.greeted(answer).await;
                }
                () = self.watched.ended() => break,
                _ = console_round.tick() => self.trim_console().await,
            }
        }
        self.ended(announced).await;
    }

    async fn greeted(&self, answer: Result<u32, GuestError>) {
        match answer {
            Ok(_version) => {
                let now = Timestamp::now();
                self.note(|phase| phase.ready(now)).await;
            }
            Err(error) => tracing::warn!(%error, "a guest stopped answering"),
        }
    }

    async fn note(&self, change: impl FnOnce(&mut crate::lifecycle::Phase) -> bool) {
        if let Some(slot) = self.slot.upgrade() {
            slot.note(|record| change(&mut record.phase)).await;
        }
    }

    async fn trim_console(&self) {
        let Some(slot) = self.slot.upgrade() else {
            return;
        };
        let path = slot.dir.console();
        let trimmed = blocking::run(move || console::trim(&path)).await;
        if let Err(error) = trimmed {
            tracing::warn!(%error, "a console's log could not be shortened");
        }
    }

    async fn ended(&self, announced: Option<Ending>) {
        let Some(slot) = self.slot.upgrade() else {
            return;
        };
        let ending = announced.unwrap_or_else(|| Ending::Unexpected {
            reason: "the VM's process was killed or crashed; start the VM again".to_owned(),
        });
        let now = Timestamp::now();
        slot.note(|record| record.phase.ended(ending, now)).await;
        super::remove_traces(&slot.dir);
        slot.detach();
    }
}

async fn next_event(link: Option<&dyn Link>) -> Event {
    match link {
        Some(link) => link.event().await,
        None => std::future::pending().await,
    }
}

async fn greeting(guest: Option<&Guest>) -> Result<u32, GuestError> {
    match guest {
        Some(guest) => guest.ready().await,
        None => std::future::pending().await,
    }
}
