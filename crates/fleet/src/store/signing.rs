//! The keys that sign host tokens and user tokens. They live in the database, so that every server
//! on it has them.

use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::revisions::{self, TOKEN_KEYS};
use super::{Db, StoreError, millis, query, time};
use crate::secrets::SigningKey;

/// All keys, newest first.
pub(crate) async fn all(db: &mut Db) -> Result<Vec<SigningKey>, StoreError> {
    let rows: Vec<(String, String, i64)> = query(
        "SELECT kid, pkcs8, created_at FROM signing_keys WHERE algorithm = 'ES256'
         ORDER BY created_at DESC, kid",
    )
    .fetch_all(db)
    .await?;
    let key = |(kid, pkcs8, created_at): (String, String, i64)| {
        Ok(SigningKey {
            kid,
            pkcs8: pkcs8.into(),
            created_at: time(created_at)?,
        })
    };
    rows.into_iter().map(key).collect()
}

/// Adds a key.
pub(crate) async fn insert(db: &mut Db, key: &SigningKey) -> Result<(), StoreError> {
    query(
        "INSERT INTO signing_keys (kid, algorithm, pkcs8, created_at)
         VALUES ($1, 'ES256', $2, $3)",
    )
    .bind(&key.kid)
    .bind(key.pkcs8.expose_secret())
    .bind(millis(key.created_at))
    .execute(db)
    .await?;
    revisions::bump(db, TOKEN_KEYS).await
}

/// Removes the keys that were followed by a key that was made before this time.
pub(crate) async fn remove_followed(db: &mut Db, before: Timestamp) -> Result<u64, StoreError> {
    let done = query(
        "DELETE FROM signing_keys WHERE created_at <
         (SELECT MAX(created_at) FROM signing_keys WHERE created_at <= $1)",
    )
    .bind(millis(before))
    .execute(db)
    .await?;
    revisions::bump(db, TOKEN_KEYS).await?;
    Ok(done.rows_affected())
}
