//! One-time tokens: issued, and used up.

use jiff::Timestamp;
use sqlx::FromRow;

use super::{Db, StoreError, census, events, millis, number, query, revisions};
use crate::enrolment::TokenBinding;
use crate::events::Change;
use crate::ids::HostId;
use crate::model::HostAddress;
use crate::secrets::RegistrationToken;

/// A token that was just used up, with what it was bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UsedToken {
    pub(crate) host: HostId,
    pub(crate) binding: TokenBinding,
}

#[derive(FromRow)]
struct Row {
    host_id: String,
    cidr: Option<String>,
    arch: Option<String>,
}

/// Puts a new token in the place of all that the host had.
pub(crate) async fn replace(
    db: &mut Db,
    host: &HostId,
    token: &RegistrationToken,
    binding: &TokenBinding,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<(), StoreError> {
    query("DELETE FROM registration_tokens WHERE host_id = $1")
        .bind(host.as_str())
        .execute(&mut *db)
        .await?;
    query(
        "INSERT INTO registration_tokens (hash, host_id, cidr, arch, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(token.hash())
    .bind(host.as_str())
    .bind(binding.cidr.as_ref().map(ToString::to_string))
    .bind(&binding.arch)
    .bind(millis(now))
    .bind(millis(expires_at))
    .execute(db)
    .await?;
    Ok(())
}

/// Whether there is such a token at all. Whoever has none is turned away without waiting for the
/// connection that writes, and so without making others wait.
pub(crate) async fn is_known(db: &mut Db, token: &RegistrationToken) -> Result<bool, StoreError> {
    let found: Option<(String,)> = query("SELECT host_id FROM registration_tokens WHERE hash = $1")
        .bind(token.hash())
        .fetch_optional(db)
        .await?;
    Ok(found.is_some())
}

/// Uses a token up. Of any number who try, one gets an answer.
pub(crate) async fn consume(
    db: &mut Db,
    token: &RegistrationToken,
    now: Timestamp,
) -> Result<Option<UsedToken>, StoreError> {
    let row: Option<Row> = query(
        "DELETE FROM registration_tokens WHERE hash = $1 AND expires_at > $2
         RETURNING host_id, cidr, arch",
    )
    .bind(token.hash())
    .bind(millis(now))
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let cidr = row
        .cidr
        .map(TryInto::try_into)
        .transpose()
        .map_err(StoreError::unreadable)?;
    let binding = TokenBinding {
        cidr,
        arch: row.arch,
    };
    Ok(Some(UsedToken {
        host: HostId::named(row.host_id),
        binding,
    }))
}

/// What a host says of itself when it registers.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// Absent: it is reached over a connection of its own.
    pub(crate) address: Option<&'a HostAddress>,
    pub(crate) arch: Option<&'a str>,
    pub(crate) cpu_cores: Option<u32>,
    pub(crate) memory_mb: Option<u64>,
    pub(crate) disk_gb: Option<u64>,
}

/// Brings a pending host online; `false` when it is not pending (any more).
pub(crate) async fn bring_online(
    db: &mut Db,
    host: &HostId,
    facts: &Facts<'_>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let done = query(
        "UPDATE hosts
         SET status = 'online', address = $2, arch = $3, cpu_cores = $4, memory_mb = $5,
             disk_gb = $6, last_heartbeat_at = $7, updated_at = $7
         WHERE id = $1 AND status = 'pending'",
    )
    .bind(host.as_str())
    .bind(facts.address.map_or("", HostAddress::as_str))
    .bind(facts.arch)
    .bind(facts.cpu_cores.map(i64::from))
    .bind(facts.memory_mb.map(number))
    .bind(facts.disk_gb.map(number))
    .bind(millis(now))
    .execute(&mut *db)
    .await?;
    census::touch(db, host).await?;
    events::of_host(db, host, Change::Updated).await?;
    revisions::bump(db, revisions::HOSTS).await?;
    Ok(done.rows_affected() == 1)
}

/// Forgets the tokens whose time is over.
pub(crate) async fn purge_expired(db: &mut Db, now: Timestamp) -> Result<u64, StoreError> {
    let done = query("DELETE FROM registration_tokens WHERE expires_at <= $1")
        .bind(millis(now))
        .execute(db)
        .await?;
    Ok(done.rows_affected())
}
