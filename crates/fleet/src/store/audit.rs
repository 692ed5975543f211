//! The audit trail: a line for every change, written in the transaction of the change itself, so
//! that there is never one without the other.

use std::net::SocketAddr;

use hostler_operations::{Call, Identity, RequestId};
use jiff::Timestamp;

use super::{Db, StoreError, millis, query};

/// Who makes a change, when, and from where.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) subject: String,
    pub(crate) request_id: RequestId,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) now: Timestamp,
}

impl Actor {
    /// The caller of an operation.
    pub(crate) fn of(call: &Call, now: Timestamp) -> Self {
        Self {
            subject: call
                .identity()
                .map_or("nobody", Identity::subject)
                .to_owned(),
            request_id: call.request_id().clone(),
            remote: call.remote_addr(),
            now,
        }
    }

    /// The server itself.
    pub(crate) fn server(now: Timestamp) -> Self {
        Self {
            subject: "server".to_owned(),
            request_id: RequestId::generate(),
            remote: None,
            now,
        }
    }
}

/// Adds a line: `action` was done to `object`.
pub(crate) async fn record(
    db: &mut Db,
    actor: &Actor,
    action: &str,
    object: impl ToString,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO audit (id, at, subject, action, object, request_id, remote)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(uuid::Uuid::now_v7().to_string())
    .bind(millis(actor.now))
    .bind(&actor.subject)
    .bind(action)
    .bind(object.to_string())
    .bind(actor.request_id.as_str())
    .bind(actor.remote.map(|remote| remote.ip().to_string()))
    .execute(db)
    .await?;
    Ok(())
}
