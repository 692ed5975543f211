//! The table of API keys. It holds their hashes; the keys themselves are kept nowhere.

use jiff::Timestamp;
use sqlx::FromRow;

use super::{Db, StoreError, millis, query, revisions, time};
use crate::ids::{KeyId, TeamId, UserId};
use crate::model::ApiKeyInfo;
use crate::scopes::KeyScope;

#[derive(FromRow)]
struct Row {
    id: String,
    name: String,
    scopes: String,
    team_id: Option<String>,
    created_by: String,
    created_at: i64,
    expires_at: Option<i64>,
    user_id: Option<String>,
    last_used_at: Option<i64>,
}

impl TryFrom<Row> for ApiKeyInfo {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let scopes = row
            .scopes
            .split(' ')
            .map(KeyScope::parse)
            .collect::<Result<_, _>>();
        Ok(Self {
            id: KeyId::named(row.id),
            name: row.name,
            scopes: scopes.map_err(StoreError::unreadable)?,
            team_id: row.team_id.map(TeamId::named),
            user_id: row.user_id.map(UserId::named),
            created_by: row.created_by,
            created_at: time(row.created_at)?,
            expires_at: row.expires_at.map(time).transpose()?,
            last_used_at: row.last_used_at.map(time).transpose()?,
        })
    }
}

/// Adds a key.
pub(crate) async fn insert(db: &mut Db, key: &ApiKeyInfo, hash: &str) -> Result<(), StoreError> {
    let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
    query(
        "INSERT INTO api_keys
             (id, hash, name, scopes, team_id, created_by, created_at, expires_at, user_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(key.id.as_str())
    .bind(hash)
    .bind(&key.name)
    .bind(scopes.join(" "))
    .bind(key.team_id.as_ref().map(TeamId::as_str))
    .bind(&key.created_by)
    .bind(millis(key.created_at))
    .bind(key.expires_at.map(millis))
    .bind(key.user_id.as_ref().map(UserId::as_str))
    .execute(db)
    .await?;
    Ok(())
}

/// The key with this hash, expired or not.
pub(crate) async fn by_hash(db: &mut Db, hash: &str) -> Result<Option<ApiKeyInfo>, StoreError> {
    let row: Option<Row> = query(
        "SELECT id, name, scopes, team_id, created_by, created_at, expires_at,
             user_id, last_used_at
         FROM api_keys WHERE hash = $1",
    )
    .bind(hash)
    .fetch_optional(db)
    .await?;
    row.map(TryInto::try_into).transpose()
}

/// Whether there is any key.
pub(crate) async fn any(db: &mut Db) -> Result<bool, StoreError> {
    let found: Option<(String,)> = query("SELECT id FROM api_keys LIMIT 1")
        .fetch_optional(db)
        .await?;
    Ok(found.is_some())
}

/// Whether a key of the platform that may do everything is left, now.
pub(crate) async fn any_admin(db: &mut Db, now: Timestamp) -> Result<bool, StoreError> {
    let found: Option<(String,)> = query(
        "SELECT id FROM api_keys
         WHERE team_id IS NULL AND user_id IS NULL AND ' ' || scopes || ' ' LIKE $1
             AND (expires_at IS NULL OR expires_at > $2)
         LIMIT 1",
    )
    .bind(format!("% {} %", KeyScope::Admin.as_str()))
    .bind(millis(now))
    .fetch_optional(db)
    .await?;
    Ok(found.is_some())
}

/// The keys after this id, of one team or of all, in the order of their creation.
pub(crate) async fn list(
    db: &mut Db,
    team: Option<&TeamId>,
    after: &str,
    limit: u32,
) -> Result<Vec<ApiKeyInfo>, StoreError> {
    let rows: Vec<Row> = query(
        "SELECT id, name, scopes, team_id, created_by, created_at, expires_at,
             user_id, last_used_at
         FROM api_keys
         WHERE id > $1 AND (CAST($2 AS TEXT) IS NULL OR team_id = $2)
         ORDER BY id LIMIT $3",
    )
    .bind(after)
    .bind(team.map(TeamId::as_str))
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Removes a key, of one team or of any; says whether it was there.
pub(crate) async fn delete(
    db: &mut Db,
    id: &KeyId,
    team: Option<&TeamId>,
) -> Result<bool, StoreError> {
    let done =
        query("DELETE FROM api_keys WHERE id = $1 AND (CAST($2 AS TEXT) IS NULL OR team_id = $2)")
            .bind(id.as_str())
            .bind(team.map(TeamId::as_str))
            .execute(&mut *db)
            .await?;
    revisions::bump(db, revisions::KEYS).await?;
    Ok(done.rows_affected() == 1)
}

/// Removes the keys of this user, all or those for one team; which they were.
pub(crate) async fn delete_of_user(
    db: &mut Db,
    user: &UserId,
    team: Option<&TeamId>,
) -> Result<Vec<KeyId>, StoreError> {
    let gone: Vec<(String,)> = query(
        "DELETE FROM api_keys
         WHERE user_id = $1 AND (CAST($2 AS TEXT) IS NULL OR team_id = $2) RETURNING id",
    )
    .bind(user.as_str())
    .bind(team.map(TeamId::as_str))
    .fetch_all(&mut *db)
    .await?;
    revisions::bump(db, revisions::KEYS).await?;
    Ok(gone.into_iter().map(|(id,)| KeyId::named(id)).collect())
}

/// Removes the keys of a team; which they were.
pub(crate) async fn delete_of_team(db: &mut Db, team: &TeamId) -> Result<Vec<KeyId>, StoreError> {
    let gone: Vec<(String,)> = query("DELETE FROM api_keys WHERE team_id = $1 RETURNING id")
        .bind(team.as_str())
        .fetch_all(&mut *db)
        .await?;
    revisions::bump(db, revisions::KEYS).await?;
    Ok(gone.into_iter().map(|(id,)| KeyId::named(id)).collect())
}

/// Notes that a key was used in this hour. A change by itself, which no replica has to know of.
pub(crate) async fn used(db: &mut Db, id: &KeyId, hour: Timestamp) -> Result<(), StoreError> {
    query(
        "UPDATE api_keys SET last_used_at = $2
         WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < $2)",
    )
    .bind(id.as_str())
    .bind(millis(hour))
    .execute(db)
    .await?;
    Ok(())
}
