//! The table of users. A password is in it as a hash, and leaves it only for a login.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sqlx::FromRow;

use super::{Db, StoreError, millis, query, revisions, time};
use crate::ids::UserId;
use crate::model::{User, UserName};

#[derive(FromRow)]
struct Row {
    id: String,
    name: String,
    is_admin: bool,
    created_by: String,
    created_at: i64,
    updated_at: i64,
}

impl TryFrom<Row> for User {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: UserId::named(row.id),
            name: UserName::try_from(row.name).map_err(StoreError::unreadable)?,
            is_admin: row.is_admin,
            created_by: row.created_by,
            created_at: time(row.created_at)?,
            updated_at: time(row.updated_at)?,
        })
    }
}

/// What a login is compared with.
pub(crate) struct Secret {
    /// A PHC string.
    pub(crate) password: SecretString,
    /// What a token must carry.
    pub(crate) epoch: i64,
}

/// Adds a user; [`StoreError::Duplicate`] when there is one of this name.
pub(crate) async fn insert(
    db: &mut Db,
    user: &User,
    password: &SecretString,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO users
             (id, name, is_admin, password, epoch, created_by, created_at, updated_at)
         VALUES ($1, $2, $3, $4, 1, $5, $6, $7)",
    )
    .bind(user.id.as_str())
    .bind(user.name.as_str())
    .bind(user.is_admin)
    .bind(password.expose_secret())
    .bind(&user.created_by)
    .bind(millis(user.created_at))
    .bind(millis(user.updated_at))
    .execute(db)
    .await?;
    Ok(())
}

/// The user of this id or name.
pub(crate) async fn find(db: &mut Db, id_or_name: &str) -> Result<Option<User>, StoreError> {
    // No name has the form of an id.
    let row: Option<Row> = query(
        "SELECT id, name, is_admin, created_by, created_at, updated_at
         FROM users WHERE id = $1 OR name = $1",
    )
    .bind(id_or_name)
    .fetch_optional(db)
    .await?;
    row.map(TryInto::try_into).transpose()
}

/// What the logins and tokens of this user are compared with.
pub(crate) async fn secret(db: &mut Db, id: &UserId) -> Result<Option<Secret>, StoreError> {
    let row: Option<(String, i64)> = query("SELECT password, epoch FROM users WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(db)
        .await?;
    Ok(row.map(|(password, epoch)| Secret {
        password: password.into(),
        epoch,
    }))
}

/// The users after this id, in the order of their creation.
pub(crate) async fn list(db: &mut Db, after: &str, limit: u32) -> Result<Vec<User>, StoreError> {
    let rows: Vec<Row> = query(
        "SELECT id, name, is_admin, created_by, created_at, updated_at
         FROM users WHERE id > $1 ORDER BY id LIMIT $2",
    )
    .bind(after)
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// Whether there is a user who may do everything.
pub(crate) async fn any_admin(db: &mut Db) -> Result<bool, StoreError> {
    let found: Option<(String,)> = query("SELECT id FROM users WHERE is_admin LIMIT 1")
        .fetch_optional(db)
        .await?;
    Ok(found.is_some())
}

/// Gives a user another password, and ends all their tokens.
pub(crate) async fn set_password(
    db: &mut Db,
    id: &UserId,
    password: &SecretString,
    now: Timestamp,
) -> Result<(), StoreError> {
    query("UPDATE users SET password = $2, epoch = epoch + 1, updated_at = $3 WHERE id = $1")
        .bind(id.as_str())
        .bind(password.expose_secret())
        .bind(millis(now))
        .execute(&mut *db)
        .await?;
    revisions::bump(db, revisions::USERS).await
}

/// Keeps the same password as a stronger hash, unless it was changed meanwhile. Tokens stay good.
pub(crate) async fn strengthen(
    db: &mut Db,
    id: &UserId,
    from: &SecretString,
    to: &SecretString,
) -> Result<(), StoreError> {
    query("UPDATE users SET password = $3 WHERE id = $1 AND password = $2")
        .bind(id.as_str())
        .bind(from.expose_secret())
        .bind(to.expose_secret())
        .execute(db)
        .await?;
    Ok(())
}

/// Ends all tokens of a user.
pub(crate) async fn end_tokens(db: &mut Db, id: &UserId) -> Result<(), StoreError> {
    query("UPDATE users SET epoch = epoch + 1 WHERE id = $1")
        .bind(id.as_str())
        .execute(&mut *db)
        .await?;
    revisions::bump(db, revisions::USERS).await
}

/// Says whether a user runs the platform.
pub(crate) async fn set_admin(
    db: &mut Db,
    id: &UserId,
    is_admin: bool,
    now: Timestamp,
) -> Result<(), StoreError> {
    query("UPDATE users SET is_admin = $2, updated_at = $3 WHERE id = $1")
        .bind(id.as_str())
        .bind(is_admin)
        .bind(millis(now))
        .execute(&mut *db)
        .await?;
    revisions::bump(db, revisions::USERS).await
}

/// Removes a user who is in no team and has no key.
pub(crate) async fn delete(db: &mut Db, id: &UserId) -> Result<(), StoreError> {
    query("DELETE FROM users WHERE id = $1")
        .bind(id.as_str())
        .execute(&mut *db)
        .await?;
    revisions::bump(db, revisions::USERS).await
}
