//! The table of VMs, which is also the book of what is reserved on each host.

use jiff::Timestamp;
use sqlx::FromRow;

use super::{Db, ForMany, StoreError, census, events, millis, number, query, time};
use crate::events::Change;
use crate::ids::{HostId, TeamId, VmId};
use crate::model::{HostVm, Observed, Vm, VmName, VmSpec, VmState};
use crate::reconcile::Known;

/// A VM with what only the fleet needs to know of it.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    /// As last known; `missing` hosts are not considered here.
    pub(crate) vm: Vm,
    /// Whether its host has said that it made it.
    pub(crate) placed: bool,
    /// The hash of the request that created it.
    pub(crate) request_hash: String,
}

#[derive(FromRow)]
struct Row {
    id: String,
    team_id: Option<String>,
    name: String,
    host_id: String,
    spec: String,
    placed: bool,
    state: String,
    state_reason: Option<String>,
    observed: Option<String>,
    request_hash: String,
    created_at: i64,
}

impl TryFrom<Row> for Record {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let spec: VmSpec = serde_json::from_str(&row.spec).map_err(StoreError::unreadable)?;
        let state = VmState::parse(&row.state).map_err(StoreError::unreadable)?;
        let mut observed: Observed = match &row.observed {
            Some(json) => serde_json::from_str(json).map_err(StoreError::unreadable)?,
            None => Observed::default(),
        };
        if matches!(state, VmState::Created | VmState::Stopped) {
            // Of a VM that ended by itself a heartbeat tells the state and nothing else.
            (observed.started_at, observed.ready_at) = (None, None);
        }
        let vm = Vm {
            name: VmName::try_from(row.name).map_err(StoreError::unreadable)?,
            id: VmId::named(row.id),
            host: HostId::named(row.host_id),
            team_id: row.team_id.map(TeamId::named),
            state,
            state_reason: row.state_reason,
            spec,
            observed,
            created_at: time(row.created_at)?,
        };
        Ok(Self {
            vm,
            placed: row.placed,
            request_hash: row.request_hash,
        })
    }
}

macro_rules! select_vm {
    ($rest:literal) => {
        concat!(
            "SELECT id, team_id, name, host_id, spec, placed, state, state_reason, observed,
                    request_hash, created_at
             FROM vms ",
            $rest
        )
    };
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(StoreError::unreadable)
}

/// Who asked for a VM, and with which idempotency key.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) by: &'a str,
    pub(crate) idempotency_key: Option<&'a str>,
    /// From which VMs it is to be put apart: those of its team that named the same group.
    pub(crate) spread_group: Option<&'a str>,
}

/// Adds a VM, and with it the reservation on its host; [`StoreError::Duplicate`] when its team has
/// a VM of this name or has used this idempotency key.
pub(crate) async fn insert(
    db: &mut Db,
    record: &Record,
    asked: Asked<'_>,
) -> Result<(), StoreError> {
    let vm = &record.vm;
    query(
        "INSERT INTO vms (id, team_id, name, host_id, cpus, memory_mb, disk_size_mb, spec, placed,
                          state, idempotency_key, request_hash, created_by, created_at, updated_at,
                          spread_group)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14, $15)",
    )
    .bind(vm.id.as_str())
    .bind(vm.team_id.as_ref().map(TeamId::as_str))
    .bind(vm.name.as_str())
    .bind(vm.host.as_str())
    .bind(i64::from(vm.spec.cpus))
    .bind(number(vm.spec.memory_mb))
    .bind(number(vm.spec.disk_size_mb))
    .bind(json(&vm.spec)?)
    .bind(record.placed)
    .bind(vm.state.as_str())
    .bind(asked.idempotency_key)
    .bind(&record.request_hash)
    .bind(asked.by)
    .bind(millis(vm.created_at))
    .bind(asked.spread_group)
    .execute(&mut *db)
    .await?;
    census::placed_on(db, &vm.host).await
}

/// Removes a VM and its reservation.
pub(crate) async fn delete(db: &mut Db, id: &VmId) -> Result<(), StoreError> {
    census::touch_host_of(db, id).await?;
    events::of_vm(db, id, Change::Deleted).await?;
    query("DELETE FROM vms WHERE id = $1")
        .bind(id.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// Notes what the host says of a VM.
pub(crate) async fn observe(
    db: &mut Db,
    id: &VmId,
    said: &HostVm,
    now: Timestamp,
) -> Result<(), StoreError> {
    let before = shown(db, id).await?;
    query(
        "UPDATE vms SET placed = TRUE, state = $2, state_reason = $3, spec = $4, observed = $5,
                        updated_at = $6
         WHERE id = $1",
    )
    .bind(id.as_str())
    .bind(said.state.as_str())
    .bind(&said.state_reason)
    .bind(json(&said.spec)?)
    .bind(json(&said.observed)?)
    .bind(millis(now))
    .execute(&mut *db)
    .await?;
    events::of_vm_since(db, id, before).await
}

/// Sets the state of a VM when no more than that is known.
pub(crate) async fn set_state(
    db: &mut Db,
    id: &VmId,
    state: VmState,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let before = shown(db, id).await?;
    query(
        "UPDATE vms SET placed = TRUE, state = $2, state_reason = $3, updated_at = $4
         WHERE id = $1",
    )
    .bind(id.as_str())
    .bind(state.as_str())
    .bind(reason)
    .bind(millis(now))
    .execute(&mut *db)
    .await?;
    events::of_vm_since(db, id, before).await
}

/// The VM of this name in a team (absent: the platform's own).
pub(crate) async fn by_name(
    db: &mut Db,
    team: Option<&TeamId>,
    name: &str,
) -> Result<Option<Record>, StoreError> {
    let row: Option<Row> = query(select_vm!("WHERE COALESCE(team_id, '') = $1 AND name = $2"))
        .bind(team.map_or("", TeamId::as_str))
        .bind(name)
        .fetch_optional(db)
        .await?;
    row.map(TryInto::try_into).transpose()
}

/// The VM of this id.
pub(crate) async fn get(db: &mut Db, id: &VmId) -> Result<Option<Record>, StoreError> {
    let row: Option<Row> = query(select_vm!("WHERE id = $1"))
        .bind(id.as_str())
        .fetch_optional(db)
        .await?;
    row.map(TryInto::try_into).transpose()
}

/// The VM that a team created under this idempotency key.
pub(crate) async fn by_idempotency_key(
    db: &mut Db,
    team: Option<&TeamId>,
    key: &str,
) -> Result<Option<Record>, StoreError> {
    let row: Option<Row> = query(select_vm!(
        "WHERE COALESCE(team_id, '') = $1 AND idempotency_key = $2"
    ))
    .bind(team.map_or("", TeamId::as_str))
    .bind(key)
    .fetch_optional(db)
    .await?;
    row.map(TryInto::try_into).transpose()
}

/// Which VMs a list shows. What is absent filters nothing.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub(crate) team: Option<TeamId>,
    pub(crate) host: Option<HostId>,
    pub(crate) after: String,
    pub(crate) limit: u32,
}

/// Columns of a placed VM as it is shown: on a host that is not heard of it is `missing`.
macro_rules! select_shown {
    ($rest:literal) => {
        concat!(
            "SELECT v.id, v.team_id, v.name, v.host_id, v.spec, v.placed,
                    CASE WHEN h.status IN ('unreachable', 'offline') THEN 'missing'
                         ELSE v.state END AS state,
                    CASE WHEN h.status IN ('unreachable', 'offline')
                         THEN 'its host is ' || h.status ELSE v.state_reason END AS state_reason,
                    v.observed, v.request_hash, v.created_at
             FROM vms v JOIN hosts h ON h.id = v.host_id
             WHERE v.placed AND ",
            $rest
        )
    };
}

/// A page of placed VMs, in the order of their creation.
pub(crate) async fn list(db: &mut Db, filter: &Filter) -> Result<Vec<Vm>, StoreError> {
    let rows: Vec<Row> = query(select_shown!(
        "v.id > $1
           AND (CAST($2 AS TEXT) IS NULL OR v.team_id = $2)
           AND (CAST($3 AS TEXT) IS NULL OR v.host_id = $3)
         ORDER BY v.id LIMIT $4"
    ))
    .bind(&filter.after)
    .bind(filter.team.as_ref().map(TeamId::as_str))
    .bind(filter.host.as_ref().map(HostId::as_str))
    .bind(i64::from(filter.limit))
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| Ok(Record::try_from(row)?.vm))
        .collect()
}

/// A placed VM, as a list shows it.
pub(crate) async fn shown(db: &mut Db, id: &VmId) -> Result<Option<Vm>, StoreError> {
    let row: Option<Row> = query(select_shown!("v.id = $1"))
        .bind(id.as_str())
        .fetch_optional(db)
        .await?;
    row.map(|row| Ok(Record::try_from(row)?.vm)).transpose()
}

/// The ids and names of all VMs on a host, placed or on their way.
pub(crate) async fn on_host(db: &mut Db, host: &HostId) -> Result<Vec<(VmId, String)>, StoreError> {
    let rows: Vec<(String, String)> =
        query("SELECT id, name FROM vms WHERE host_id = $1 ORDER BY id")
            .bind(host.as_str())
            .fetch_all(db)
            .await?;
    Ok(rows
        .into_iter()
        .map(|(id, name)| (VmId::named(id), name))
        .collect())
}

/// Removes all VMs of a host, which is about to be removed itself.
pub(crate) async fn delete_on_host(db: &mut Db, host: &HostId) -> Result<(), StoreError> {
    events::of_vms_on(db, host, Change::Deleted).await?;
    query("DELETE FROM vms WHERE host_id = $1")
        .bind(host.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// The VMs of these hosts, to be compared with what they report. Those that have changed after
/// `settled` are too fresh for a report to know of.
pub(crate) async fn known_on(
    db: &mut Db,
    hosts: &[&HostId],
    settled: Timestamp,
) -> Result<Vec<(HostId, Known)>, StoreError> {
    static STATEMENT: ForMany = ForMany::new(
        "SELECT host_id, id, state, placed, updated_at FROM vms WHERE host_id IN ({})",
        0,
    );
    let mut known = Vec::new();
    for statement in STATEMENT.of([], hosts.iter().map(|id| id.as_str())) {
        let rows: Vec<(String, String, String, bool, i64)> = statement.fetch_all(db).await?;
        for (host, id, state, placed, updated_at) in rows {
            let vm = Known {
                id: VmId::named(id),
                state: VmState::parse(&state).map_err(StoreError::unreadable)?,
                placed,
                settled: updated_at <= millis(settled),
            };
            known.push((HostId::named(host), vm));
        }
    }
    Ok(known)
}

/// Gives the VMs whose creation nobody finished since `abandoned` a state of their own, so that
/// they are seen.
pub(crate) async fn surface_abandoned(
    db: &mut Db,
    abandoned: Timestamp,
    reason: &str,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let ids: Vec<(String,)> = query(
        "UPDATE vms SET placed = TRUE, state = 'error', state_reason = $2, updated_at = $3
         WHERE NOT placed AND created_at <= $1
         RETURNING id",
    )
    .bind(millis(abandoned))
    .bind(reason)
    .bind(millis(now))
    .fetch_all(&mut *db)
    .await?;
    for (id,) in &ids {
        events::of_vm(db, &VmId::named(id), Change::Created).await?;
    }
    Ok(ids.len())
}

/// How many placed VMs are in each state, of one team or of all.
pub(crate) async fn count_by_state(
    db: &mut Db,
    team: Option<&TeamId>,
) -> Result<Vec<(VmState, u64)>, StoreError> {
    let rows: Vec<(String, i64)> = query(
        "SELECT CASE WHEN h.status IN ('unreachable', 'offline') THEN 'missing' ELSE v.state END
                    AS state, COUNT(*)
         FROM vms v JOIN hosts h ON h.id = v.host_id
         WHERE v.placed AND (CAST($1 AS TEXT) IS NULL OR v.team_id = $1)
         GROUP BY 1",
    )
    .bind(team.map(TeamId::as_str))
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|(state, count)| {
            Ok((
                VmState::parse(&state).map_err(StoreError::unreadable)?,
                count.unsigned_abs(),
            ))
        })
        .collect()
}
