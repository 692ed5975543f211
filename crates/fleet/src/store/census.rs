//! What placement reads of the tables of hosts and VMs, and how it learns what has changed.

use sqlx::FromRow;

use super::hosts::tags_of;
use super::{Db, StoreError, query, revisions};
use crate::ids::{HostId, TeamId, VmId};
use crate::model::{HostStatus, HostType};
use crate::placement::{CPU_OVERCOMMIT, Candidate, Resources};

/// The counter of changes.
const CHANGES: &str = "placement";
/// How many hosts were ever deleted.
const DELETIONS: &str = "deleted-hosts";

/// Says that something about this host has changed that decides about placements.
pub(crate) async fn touch(db: &mut Db, host: &HostId) -> Result<(), StoreError> {
    revisions::bump(db, CHANGES).await?;
    query(
        "UPDATE hosts SET changed = (SELECT revision FROM revisions WHERE topic = 'placement')
         WHERE id = $1",
    )
    .bind(host.as_str())
    .execute(db)
    .await?;
    Ok(())
}

/// The same for the host of this VM.
pub(crate) async fn touch_host_of(db: &mut Db, vm: &VmId) -> Result<(), StoreError> {
    let host: Option<(String,)> = query("SELECT host_id FROM vms WHERE id = $1")
        .bind(vm.as_str())
        .fetch_optional(&mut *db)
        .await?;
    match host {
        Some((host,)) => touch(db, &HostId::named(host)).await,
        None => Ok(()),
    }
}

/// Says that a VM was put on this host.
pub(crate) async fn placed_on(db: &mut Db, host: &HostId) -> Result<(), StoreError> {
    touch(db, host).await?;
    query("UPDATE hosts SET last_placed = changed WHERE id = $1")
        .bind(host.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// Says that a host was deleted.
pub(crate) async fn deleted(db: &mut Db) -> Result<(), StoreError> {
    revisions::bump(db, DELETIONS).await
}

/// How many hosts were ever deleted.
pub(crate) async fn deletions(db: &mut Db) -> Result<i64, StoreError> {
    let row: Option<(i64,)> = query("SELECT revision FROM revisions WHERE topic = $1")
        .bind(DELETIONS)
        .fetch_optional(db)
        .await?;
    Ok(row.map_or(0, |(count,)| count))
}

#[derive(FromRow)]
struct Row {
    id: String,
    kind: String,
    team_id: Option<String>,
    availability_zone: Option<String>,
    arch: Option<String>,
    status: String,
    cordoned: bool,
    tags: Option<String>,
    cpu_cores: Option<i64>,
    memory_mb: Option<i64>,
    disk_gb: Option<i64>,
    reserved_cpus: i64,
    reserved_memory_mb: i64,
    reserved_disk_mb: i64,
    changed: i64,
    last_placed: i64,
}

impl TryFrom<Row> for (i64, Candidate) {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let size = row.cpu_cores.zip(row.memory_mb).zip(row.disk_gb);
        let total = size.map(|((cores, memory_mb), disk_gb)| Resources {
            cpus: cores.unsigned_abs() * CPU_OVERCOMMIT,
            memory_mb: memory_mb.unsigned_abs(),
            disk_mb: disk_gb.unsigned_abs().saturating_mul(1024),
        });
        let candidate = Candidate {
            id: HostId::named(row.id),
            kind: HostType::parse(&row.kind).map_err(StoreError::unreadable)?,
            team: row.team_id.map(TeamId::named),
            zone: row.availability_zone,
            arch: row.arch,
            status: HostStatus::parse(&row.status).map_err(StoreError::unreadable)?,
            cordoned: row.cordoned,
            tags: tags_of(row.tags.as_deref())?,
            total,
            reserved: Resources {
                cpus: row.reserved_cpus.unsigned_abs(),
                memory_mb: row.reserved_memory_mb.unsigned_abs(),
                disk_mb: row.reserved_disk_mb.unsigned_abs(),
            },
            last_placed: row.last_placed,
        };
        Ok((row.changed, candidate))
    }
}

/// The registered hosts that have changed since this number, each with its own.
pub(crate) async fn changed_since(
    db: &mut Db,
    seen: i64,
) -> Result<Vec<(i64, Candidate)>, StoreError> {
    // SUM of BIGINT is wider than BIGINT in PostgreSQL.
    let rows: Vec<Row> = query(
        "SELECT id, kind, team_id, availability_zone, arch, status, cordoned, cpu_cores, memory_mb,
                disk_gb, changed, last_placed,
                (SELECT string_agg(tag, ',') FROM host_tags t WHERE t.host_id = hosts.id) AS tags,
                CAST((SELECT COALESCE(SUM(v.cpus), 0) FROM vms v WHERE v.host_id = hosts.id)
                    AS BIGINT) AS reserved_cpus,
                CAST((SELECT COALESCE(SUM(v.memory_mb), 0) FROM vms v WHERE v.host_id = hosts.id)
                    AS BIGINT) AS reserved_memory_mb,
                CAST((SELECT COALESCE(SUM(v.disk_size_mb), 0) FROM vms v
                      WHERE v.host_id = hosts.id) AS BIGINT) AS reserved_disk_mb
         FROM hosts WHERE changed > $1 AND status <> 'pending'",
    )
    .bind(seen)
    .fetch_all(db)
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// How many VMs of a team's spread group are on which hosts.
pub(crate) async fn group(
    db: &mut Db,
    team: Option<&TeamId>,
    group: &str,
) -> Result<Vec<(HostId, usize)>, StoreError> {
    let rows: Vec<(String, i64)> = query(
        "SELECT host_id, COUNT(*) FROM vms
         WHERE COALESCE(team_id, '') = $1 AND spread_group = $2 GROUP BY host_id",
    )
    .bind(team.map_or("", TeamId::as_str))
    .bind(group)
    .fetch_all(db)
    .await?;
    let counted = rows.into_iter().map(|(host, count)| {
        let count = usize::try_from(count).map_err(StoreError::unreadable)?;
        Ok((HostId::named(host), count))
    });
    counted.collect()
}
