//! What people are told of the network.

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::subnet::Subnet;
use crate::config::NetworkChoice;

/// How the host's VMs are tied to a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkStatus {
    /// How VMs that start now are.
    pub mode: NetworkChoice,
    /// The bridge; absent in user mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeStatus>,
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
