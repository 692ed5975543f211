//! The audit trail: a line for every change, written in the transaction of the change itself, so
//! that there is never one without the other. Transactions that write come one after another, so the
//! lines can be a [`chain`](crate::chain). The databases refuse to change or remove a line.

use std::net::SocketAddr;

use hostler_operations::{Call, Identity, RequestId};
use jiff::Timestamp;
use sqlx::FromRow;

use super::{Db, StoreError, millis, number, query, time};
use crate::chain::{Change, Head, Line, Outcome};

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

/// Adds a line: `action` was done to `object`. To be called in a transaction, because two lines that
/// follow the same one would break the chain.
pub(crate) async fn record(
    db: &mut Db,
    actor: &Actor,
    action: &str,
    object: impl ToString,
) -> Result<(), StoreError> {
    append(db, change(actor, action, object, Outcome::Done)).await
}

/// Adds a line that somebody tried this and was turned away.
pub(crate) async fn record_refusal(
    db: &mut Db,
    actor: &Actor,
    action: &str,
    object: impl ToString,
) -> Result<(), StoreError> {
    append(db, change(actor, action, object, Outcome::Refused)).await
}

fn change(actor: &Actor, action: &str, object: impl ToString, outcome: Outcome) -> Change {
    Change {
        at: actor.now,
        subject: actor.subject.clone(),
        action: action.to_owned(),
        object: object.to_string(),
        request_id: actor.request_id.as_str().to_owned(),
        remote: actor.remote.map(|remote| remote.ip().to_string()),
        outcome,
    }
}

async fn append(db: &mut Db, change: Change) -> Result<(), StoreError> {
    let newest: Option<(i64, String)> =
        query("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
            .fetch_optional(db)
            .await?;
    let head = match newest {
        Some((seq, hash)) => Head {
            seq: u64::try_from(seq).map_err(StoreError::unreadable)?,
            hash,
        },
        None => Head::empty(),
    };
    let Line { seq, change, hash } = head.next(change);
    query(
        "INSERT INTO audit (seq, at, subject, action, object, request_id, remote, outcome, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(number(seq))
    .bind(millis(change.at))
    .bind(change.subject)
    .bind(change.action)
    .bind(change.object)
    .bind(change.request_id)
    .bind(change.remote)
    .bind(change.outcome.as_str())
    .bind(hash)
    .execute(db)
    .await?;
    Ok(())
}

#[derive(FromRow)]
struct ChangeRow {
    at: i64,
    subject: String,
    action: String,
    object: String,
    request_id: String,
    remote: Option<String>,
    outcome: String,
}

impl TryFrom<ChangeRow> for Change {
    type Error = StoreError;

    fn try_from(row: ChangeRow) -> Result<Self, StoreError> {
        Ok(Self {
            at: time(row.at)?,
            subject: row.subject,
            action: row.action,
            object: row.object,
            request_id: row.request_id,
            remote: row.remote,
            outcome: Outcome::parse(&row.outcome).map_err(StoreError::unreadable)?,
        })
    }
}

#[derive(FromRow)]
struct Row {
    seq: i64,
    #[sqlx(flatten)]
    change: ChangeRow,
    hash: String,
}

impl TryFrom<Row> for Line {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            seq: u64::try_from(row.seq).map_err(StoreError::unreadable)?,
            change: row.change.try_into()?,
            hash: row.hash,
        })
    }
}

/// Which lines are wanted.
pub(crate) struct Filter {
    pub(crate) subject: Option<String>,
    pub(crate) action: Option<String>,
    pub(crate) object: Option<String>,
    /// The number after which they begin.
    pub(crate) after: i64,
    pub(crate) limit: u32,
}

/// Lines, in the order of their writing.
pub(crate) async fn list(db: &mut Db, filter: &Filter) -> Result<Vec<Line>, StoreError> {
    let rows: Vec<Row> = query(
        "SELECT seq, at, subject, action, object, request_id, remote, outcome, hash FROM audit
         WHERE seq > $1
             AND (CAST($2 AS TEXT) IS NULL OR subject = $2)
             AND (CAST($3 AS TEXT) IS NULL OR action = $3)
             AND (CAST($4 AS TEXT) IS NULL OR object = $4)
         ORDER BY seq LIMIT $5",
    )
    .bind(filter.after)
    .bind(&filter.subject)
    .bind(&filter.action)
    .bind(&filter.object)
    .bind(i64::from(filter.limit))
    .fetch_all(db)
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

#[derive(FromRow)]
struct Unchained {
    id: String,
    #[sqlx(flatten)]
    change: ChangeRow,
}

/// Puts lines into the chain that were written before there was one, oldest first; says whether
/// there may be more.
pub(crate) async fn chain_old_lines(db: &mut Db) -> Result<bool, StoreError> {
    const AT_ONCE: i64 = 500;
    let rows: Vec<Unchained> = query(
        "SELECT id, at, subject, action, object, request_id, remote, 'done' AS outcome
         FROM audit_unchained
         ORDER BY id LIMIT $1",
    )
    .bind(AT_ONCE)
    .fetch_all(db)
    .await?;
    let Some(last) = rows.last().map(|row| row.id.clone()) else {
        return Ok(false);
    };
    for row in rows {
        append(db, row.change.try_into()?).await?;
    }
    query("DELETE FROM audit_unchained WHERE id <= $1")
        .bind(last)
        .execute(db)
        .await?;
    Ok(true)
}
