//! `status/get`: the fleet at a glance.

use std::collections::BTreeMap;

use hostler_operations::{Call, Method, Service, StatusCode, query, service};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::ReadError;
use crate::fleet::Fleet;
use crate::model::{HostStatus, VmState};
use crate::reach::Reach;
use crate::scopes::HOSTS_READ;
use crate::store::{hosts, vms};

pub(super) fn operations() -> Service<Fleet> {
    service("status").with(query("get", get).requires(HOSTS_READ).rest(
        Method::GET,
        "/v1/status",
        StatusCode::OK,
    ))
}

/// Shows the version of the control plane and counts hosts and VMs. A team's key counts its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetStatus {}

/// The fleet at a glance.
#[derive(Debug, Serialize, JsonSchema)]
struct Status {
    /// The control plane's version.
    version: &'static str,
    /// How many hosts there are, by status.
    hosts: BTreeMap<HostStatus, u64>,
    /// How many VMs there are, by state.
    vms: BTreeMap<VmState, u64>,
}

async fn get(fleet: &Fleet, call: Call, _: GetStatus) -> Result<Status, ReadError> {
    let version = env!("CARGO_PKG_VERSION");
    let Ok(team) = Reach::of(&call).team(None) else {
        return Ok(Status {
            version,
            hosts: BTreeMap::new(),
            vms: BTreeMap::new(),
        });
    };
    let mut db = fleet.store.read().await?;
    let hosts = hosts::count_by_status(&mut db, team.as_ref())
        .await?
        .into_iter()
        .collect();
    let vms = vms::count_by_state(&mut db, team.as_ref())
        .await?
        .into_iter()
        .collect();
    Ok(Status {
        version,
        hosts,
        vms,
    })
}
