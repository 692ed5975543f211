//! The keys that sign host tokens. They live in the database, so that every replica has them.

use jiff::Timestamp;

use super::{Db, StoreError, millis, query};
use crate::secrets::SigningKey;
use secrecy::ExposeSecret;

/// All keys, newest first.
pub(crate) async fn all(db: &mut Db) -> Result<Vec<SigningKey>, StoreError> {
    let rows: Vec<(String, String)> = query(
        "SELECT kid, pkcs8 FROM signing_keys WHERE algorithm = 'ES256'
         ORDER BY created_at DESC, kid",
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(kid, pkcs8)| SigningKey {
            kid,
            pkcs8: pkcs8.into(),
        })
        .collect())
}

/// Adds a key.
pub(crate) async fn insert(
    db: &mut Db,
    key: &SigningKey,
    now: Timestamp,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO signing_keys (kid, algorithm, pkcs8, created_at)
         VALUES ($1, 'ES256', $2, $3)",
    )
    .bind(&key.kid)
    .bind(key.pkcs8.expose_secret())
    .bind(millis(now))
    .execute(db)
    .await?;
    Ok(())
}
