//! What people are told of the network.

use std::net::Ipv4Addr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::subnet::Subnet;
use super::user::UserMode;
use crate::config::NetworkChoice;

/// How the host's VMs are tied to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkStatus {
    /// How VMs that start now are.
    pub mode: NetworkChoice,
    /// What guests reach of the host; absent on a bridge, where they reach nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_mode: Option<UserModeStatus>,
    /// The bridge; absent in user mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeStatus>,
}

/// What guests in user mode reach of their host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UserModeStatus {
    /// Whether they are kept from its services, its other VMs' ports and its cloud's metadata.
    pub kept_from_host: bool,
    /// How, or why not and what to do.
    pub reason: String,
}

impl UserModeStatus {
    pub(super) fn of(user: &Result<Arc<UserMode>, String>) -> Self {
        let reason = match user {
            Ok(user) => format!(
                "each guest's process is user {}, whose packets to this host, to its other VMs' \
                 ports and to its cloud's metadata are dropped",
                user.user()
            ),
            Err(reason) => format!(
                "guests reach what listens on this host's loopback address, its other VMs' ports \
                 and, in a cloud, the metadata with the machine's credentials, because {reason}; \
                 let the daemon be root on a host with nftables, or run only guests here that you \
                 trust"
            ),
        };
        Self {
            kept_from_host: user.is_ok(),
            reason,
        }
    }
}

/// A host's bridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BridgeStatus {
    /// The interface, which is there while VMs run on it.
    pub name: String,
    /// The range of its addresses.
    pub subnet: Subnet,
    /// The host's own address on it, at which guests also find their name server.
    pub gateway: Ipv4Addr,
    /// Addresses that VMs have, running or not.
    pub leases_used: u64,
    /// Addresses that VMs can have.
    pub leases_total: u64,
}
