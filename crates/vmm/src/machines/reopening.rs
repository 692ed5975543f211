//! Asking a VM's process again that did not answer when its daemon came back: one that writes gigabytes
//! to a file says nothing meanwhile.
//!
//! It is a task of its own, because it waits for the VM's turn and for its pen, and its keeper needs
//! the pen too.

use std::sync::{Arc, Weak};

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use super::adoption::{pauses, reconcile};
use crate::driver::{Driver, Link};
use crate::slot::{Slot, Turn};

/// See the [module](self). Dropping it gives up.
pub(super) struct Reopening {
    task: Option<JoinHandle<Option<Arc<dyn Link>>>>,
    over: DropGuard,
}

impl Reopening {
    pub(super) fn begin(slot: Weak<Slot>, driver: Arc<dyn Driver>) -> Self {
        let over = CancellationToken::new();
        let asking = until_it_answers(slot, driver, over.clone()).in_current_span();
        Self {
            task: Some(tokio::spawn(asking)),
            over: over.drop_guard(),
        }
    }

    /// Gives up, and returns once nothing more is done.
    pub(super) async fn end(self) {
        drop(self.over);
        if let Some(task) = self.task {
            // What it panicked with is in the log.
            let _ = task.await;
        }
    }
}

/// The link, once there is one.
pub(super) async fn opened(reopening: &mut Option<Reopening>) -> Arc<dyn Link> {
    if let Some(Reopening { task, .. }) = reopening
        && let Some(asking) = task
    {
        let answered = asking.await;
        *task = None;
        if let Ok(Some(link)) = answered {
            return link;
        }
    }
    std::future::pending().await
}

async fn until_it_answers(
    slot: Weak<Slot>,
    driver: Arc<dyn Driver>,
    over: CancellationToken,
) -> Option<Arc<dyn Link>> {
    for pause in pauses() {
        let asked = async {
            sleep(pause).await;
            ask(&slot, &*driver).await
        };
        let (slot, turn, link) = tokio::select! {
            () = over.cancelled() => return None,
            asked = asked => match asked {
                Some(answered) => answered,
                None => continue,
            },
        };
        // From here on it is carried to its end: a note that is half written is nobody's.
        let knows = reconcile(&slot, &*link).await;
        if knows {
            slot.relink(Arc::clone(&link));
            tracing::info!("a VM that did not answer does so again");
            return Some(link);
        }
        drop(turn);
    }
    None
}

/// Asks once; whoever has the VM's turn goes on with what was there when they began.
async fn ask(slot: &Weak<Slot>, driver: &dyn Driver) -> Option<(Arc<Slot>, Turn, Arc<dyn Link>)> {
    let slot = slot.upgrade()?;
    let record = slot.record();
    let live = record.phase.live()?;
    match driver.reconnect(record.spec.id, &live.process).await {
        Ok(link) => {
            let turn = Arc::clone(&slot.turn).lock_owned().await;
            Some((slot, turn, link.into()))
        }
        Err(error) => {
            tracing::debug!(%error, "a VM still does not answer");
            None
        }
    }
}
