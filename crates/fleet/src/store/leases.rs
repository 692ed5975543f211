//! Who does what only one replica may do. Only a server that replicas share has leases: a file is one
//! process's alone. The time is the database's, so that replicas need not agree on it.

use std::time::Duration;

use super::{Db, StoreError, query};

/// Takes a lease, or keeps it: it is this holder's for so long from now. Whether it is.
pub(crate) async fn take(
    db: &mut Db,
    name: &str,
    holder: &str,
    life: Duration,
) -> Result<bool, StoreError> {
    let done = query(
        "INSERT INTO leases (name, holder, expires_at)
         VALUES ($1, $2, CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) + $3)
         ON CONFLICT (name) DO UPDATE
             SET holder = excluded.holder, expires_at = excluded.expires_at
             WHERE leases.holder = excluded.holder
                 OR leases.expires_at <= excluded.expires_at - $3",
    )
    .bind(name)
    .bind(holder)
    .bind(i64::try_from(life.as_millis()).unwrap_or(i64::MAX))
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Gives up all leases of this holder, so that nobody waits for their end.
pub(crate) async fn give_up(db: &mut Db, holder: &str) -> Result<(), StoreError> {
    query("DELETE FROM leases WHERE holder = $1")
        .bind(holder)
        .execute(db)
        .await?;
    Ok(())
}
