//! `audit/*`: who changed what, when, and from where. Lines name things of all teams, so they are the
//! platform's to read.

use hostler_operations::{Call, INVALID_INPUT, Method, Service, StatusCode, query, service};
use schemars::JsonSchema;
use serde::Deserialize;

use super::errors::read_errors;
use super::page::Page;
use crate::chain::Line;
use crate::fleet::Fleet;
use crate::reach::Reach;
use crate::scopes::AUDIT_READ;
use crate::store::audit;

pub(super) fn operations() -> Service<Fleet> {
    service("audit").with(query("list", list).requires(AUDIT_READ).rest(
        Method::GET,
        "/v1/audit",
        StatusCode::OK,
    ))
}

/// Lists the lines of the audit trail, oldest first. Without a filter they are a chain: each line's
/// `hash` is over the line and the hash before, and the numbers have no gaps. Only the
/// platform sees any.
#[derive(Debug, Deserialize, JsonSchema)]
struct ListAudit {
    /// Only what this one did: the id of a user or key, a host's SPIFFE ID, `server`.
    #[serde(default)]
    #[schemars(length(max = 2048))]
    subject: Option<String>,
    /// Only this kind of change, such as `host.create`.
    #[serde(default)]
    #[schemars(length(max = 128))]
    action: Option<String>,
    /// Only what was done to this.
    #[serde(default)]
    #[schemars(length(max = 2048))]
    object: Option<String>,
    #[serde(flatten)]
    page: Page,
}

read_errors! {
    /// Why no line is shown.
    enum ListAuditError {
        /// The cursor is none that an answer gave.
        BadCursor { cursor: String } = INVALID_INPUT,
            "{cursor:?} is no cursor of this list; leave it out to begin at the first line";
    }
}

async fn list(fleet: &Fleet, call: Call, input: ListAudit) -> Result<Vec<Line>, ListAuditError> {
    let after = match input.page.after() {
        "" => 0,
        cursor => cursor.parse().map_err(|_| ListAuditError::BadCursor {
            cursor: cursor.to_owned(),
        })?,
    };
    if !Reach::of(&call).is_platform() {
        return Ok(Vec::new());
    }
    let filter = audit::Filter {
        subject: input.subject,
        action: input.action,
        object: input.object,
        after,
        limit: input.page.fetch(),
    };
    let mut db = fleet.store.read().await?;
    let found = audit::list(&mut db, &filter).await?;
    Ok(input.page.cut_at(&call, found, |line| line.seq.to_string()))
}
