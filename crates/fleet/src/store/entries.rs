//! The table of registration entries.

use sqlx::FromRow;

use super::{Db, StoreError, millis, query, revisions, time};
use crate::ids::{EntryId, HostId};
use crate::model::{Entry, Host, HostType, Tag};

/// Columns of an entry.
macro_rules! select_entry {
    ($rest:literal) => {
        concat!(
            "SELECT id, spiffe_id, selectors, host_id, tag, hint, ttl_secs, created_by, created_at
             FROM entries ",
            $rest
        )
    };
}

#[derive(FromRow)]
struct Row {
    id: String,
    spiffe_id: String,
    selectors: String,
    host_id: Option<String>,
    tag: Option<String>,
    hint: Option<String>,
    ttl_secs: Option<i64>,
    created_by: String,
    created_at: i64,
}

impl TryFrom<Row> for Entry {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let ttl_secs = row.ttl_secs.map(u32::try_from).transpose();
        let tag = row.tag.map(Tag::try_from).transpose();
        Ok(Self {
            id: EntryId::named(row.id),
            spiffe_id: row.spiffe_id,
            selectors: serde_json::from_str(&row.selectors).map_err(StoreError::unreadable)?,
            host: row.host_id.map(HostId::named),
            tag: tag.map_err(StoreError::unreadable)?,
            hint: row.hint,
            ttl_secs: ttl_secs.map_err(StoreError::unreadable)?,
            created_by: row.created_by,
            created_at: time(row.created_at)?,
        })
    }
}

fn read(rows: Vec<Row>) -> Result<Vec<Entry>, StoreError> {
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Adds an entry; one that says the same is a duplicate.
pub(crate) async fn insert(db: &mut Db, entry: &Entry) -> Result<(), StoreError> {
    let selectors = serde_json::to_string(&entry.selectors).map_err(StoreError::unreadable)?;
    query(
        "INSERT INTO entries (id, spiffe_id, selectors, host_id, tag, hint, ttl_secs, created_by,
                              created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(entry.id.as_str())
    .bind(&entry.spiffe_id)
    .bind(selectors)
    .bind(entry.host.as_ref().map(HostId::as_str))
    .bind(entry.tag.as_ref().map(Tag::as_str))
    .bind(&entry.hint)
    .bind(entry.ttl_secs.map(i64::from))
    .bind(&entry.created_by)
    .bind(millis(entry.created_at))
    .execute(&mut *db)
    .await?;
    revisions::bump(db, revisions::WORKLOADS).await
}

/// Which entries a list shows. What is absent filters nothing.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    pub(crate) spiffe_id: Option<String>,
    /// Bound to this very host.
    pub(crate) host: Option<HostId>,
    /// The id after which the page begins.
    pub(crate) after: String,
    pub(crate) limit: u32,
}

/// A page of entries, in the order of their creation.
pub(crate) async fn list(db: &mut Db, filter: &Filter) -> Result<Vec<Entry>, StoreError> {
    let rows: Vec<Row> = query(select_entry!(
        "WHERE id > $1
           AND (CAST($2 AS TEXT) IS NULL OR spiffe_id = $2)
           AND (CAST($3 AS TEXT) IS NULL OR host_id = $3)
         ORDER BY id LIMIT $4"
    ))
    .bind(&filter.after)
    .bind(&filter.spiffe_id)
    .bind(filter.host.as_ref().map(HostId::as_str))
    .bind(i64::from(filter.limit))
    .fetch_all(db)
    .await?;
    read(rows)
}

/// The entries that hold on this host, in the order of their creation, all or those of one SPIFFE
/// ID. On a machine that a team brought only those hold that name it: its owner could take the
/// identity of any process there.
pub(crate) async fn holding_on(
    db: &mut Db,
    host: &Host,
    spiffe_id: Option<&str>,
) -> Result<Vec<Entry>, StoreError> {
    let rows: Vec<Row> = query(select_entry!(
        "WHERE (CAST($3 AS TEXT) IS NULL OR spiffe_id = $3)
           AND (host_id = $1
                OR ($2 AND host_id IS NULL
                    AND (tag IS NULL
                         OR tag IN (SELECT t.tag FROM host_tags t WHERE t.host_id = $1))))
         ORDER BY id"
    ))
    .bind(host.id.as_str())
    .bind(host.kind == HostType::Regular)
    .bind(spiffe_id)
    .fetch_all(db)
    .await?;
    read(rows)
}

/// Removes an entry; says whether it was there.
pub(crate) async fn delete(db: &mut Db, id: &EntryId) -> Result<bool, StoreError> {
    let done = query("DELETE FROM entries WHERE id = $1")
        .bind(id.as_str())
        .execute(&mut *db)
        .await?;
    revisions::bump(db, revisions::WORKLOADS).await?;
    Ok(done.rows_affected() == 1)
}

/// Removes the entries that name this host; says which they were.
pub(crate) async fn delete_of_host(db: &mut Db, host: &HostId) -> Result<Vec<EntryId>, StoreError> {
    let ids: Vec<(String,)> = query("DELETE FROM entries WHERE host_id = $1 RETURNING id")
        .bind(host.as_str())
        .fetch_all(db)
        .await?;
    Ok(ids.into_iter().map(|(id,)| EntryId::named(id)).collect())
}
