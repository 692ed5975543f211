//! A registration entry: which process on which hosts has which SPIFFE ID.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{EntryId, HostId};
use crate::model::{Selector, Tag};

/// A registration entry. A process on one of its hosts that matches all of its selectors has its
/// SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Entry {
    /// `entry-` and 25 base-36 digits.
    pub id: EntryId,
    /// Who a matching process is, `spiffe://DOMAIN/PATH`.
    pub spiffe_id: String,
    /// What a process must match, all of it, in alphabetical order.
    pub selectors: Vec<Selector>,
    /// The one host on which it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostId>,
    /// The tag of the regular hosts on which it holds. With neither host nor tag it holds on every
    /// regular host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// By what a process that has several identities tells them apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// For how long its X.509-SVIDs are valid, in seconds; absent: as long as the authority's
    /// usually are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_secs: Option<u32>,
    /// Who created it.
    pub created_by: String,
    /// When it was created.
    pub created_at: Timestamp,
}
