//! How often something has changed of which each replica keeps a picture in memory. Whoever changes
//! it says so in the same transaction; the others look every half second.

use super::{Db, StoreError, query};

/// Which hosts may come through the machines' door.
pub(crate) const HOSTS: &str = "hosts";
/// Which processes have which identities.
pub(crate) const WORKLOADS: &str = "workloads";
/// Which API keys are good.
pub(crate) const KEYS: &str = "keys";
/// What has happened to hosts and VMs.
pub(crate) const EVENTS: &str = "events";
/// Who may log in, with what they may do.
pub(crate) const USERS: &str = "users";
/// Which keys sign tokens.
pub(crate) const TOKEN_KEYS: &str = "token-keys";
/// With which keys the authority signs.
pub(crate) const AUTHORITY: &str = "state:authority";

/// Says that this has changed.
pub(crate) async fn bump(db: &mut Db, topic: &'static str) -> Result<(), StoreError> {
    if !db.is_to_be_bumped(topic) {
        return Ok(());
    }
    query(
        "INSERT INTO revisions (topic, revision) VALUES ($1, 1)
         ON CONFLICT (topic) DO UPDATE SET revision = revisions.revision + 1",
    )
    .bind(topic)
    .execute(db)
    .await?;
    Ok(())
}

/// All of them, with those of the shared keys.
pub(crate) async fn all(db: &mut Db) -> Result<Vec<(String, i64)>, StoreError> {
    query(
        "SELECT topic, revision FROM revisions
         UNION ALL SELECT 'state:' || name, revision FROM shared_state",
    )
    .fetch_all(db)
    .await
}
