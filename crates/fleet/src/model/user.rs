//! A user: somebody who logs in with a name and a password; and what users are in teams.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{TeamId, UserId};
use crate::model::UserName;
use crate::words::words;

words! {
    /// What a user is in a team. Each may do what the next may.
    pub enum Role {
        /// Makes and unmakes owners too. A team that has one keeps one.
        Owner = "owner",
        /// Manages the team's hosts, keys and members too.
        Admin = "admin",
        /// Works with the team's VMs, and sees its hosts and images.
        Member = "member",
    }
}

/// Somebody who logs in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    /// `user-` and 25 base-36 digits; appears in the audit trail as the subject of what they did.
    pub id: UserId,
    /// By which they log in.
    pub name: UserName,
    /// Whether they run the platform, and may do everything.
    pub is_admin: bool,
    /// Who created them.
    pub created_by: String,
    /// When they were created.
    pub created_at: Timestamp,
    /// When anything of them but their teams last changed.
    pub updated_at: Timestamp,
}

/// A user in a team.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Member {
    /// The user.
    pub user_id: UserId,
    /// The user's name.
    pub name: UserName,
    /// What they are in it.
    pub role: Role,
    /// Since when they are in it.
    pub created_at: Timestamp,
}

/// A team that a user is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Membership {
    /// The team.
    pub team_id: TeamId,
    /// The team's name.
    pub name: String,
    /// What the user is in it.
    pub role: Role,
}
