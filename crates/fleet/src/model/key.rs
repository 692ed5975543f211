//! An API key as its managers see it: everything but the key.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{KeyId, TeamId, UserId};
use crate::scopes::KeyScope;

/// An API key without its secret, which was shown when it was made and is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiKeyInfo {
    /// `key-` and 25 base-36 digits; appears in logs as the subject of what the key did.
    pub id: KeyId,
    /// What it is for, in its maker's words.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<KeyScope>,
    /// The team to whose things it is confined; absent: a key of the platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team_id: Option<TeamId>,
    /// The user whose it is, and with whom it ends; absent: the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// Who made it.
    pub created_by: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was last used, to the hour; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}
