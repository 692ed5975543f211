//! The monitor: notices which hosts have fallen silent, and tidies what time has overtaken.
//!
//! It writes no states of VMs: a VM on a silent host *is* missing for as long as the host is
//! silent, and lists show it so. Nothing has to be undone when the host comes back.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::beats::BOOKED_EVERY;
use crate::clock::{self, Steps};
use crate::fleet::Fleet;
use crate::ids::HostId;
use crate::key_rotation::TokenKeyError;
use crate::replicas::TRY_EVERY;
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, StoreError, events, hosts, registration, vms};

/// How often the monitor looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(15);
/// After how long without a heartbeat a host is unreachable.
pub const SILENT_AFTER: SignedDuration = SignedDuration::from_secs(90);
/// How many hosts are made unreachable in one transaction.
const AT_ONCE: u32 = 200;
/// For how long it is known what happened.
const EVENTS_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// After how long a VM that is still on its way was certainly abandoned: no request lives so long.
pub(crate) const ABANDONED_AFTER: SignedDuration = SignedDuration::from_mins(5);
const ABANDONED: &str =
    "the control plane stopped while the VM was being created; look again, or delete it";

impl Fleet {
    /// Looks at once and then every [`LOOK_EVERY`], and lets the authority change its keys when it
    /// is time, until it is told to stop. Who waits for news of the fleet is then sent home.
    pub async fn run_monitor(&self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.authority.tend() => {}
            () = self.keep_looking() => {}
            () = self.follow() => {}
            () = self.redis.keep(self.store.watch_changes()) => {}
        }
        self.closing.cancel();
    }

    /// Looks every [`LOOK_EVERY`] while it is this server that keeps watch, and at once when it
    /// becomes so.
    async fn keep_looking(&self) {
        let shared = self.store.is_shared();
        let mut tries = tokio::time::interval(if shared { TRY_EVERY } else { LOOK_EVERY });
        // After a pause of the whole machine one look is enough.
        tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked: Option<Instant> = None;
        let mut steps = Steps::new(clock::now(), Instant::now());
        let mut judges_from: Option<Instant> = None;
        loop {
            tries.tick().await;
            let (now, passing) = (clock::now(), Instant::now());
            if let Some(step) = steps.look(now, passing) {
                tracing::warn!(
                    "the clock was set by {step:#}; for {SILENT_AFTER:#} no host is unreachable \
                     for its silence"
                );
                judges_from = passing.checked_add(SILENT_AFTER.unsigned_abs());
                if let Err(error) = self.clock_was_set(now).await {
                    tracing::error!(%error, "heartbeats from the future stay until they are past");
                }
            }
            match self.keeps_watch().await {
                Ok(true) => {
                    if shared && looked.is_none() {
                        tracing::info!(replica = self.replica, "this replica keeps watch now");
                    }
                    // On books of its own every try is a look.
                    if shared && looked.is_some_and(|at| at.elapsed() < LOOK_EVERY - TRY_EVERY / 2)
                    {
                        continue;
                    }
                    looked = Some(Instant::now());
                    let judges = judges_from.is_none_or(|from| from <= passing);
                    if let Err(error) = self.look(now, judges).await {
                        tracing::error!(%error, "the monitor could not look; it tries again");
                        // At the next try.
                        looked = None;
                    }
                }
                Ok(false) => {
                    looked = None;
                    self.healthy.store(true, Ordering::Relaxed);
                }
                Err(error) => {
                    looked = None;
                    self.healthy.store(false, Ordering::Relaxed);
                    tracing::error!(%error, "cannot see which replica keeps watch");
                }
            }
        }
    }

    /// One look, as of `now`; `judges` whether hosts can have been silent for as long as it seems.
    async fn look(&self, now: Timestamp, judges: bool) -> Result<(), StoreError> {
        let looked = self.look_at_everything(now, judges).await;
        self.healthy.store(looked.is_ok(), Ordering::Relaxed);
        looked
    }

    /// When hosts were heard of, by the clock before it was set, says nothing about how long they
    /// have been silent. What lies in the future would even hide that a host has died.
    async fn clock_was_set(&self, now: Timestamp) -> Result<(), StoreError> {
        self.redis.forget_all_heard().await;
        let mut db = self.store.note().await?;
        hosts::not_later_than(&mut db, now).await
    }

    async fn look_at_everything(&self, now: Timestamp, judges: bool) -> Result<(), StoreError> {
        if judges {
            self.mark_silent(now).await?;
        }
        self.redis.forget_heard_before(now - SILENT_AFTER).await;
        let mut tx = self.store.begin().await?;
        registration::purge_expired(&mut tx, now).await?;
        events::forget_old(&mut tx, now - EVENTS_KEPT).await?;
        surface_abandoned(&mut tx, now - ABANDONED_AFTER, now).await?;
        store::commit(tx).await?;
        match self.tend_token_keys(now).await {
            Err(TokenKeyError::Store(error)) => Err(error),
            Err(TokenKeyError::Unusable(error)) => {
                tracing::error!(%error, "no other key could follow; the present ones stay");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}

impl Fleet {
    /// Makes those unreachable who are silent. Where Redis cannot say who is, the books can, but
    /// later: by then they have heard of everybody who is there.
    async fn mark_silent(&self, now: Timestamp) -> Result<(), StoreError> {
        if self.redis_knows(now).await && self.mark_silent_for(SILENT_AFTER, true, now).await? {
            return Ok(());
        }
        let silence = match self.redis.is_used() {
            true => SILENT_AFTER + BOOKED_EVERY,
            false => SILENT_AFTER,
        };
        self.mark_silent_for(silence, false, now).await?;
        Ok(())
    }

    /// Makes those unreachable of whom nobody has heard for so long, so many in one transaction:
    /// when very many are, because the network of this server was gone, others change the books in
    /// between. `false` when Redis was to be asked about all of them, and went away.
    async fn mark_silent_for(
        &self,
        silence: SignedDuration,
        asks_redis: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let since = now - silence;
        let mut seen = String::new();
        loop {
            let mut db = self.store.read().await?;
            let seem = hosts::seem_silent(&mut db, since, &seen, AT_ONCE).await?;
            drop(db);
            let Some(last) = seem.last() else {
                return Ok(true);
            };
            last.as_str().clone_into(&mut seen);
            let mut silent: Vec<&HostId> = seem.iter().collect();
            if asks_redis {
                let Some(heard) = self.redis.last_heard(&silent).await else {
                    return Ok(false);
                };
                let mut heard = heard.into_iter();
                silent.retain(|_| heard.next().flatten().is_none_or(|heard| heard < since));
            }
            if silent.is_empty() {
                continue;
            }
            let mut tx = self.store.begin().await?;
            let actor = Actor::server(now);
            for host in &hosts::mark_silent(&mut tx, &silent, since, now).await? {
                audit::record(&mut tx, &actor, "host.unreachable", host).await?;
                tracing::warn!(%host, "no heartbeat for {silence:#}; the host is unreachable");
            }
            store::commit(tx).await?;
        }
    }

    /// Whether Redis knows of all heartbeats that the books do not: it is there, and has lost nothing
    /// for as long as a host may be silent.
    async fn redis_knows(&self, now: Timestamp) -> bool {
        let whole_since = self.redis.whole_since(now).await;
        whole_since.is_some_and(|since| since <= now - SILENT_AFTER)
    }
}

/// Shows the VMs whose creation began up to `begun` and was finished by nobody. When a server
/// starts on books that are its own, that is all of them.
pub(crate) async fn surface_abandoned(
    db: &mut Db,
    begun: Timestamp,
    now: Timestamp,
) -> Result<(), StoreError> {
    let surfaced = vms::surface_abandoned(db, begun, ABANDONED, now).await?;
    if surfaced > 0 {
        tracing::warn!(
            vms = surfaced,
            "creations that nobody finished are shown as errors"
        );
    }
    Ok(())
}
