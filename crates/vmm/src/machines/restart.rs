//! Carries out the restarts that were decided at VMs' ends ([`crate::restart`]): one task for the
//! host, which sleeps until the next one is due and wakes when a VM has ended.

use std::sync::{Arc, Weak};

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::{Inner, power, turn};
use crate::slot::Slot;

/// Begins to watch; ends when the handle is dropped.
pub(super) fn watch(inner: &Arc<Inner>) -> AbortOnDropHandle<()> {
    let bell = inner.registry.bell();
    let task = wait(Arc::downgrade(inner), bell);
    AbortOnDropHandle::new(tokio::spawn(task))
}

async fn wait(inner: Weak<Inner>, bell: Arc<Notify>) {
    while let Some(next) = begin_those_due(&inner) {
        let until = next.map(|due| due.duration_since(Timestamp::now()));
        let until = until.map(|left| left.try_into().unwrap_or_default());
        tokio::select! {
            () = bell.notified() => {}
            () = sleep(until) => {}
        }
    }
}

async fn sleep(time: Option<std::time::Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Begins the restarts that are due. Says when the next one is; `None` when the host is gone.
fn begin_those_due(inner: &Weak<Inner>) -> Option<Option<Timestamp>> {
    let inner = inner.upgrade()?;
    let now = Timestamp::now();
    let mut next = None;
    for slot in inner.registry.all() {
        let Some(due) = slot.record().restarts.due else {
            continue;
        };
        if due > now {
            next = Some(next.map_or(due, |next: Timestamp| next.min(due)));
            continue;
        }
        // It is under way for as long as somebody has the turn, and looked at again afterwards:
        // whoever ends it rings, and so does this.
        let inner = Arc::clone(&inner);
        let span = slot.span();
        tokio::spawn(async move { again(&inner, &slot).await }.instrument(span));
    }
    Some(next)
}

/// Starts a VM again, if that is still due once it is our turn.
async fn again(inner: &Inner, slot: &Arc<Slot>) {
    let name = slot.record().spec.name;
    let Ok(_turn) = turn(slot, name.as_str()).await else {
        return;
    };
    let due = slot.record().restarts.due;
    if due.is_none_or(|due| due > Timestamp::now()) {
        return;
    }
    slot.note(|record| record.restarts.begun()).await;
    tracing::info!(
        in_a_row = slot.record().restarts.in_a_row,
        "starting the VM again"
    );
    if let Err(error) = power::start(inner, slot).await {
        tracing::error!(%error, "the VM did not start again");
        let reason = error.to_string();
        let failed = slot.note(|record| record.restart_failed(&reason, Timestamp::now()));
        failed.await;
        slot.ring();
    }
}
