//! What happened to hosts and VMs: each change with what the thing was then, written in the
//! transaction of the change itself. Such transactions come one after another, so the numbers have
//! no gaps and are in the order in which things happened, whichever server did them.

use jiff::Timestamp;
use serde::Serialize;
use sqlx::FromRow;

use super::{Db, StoreError, hosts, millis, query, revisions, time, vms};
use crate::clock;
use crate::events::{Change, Event, Kind};
use crate::ids::{HostId, TeamId, VmId};
use crate::model::{Host, Vm};

/// How many are kept.
const KEPT: i64 = 100_000;

/// Tells of a host, as it is now in this transaction.
pub(crate) async fn of_host(db: &mut Db, id: &HostId, change: Change) -> Result<(), StoreError> {
    match hosts::get(db, id).await? {
        Some(host) => add(db, Kind::Host, change, host.team_id.as_ref(), &host).await,
        None => Ok(()),
    }
}

/// Tells of a VM, as it is now in this transaction. One that is on its way is not there yet.
pub(crate) async fn of_vm(db: &mut Db, id: &VmId, change: Change) -> Result<(), StoreError> {
    match vms::shown(db, id).await? {
        Some(vm) => add(db, Kind::Vm, change, vm.team_id.as_ref(), &vm).await,
        None => Ok(()),
    }
}

/// Tells of a VM that was this before; absent when it was on its way.
pub(crate) async fn of_vm_since(
    db: &mut Db,
    id: &VmId,
    before: Option<Vm>,
) -> Result<(), StoreError> {
    let now = vms::shown(db, id).await?;
    match (before, now) {
        (before, Some(now)) if before.as_ref() != Some(&now) => {
            let change = before.map_or(Change::Created, |_| Change::Updated);
            add(db, Kind::Vm, change, now.team_id.as_ref(), &now).await
        }
        _ => Ok(()),
    }
}

/// Tells of all VMs on a host: what they are changes with it.
pub(crate) async fn of_vms_on(
    db: &mut Db,
    host: &HostId,
    change: Change,
) -> Result<(), StoreError> {
    let on_it = vms::Filter {
        host: Some(host.clone()),
        limit: u32::MAX,
        ..vms::Filter::default()
    };
    for vm in vms::list(db, &on_it).await? {
        add(db, Kind::Vm, change, vm.team_id.as_ref(), &vm).await?;
    }
    Ok(())
}

/// Tells of a host whose status has changed from what it was, and of its VMs where these are
/// missing now or no longer.
pub(crate) async fn of_status(db: &mut Db, before: &Host) -> Result<(), StoreError> {
    let Some(host) = hosts::get(db, &before.id).await? else {
        return Ok(());
    };
    add(
        db,
        Kind::Host,
        Change::Updated,
        host.team_id.as_ref(),
        &host,
    )
    .await?;
    match host.is_silent() == before.is_silent() {
        true => Ok(()),
        false => of_vms_on(db, &host.id, Change::Updated).await,
    }
}

async fn add(
    db: &mut Db,
    kind: Kind,
    change: Change,
    team: Option<&TeamId>,
    thing: &impl Serialize,
) -> Result<(), StoreError> {
    let document = serde_json::to_string(thing).map_err(StoreError::unreadable)?;
    query(
        "INSERT INTO events (seq, at, kind, change, team_id, document)
         VALUES ((SELECT COALESCE(MAX(seq), 0) + 1 FROM events), $1, $2, $3, $4, $5)",
    )
    .bind(millis(clock::now()))
    .bind(kind.as_str())
    .bind(change.as_str())
    .bind(team.map(TeamId::as_str))
    .bind(document)
    .execute(&mut *db)
    .await?;
    db.has_news();
    revisions::bump(db, revisions::EVENTS).await
}

/// The number of the newest.
pub(crate) async fn newest(db: &mut Db) -> Result<i64, StoreError> {
    let row: Option<(i64,)> = query("SELECT seq FROM events ORDER BY seq DESC LIMIT 1")
        .fetch_optional(db)
        .await?;
    Ok(row.map_or(0, |(seq,)| seq))
}

#[derive(FromRow)]
struct Row {
    seq: i64,
    at: i64,
    kind: String,
    change: String,
    team_id: Option<String>,
    document: String,
}

impl TryFrom<Row> for Event {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            seq: row.seq,
            at: time(row.at)?,
            kind: Kind::parse(&row.kind).map_err(StoreError::unreadable)?,
            change: Change::parse(&row.change).map_err(StoreError::unreadable)?,
            team: row.team_id.map(TeamId::named),
            document: row.document,
        })
    }
}

/// Those after this number, in their order, so many at most.
pub(crate) async fn after(db: &mut Db, seen: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
    let rows: Vec<Row> = query(
        "SELECT seq, at, kind, change, team_id, document FROM events
         WHERE seq > $1 ORDER BY seq LIMIT $2",
    )
    .bind(seen)
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Gives up the oldest, so that only so many are kept. The newest always stays: the next number
/// follows from it.
pub(crate) async fn forget_old(db: &mut Db, before: Timestamp) -> Result<(), StoreError> {
    query(
        "DELETE FROM events WHERE seq < (SELECT MAX(seq) FROM events)
         AND (seq <= (SELECT MAX(seq) FROM events) - $1 OR at < $2)",
    )
    .bind(KEPT)
    .bind(millis(before))
    .execute(db)
    .await?;
    Ok(())
}
