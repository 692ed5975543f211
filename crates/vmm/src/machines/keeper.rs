//! The keeper of a running VM: a task that watches its process and its guest, and writes down what
//! happens to them.
//!
//! It is the only one that declares a process ended. So whoever ends one waits for the keeper, and
//! then finds the record, the files and the attachment as they should be.

use std::pin::pin;
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::reopening::{Reopening, opened};
use crate::blocking;
use crate::driver::{Driver, Event, GuestEndpoint, Link};
use crate::fault;
use crate::guest::{self, Guest, GuestProblem};
use crate::lifecycle::Ending;
use crate::network::Networks;
use crate::process::Watched;
use crate::slot::{Attachment, Slot};

/// How often the console's log is looked at.
const CONSOLE_ROUND: Duration = Duration::from_secs(5);

/// How long after its end a process's last words may be on their way.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What there is to speak to a VM's process.
pub(super) enum Line {
    Open(Box<dyn Link>),
    /// The process did not answer. Its driver, if that is here, asks it again.
    Lost(Option<Arc<dyn Driver>>),
}

/// Connects a VM to its living process and appoints its keeper.
pub(super) async fn attach(
    slot: &Arc<Slot>,
    networks: Arc<Networks>,
    watched: Watched,
    line: Line,
) {
    let watched = Arc::new(watched);
    let (link, driver) = match line {
        Line::Open(link) => (Some(Arc::from(link)), None),
        Line::Lost(driver) => (None, driver),
    };
    let guest = match slot.record().phase.live() {
        Some(live) => connect_guest(&live.process.guest).await,
        None => None,
    };
    let (keeping, kept) = watch::channel(());
    let keeper = Keeper {
        slot: Arc::downgrade(slot),
        networks,
        watched: watched.clone(),
        link: link.clone(),
        driver,
        guest: guest.clone(),
        _keeping: keeping,
    };
    let keeping = keeper.keep().instrument(slot.span());
    let keeper = Arc::new(AbortOnDropHandle::new(tokio::spawn(keeping)));
    slot.attach(Attachment {
        watched,
        link,
        guest,
        kept,
        _keeper: keeper,
    });
}

async fn connect_guest(endpoint: &GuestEndpoint) -> Option<Arc<Guest>> {
    match Guest::connect(endpoint).await {
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
    networks: Arc<Networks>,
    watched: Arc<Watched>,
    link: Option<Arc<dyn Link>>,
    /// Who opens the link that there is none of.
    driver: Option<Arc<dyn Driver>>,
    guest: Option<Arc<Guest>>,
    /// Dropped at the keeper's end, which is how others learn of it.
    _keeping: watch::Sender<()>,
}

/// The same moments for all VMs: a host with fifty of them wakes once in a round and not fifty times.
fn console_rounds() -> Interval {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let passed = BEGIN.elapsed().as_secs() / CONSOLE_ROUND.as_secs();
    let passed = u32::try_from(passed).unwrap_or(0);
    interval_at(*BEGIN + CONSOLE_ROUND * (passed + 1), CONSOLE_ROUND)
}

impl Keeper {
    async fn keep(self) {
        let mut announced = None;
        let mut listening = true;
        let mut greeted = false;
        // One question for the whole life of the VM, whatever else happens meanwhile.
        let mut greeting = pin!(greeting(self.guest.as_deref()));
        let mut link = self.link.clone();
        let driver = self.driver.clone();
        let mut reopening = driver.map(|driver| Reopening::begin(self.slot.clone(), driver));
        let mut console_round = console_rounds();
        console_round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What happened before the end is heard before the end.
                biased;
                event = next_event(link.as_deref()), if listening => match event {
                    Some(Event::Paused { reason }) => self.note(|p| p.stuck(reason)).await,
                    Some(Event::Resumed) => {
                        self.note(|p| p.unstuck()).await;
                        self.keep_time();
                    }
                    Some(Event::Ending(ending)) => announced = Some(ending),
                    None => listening = false,
                },
                answer = &mut greeting, if !greeted => {
                    greeted = true;
                    self.greeted(answer).await;
                }
                opened = opened(&mut reopening), if link.is_none() => link = Some(opened),
                () = self.watched.ended() => break,
                _ = console_round.tick() => self.trim_console().await,
            }
        }
        if let Some(reopening) = reopening {
            reopening.end().await;
        }
        if announced.is_none() {
            announced = last_words(link.as_deref()).await;
        }
        self.ended(announced).await;
    }

    async fn greeted(&self, answer: Result<u32, GuestProblem>) {
        match answer {
            Ok(_version) => {
                let now = Timestamp::now();
                tracing::info!("the guest is up");
                self.note(|phase| phase.ready(now)).await;
                self.keep_time();
            }
            Err(error) => tracing::warn!(%error, "a guest stopped answering"),
        }
    }

    async fn note(&self, change: impl FnOnce(&mut crate::lifecycle::Phase) -> bool) {
        if let Some(slot) = self.slot.upgrade() {
            slot.note(|record| change(&mut record.phase)).await;
        }
    }

    /// The clock of a guest that has just come up, or stood still, is wrong.
    fn keep_time(&self) {
        if let (Some(guest), Some(slot)) = (&self.guest, self.slot.upgrade()) {
            guest::keep_time(guest, slot.record().spec.name.as_str());
        }
    }

    async fn trim_console(&self) {
        let Some(slot) = self.slot.upgrade().filter(|slot| slot.console.is_long()) else {
            return;
        };
        let trimmed = blocking::run(move || slot.console.trim()).await;
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
        tracing::info!(?ending, "the VM's process has ended");
        fault::point("ended.unrecorded");
        slot.note(|record| record.ended(ending, now)).await;
        self.networks.unplug(slot.record().spec.id).await;
        super::remove_traces(&slot.dir);
        slot.detach();
        slot.ring();
    }
}

/// What a process said of its end before it ended, if that is heard only now: its words come
/// through a socket that somebody else reads, and its end does not wait for them.
async fn last_words(link: Option<&dyn Link>) -> Option<Ending> {
    let link = link?;
    let last_words = async {
        loop {
            if let Event::Ending(ending) = link.event().await? {
                return Some(ending);
            }
        }
    };
    timeout(LAST_WORDS, last_words).await.ok().flatten()
}

async fn next_event(link: Option<&dyn Link>) -> Option<Event> {
    match link {
        Some(link) => link.event().await,
        None => std::future::pending().await,
    }
}

async fn greeting(guest: Option<&Guest>) -> Result<u32, GuestProblem> {
    match guest {
        Some(guest) => guest.ready().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::driver::{LinkError, SaveError};
    use crate::layout::Layout;
    use crate::lifecycle::Condition;
    use crate::model::{PortForward, VmState};
    use crate::process::{Birth, Process};
    use crate::record::tests::record;

    /// A process whose last words arrive after its end, as they may on a busy host.
    struct Late {
        watched: Watched,
        said: AtomicBool,
    }

    #[async_trait]
    impl Link for Late {
        async fn event(&self) -> Option<Event> {
            self.watched.ended().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let said = self.said.swap(true, Ordering::Relaxed);
            (!said).then_some(Event::Ending(Ending::GuestShutdown))
        }

        async fn add_forward(&self, _: &PortForward) -> Result<(), LinkError> {
            unreachable!("a keeper only listens")
        }

        async fn remove_forward(&self, _: &PortForward) -> Result<(), LinkError> {
            unreachable!("a keeper only listens")
        }

        async fn forwards(&self) -> Result<Vec<PortForward>, LinkError> {
            unreachable!("a keeper only listens")
        }

        async fn resume(&self) -> Result<(), LinkError> {
            unreachable!("a keeper only listens")
        }

        async fn pause(&self) -> Result<(), LinkError> {
            unreachable!("a keeper only listens")
        }

        async fn condition(&self) -> Result<Condition, LinkError> {
            unreachable!("a keeper only listens")
        }

        async fn memory_form(&self) -> Result<BTreeMap<String, String>, LinkError> {
            unreachable!("a keeper only listens")
        }

        async fn save(&self, _: &Path) -> Result<(), SaveError> {
            unreachable!("a keeper only listens")
        }
    }

    #[tokio::test]
    async fn last_words_count_even_if_they_are_heard_after_the_end() {
        let mut child = Command::new("sleep")
            .arg("600")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let birth = Birth::of(child.id().try_into().unwrap()).unwrap();
        let watch = || Watched::open(&birth).unwrap().unwrap();

        let data = tempfile::tempdir().unwrap();
        let mut record = record();
        let dir = Layout::new(data.path().to_owned()).vm(&record.spec.name);
        std::fs::create_dir_all(dir.path()).unwrap();
        let now = Timestamp::now();
        let process = Process {
            birth: birth.clone(),
            control_socket: dir.control_socket(),
            guest: GuestEndpoint::Socket(dir.guest_socket()),
        };
        record.phase.start(now);
        record.phase.launched(process, now);
        record.phase.ready(now);
        let slot = Arc::new(Slot::new(dir, record));
        let link = Late {
            watched: watch(),
            said: AtomicBool::new(false),
        };
        let networks = Arc::new(Networks::user_mode());
        attach(&slot, networks, watch(), Line::Open(Box::new(link))).await;

        let attachment = slot.attachment().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        timeout(Duration::from_secs(60), attachment.let_go())
            .await
            .unwrap();
        assert_eq!(slot.view().state, VmState::Stopped);
        assert!(slot.attachment().is_none());
    }
}
