//! A team: those who share VMs, hosts of their own, and keys.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::TeamId;

/// A team.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Team {
    /// `team-` and 25 base-36 digits.
    pub id: TeamId,
    /// What it is called; unique.
    pub name: String,
    /// Whether it may bring hosts of its own.
    pub is_byoc: bool,
    /// When it was created.
    pub created_at: Timestamp,
}
