//! The table of hosts and that of their tags.

use jiff::Timestamp;
use sqlx::FromRow;

use super::{Db, ForMany, StoreError, census, events, millis, query, revisions, time};
use crate::events::Change;
use crate::ids::{HostId, TeamId};
use crate::model::{Host, HostStatus, HostType, Tag};

/// Columns of a host, with its tags joined by commas, which no tag contains.
macro_rules! select_host {
    ($rest:literal) => {
        concat!(
            "SELECT id, kind, team_id, provider, availability_zone, arch, cpu_cores, memory_mb,
                    disk_gb, address, status, cordoned, last_heartbeat_at, created_by, created_at,
                    updated_at,
                    (SELECT string_agg(tag, ',') FROM host_tags t WHERE t.host_id = hosts.id)
                        AS tags
             FROM hosts ",
            $rest
        )
    };
}

#[derive(FromRow)]
struct Row {
    id: String,
    kind: String,
    team_id: Option<String>,
    provider: Option<String>,
    availability_zone: Option<String>,
    arch: Option<String>,
    cpu_cores: Option<i64>,
    memory_mb: Option<i64>,
    disk_gb: Option<i64>,
    address: Option<String>,
    status: String,
    cordoned: bool,
    last_heartbeat_at: Option<i64>,
    created_by: String,
    created_at: i64,
    updated_at: i64,
    tags: Option<String>,
}

impl TryFrom<Row> for Host {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let unsigned = |n: Option<i64>| {
            n.map(u64::try_from)
                .transpose()
                .map_err(StoreError::unreadable)
        };
        let cpu_cores = row.cpu_cores.map(u32::try_from).transpose();
        Ok(Self {
            id: HostId::named(row.id),
            kind: HostType::parse(&row.kind).map_err(StoreError::unreadable)?,
            team_id: row.team_id.map(TeamId::named),
            provider: row.provider,
            availability_zone: row.availability_zone,
            arch: row.arch,
            cpu_cores: cpu_cores.map_err(StoreError::unreadable)?,
            memory_mb: unsigned(row.memory_mb)?,
            disk_gb: unsigned(row.disk_gb)?,
            // One that is reached over a connection of its own has the empty text.
            address: row.address.filter(|address| !address.is_empty()),
            status: HostStatus::parse(&row.status).map_err(StoreError::unreadable)?,
            cordoned: row.cordoned,
            tags: tags_of(row.tags.as_deref())?,
            last_heartbeat_at: row.last_heartbeat_at.map(time).transpose()?,
            created_by: row.created_by,
            created_at: time(row.created_at)?,
            updated_at: time(row.updated_at)?,
        })
    }
}

/// Tags that are joined by commas, in alphabetical order.
pub(super) fn tags_of(joined: Option<&str>) -> Result<Vec<Tag>, StoreError> {
    let tags = joined.into_iter().flat_map(|tags| tags.split(','));
    let mut tags = tags
        .map(|tag| Tag::try_from(tag.to_owned()).map_err(StoreError::unreadable))
        .collect::<Result<Vec<_>, _>>()?;
    tags.sort_unstable();
    Ok(tags)
}

/// Adds a pending host.
pub(crate) async fn insert(db: &mut Db, host: &Host) -> Result<(), StoreError> {
    query(
        "INSERT INTO hosts (id, kind, team_id, provider, availability_zone, status, cordoned,
                            created_by, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(host.id.as_str())
    .bind(host.kind.as_str())
    .bind(host.team_id.as_ref().map(TeamId::as_str))
    .bind(&host.provider)
    .bind(&host.availability_zone)
    .bind(host.status.as_str())
    .bind(host.cordoned)
    .bind(&host.created_by)
    .bind(millis(host.created_at))
    .bind(millis(host.updated_at))
    .execute(&mut *db)
    .await?;
    for tag in &host.tags {
        insert_tag(db, &host.id, tag).await?;
    }
    events::of_host(db, &host.id, Change::Created).await
}

/// The host of this id.
pub(crate) async fn get(db: &mut Db, id: &HostId) -> Result<Option<Host>, StoreError> {
    let row: Option<Row> = query(select_host!("WHERE id = $1"))
        .bind(id.as_str())
        .fetch_optional(db)
        .await?;
    row.map(TryInto::try_into).transpose()
}

/// The hosts that have registered.
pub(crate) async fn enrolled(db: &mut Db) -> Result<Vec<HostId>, StoreError> {
    let ids: Vec<(String,)> = query("SELECT id FROM hosts WHERE status <> 'pending'")
        .fetch_all(db)
        .await?;
    Ok(ids.into_iter().map(|(id,)| HostId::named(id)).collect())
}

/// Which hosts a list shows. What is absent filters nothing.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub(crate) status: Option<HostStatus>,
    pub(crate) kind: Option<HostType>,
    pub(crate) tag: Option<Tag>,
    pub(crate) team: Option<TeamId>,
    /// The id after which the page begins.
    pub(crate) after: String,
    pub(crate) limit: u32,
}

/// A page of hosts, in the order of their creation.
pub(crate) async fn list(db: &mut Db, filter: &Filter) -> Result<Vec<Host>, StoreError> {
    let rows: Vec<Row> = query(select_host!(
        "WHERE id > $1
           AND (CAST($2 AS TEXT) IS NULL OR status = $2)
           AND (CAST($3 AS TEXT) IS NULL OR kind = $3)
           AND (CAST($4 AS TEXT) IS NULL OR team_id = $4)
           AND (CAST($5 AS TEXT) IS NULL OR EXISTS
                (SELECT 1 FROM host_tags t WHERE t.host_id = hosts.id AND t.tag = $5))
         ORDER BY id LIMIT $6"
    ))
    .bind(&filter.after)
    .bind(filter.status.map(HostStatus::as_str))
    .bind(filter.kind.map(HostType::as_str))
    .bind(filter.team.as_ref().map(TeamId::as_str))
    .bind(filter.tag.as_ref().map(Tag::as_str))
    .bind(i64::from(filter.limit))
    .fetch_all(db)
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Removes a host with its tags and registration tokens.
pub(crate) async fn delete(db: &mut Db, id: &HostId) -> Result<(), StoreError> {
    events::of_host(db, id, Change::Deleted).await?;
    query("DELETE FROM hosts WHERE id = $1")
        .bind(id.as_str())
        .execute(&mut *db)
        .await?;
    census::deleted(db).await?;
    revisions::bump(db, revisions::HOSTS).await?;
    revisions::bump(db, revisions::WORKLOADS).await
}

/// Opens a host to new VMs or closes it, which it was not.
pub(crate) async fn set_cordoned(
    db: &mut Db,
    id: &HostId,
    cordoned: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    query("UPDATE hosts SET cordoned = $2, updated_at = $3 WHERE id = $1 AND cordoned <> $2")
        .bind(id.as_str())
        .bind(cordoned)
        .bind(millis(now))
        .execute(&mut *db)
        .await?;
    changed(db, id).await
}

/// Says that a host is another than it was, and that placement has to look.
async fn changed(db: &mut Db, id: &HostId) -> Result<(), StoreError> {
    census::touch(db, id).await?;
    events::of_host(db, id, Change::Updated).await
}

/// Gives a host a tag; one that it has already stays.
pub(crate) async fn add_tag(db: &mut Db, id: &HostId, tag: &Tag) -> Result<(), StoreError> {
    insert_tag(db, id, tag).await?;
    changed(db, id).await
}

async fn insert_tag(db: &mut Db, id: &HostId, tag: &Tag) -> Result<(), StoreError> {
    query("INSERT INTO host_tags (host_id, tag) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(id.as_str())
        .bind(tag.as_str())
        .execute(&mut *db)
        .await?;
    revisions::bump(db, revisions::WORKLOADS).await
}

/// Takes a tag from a host, if it has it.
pub(crate) async fn remove_tag(db: &mut Db, id: &HostId, tag: &str) -> Result<(), StoreError> {
    query("DELETE FROM host_tags WHERE host_id = $1 AND tag = $2")
        .bind(id.as_str())
        .bind(tag)
        .execute(&mut *db)
        .await?;
    changed(db, id).await?;
    revisions::bump(db, revisions::WORKLOADS).await
}

/// Notes that a registered host was heard of, and its status from now on.
pub(crate) async fn heard_of(
    db: &mut Db,
    host: &Host,
    status: HostStatus,
    now: Timestamp,
) -> Result<(), StoreError> {
    query(
        "UPDATE hosts
         SET last_heartbeat_at = $3, status = $2,
             updated_at = CASE WHEN status = $2 THEN updated_at ELSE $3 END
         WHERE id = $1",
    )
    .bind(host.id.as_str())
    .bind(status.as_str())
    .bind(millis(now))
    .execute(&mut *db)
    .await?;
    if status == host.status {
        return Ok(());
    }
    census::touch(db, &host.id).await?;
    events::of_status(db, host).await
}

/// Gives a host another status than it has.
pub(crate) async fn set_status(
    db: &mut Db,
    host: &Host,
    status: HostStatus,
    now: Timestamp,
) -> Result<(), StoreError> {
    query("UPDATE hosts SET status = $2, updated_at = $3 WHERE id = $1")
        .bind(host.id.as_str())
        .bind(status.as_str())
        .bind(millis(now))
        .execute(&mut *db)
        .await?;
    census::touch(db, &host.id).await?;
    events::of_status(db, host).await
}

/// Notes that these hosts were heard of, unless the books have one as silent or do not have it at
/// all. The ids of those that were noted, and their addresses as the table has them: empty for one
/// that is reached over a connection of its own.
pub(crate) async fn still_there(
    db: &mut Db,
    ids: &[&HostId],
    now: Timestamp,
) -> Result<Vec<(String, String)>, StoreError> {
    static STATEMENT: ForMany = ForMany::new(
        "UPDATE hosts SET last_heartbeat_at = $1
         WHERE status IN ('online', 'draining') AND id IN ({})
         RETURNING id, COALESCE(address, '') AS address",
        1,
    );
    let ids = ids.iter().map(|id| id.as_str());
    let mut noted = Vec::new();
    for statement in STATEMENT.of([millis(now).into()], ids) {
        noted.append(&mut statement.fetch_all(db).await?);
    }
    Ok(noted)
}

/// The same of hosts whose heartbeats are noted elsewhere: only those are noted here that the books
/// have not heard of since `due`.
pub(crate) async fn still_there_booked(
    db: &mut Db,
    ids: &[&HostId],
    due: Timestamp,
    now: Timestamp,
) -> Result<Vec<(String, String)>, StoreError> {
    static STATEMENT: ForMany = ForMany::new(
        "SELECT id, COALESCE(address, '') AS address, last_heartbeat_at FROM hosts
         WHERE status IN ('online', 'draining') AND id IN ({})",
        0,
    );
    let mut there = Vec::new();
    let mut overdue = Vec::new();
    for statement in STATEMENT.of([], ids.iter().map(|id| id.as_str())) {
        let rows: Vec<(String, String, Option<i64>)> = statement.fetch_all(db).await?;
        for (id, address, heard) in rows {
            if heard.is_some_and(|heard| heard > millis(due)) {
                there.push((id, address));
            } else {
                overdue.push(HostId::named(id));
            }
        }
    }
    let overdue: Vec<&HostId> = overdue.iter().collect();
    there.append(&mut still_there(db, &overdue, now).await?);
    Ok(there)
}

/// Notes where a host's door is reached from now on.
pub(crate) async fn set_address(
    db: &mut Db,
    id: &HostId,
    address: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    query("UPDATE hosts SET address = $2, updated_at = $3 WHERE id = $1")
        .bind(id.as_str())
        .bind(address)
        .bind(millis(now))
        .execute(&mut *db)
        .await?;
    events::of_host(db, id, Change::Updated).await
}

/// Lets nobody have been heard of later than now: the clock was set back.
pub(crate) async fn not_later_than(db: &mut Db, now: Timestamp) -> Result<(), StoreError> {
    query("UPDATE hosts SET last_heartbeat_at = $1 WHERE last_heartbeat_at > $1")
        .bind(millis(now))
        .execute(db)
        .await?;
    Ok(())
}

/// Who is online and was, as far as the books know, last heard of before `silent_since`; so many at
/// most, in the order of their ids, after this one.
pub(crate) async fn seem_silent(
    db: &mut Db,
    silent_since: Timestamp,
    after: &str,
    most: u32,
) -> Result<Vec<HostId>, StoreError> {
    let ids: Vec<(String,)> = query(
        "SELECT id FROM hosts
         WHERE status = 'online' AND last_heartbeat_at < $1 AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(millis(silent_since))
    .bind(after)
    .bind(i64::from(most))
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().map(|(id,)| HostId::named(id)).collect())
}

/// Makes those of these unreachable who are online and were last heard of before `silent_since`;
/// says who.
pub(crate) async fn mark_silent(
    db: &mut Db,
    silent: &[&HostId],
    silent_since: Timestamp,
    now: Timestamp,
) -> Result<Vec<HostId>, StoreError> {
    static STATEMENT: ForMany = ForMany::new(
        "UPDATE hosts SET status = 'unreachable', updated_at = $2
         WHERE status = 'online' AND last_heartbeat_at < $1 AND id IN ({})
         RETURNING id",
        2,
    );
    let silent = silent.iter().map(|id| id.as_str());
    let mut ids = Vec::new();
    for statement in STATEMENT.of([millis(silent_since).into(), millis(now).into()], silent) {
        let rows: Vec<(String,)> = statement.fetch_all(&mut *db).await?;
        ids.extend(rows.into_iter().map(|(id,)| HostId::named(id)));
    }
    for id in &ids {
        changed(db, id).await?;
        events::of_vms_on(db, id, Change::Updated).await?;
    }
    Ok(ids)
}

/// How many hosts are in each status, of one team or of all.
pub(crate) async fn count_by_status(
    db: &mut Db,
    team: Option<&TeamId>,
) -> Result<Vec<(HostStatus, u64)>, StoreError> {
    let rows: Vec<(String, i64)> = query(
        "SELECT status, COUNT(*) FROM hosts
         WHERE CAST($1 AS TEXT) IS NULL OR team_id = $1 GROUP BY status",
    )
    .bind(team.map(TeamId::as_str))
    .fetch_all(db)
    .await?;
    let counted = rows.into_iter().map(|(status, count)| {
        Ok((
            HostStatus::parse(&status).map_err(StoreError::unreadable)?,
            count.unsigned_abs(),
        ))
    });
    counted.collect()
}
