//! `hosts/heartbeat`: how a host says that it is there, and how its VMs are.
//!
//! Nearly all heartbeats change nothing but a time, and are noted many at a time
//! ([`beats`](crate::beats)). One that has news is a transaction of its own.

use std::sync::Arc;

use hostler_operations::{Call, Method, Service, StatusCode, mutation};
use schemars::JsonSchema;
use serde::Deserialize;

use super::enrolment::{HostSelfError, caller};
use crate::beats::{Beat, SETTLED_AFTER};
use crate::clock;
use crate::fleet::Fleet;
use crate::ids::HostId;
use crate::model::{HostAddress, HostStatus, VmState};
use crate::reach::calling_host;
use crate::reconcile;
use crate::scopes::HOST_SELF;
use crate::store::audit::{self, Actor};
use crate::store::{self, hosts, vms};

pub(super) fn operations(hosts: Service<Fleet>) -> Service<Fleet> {
    hosts.with(mutation("heartbeat", heartbeat).requires(HOST_SELF).rest(
        Method::POST,
        "/v1/hosts/{id}/heartbeat",
        StatusCode::NO_CONTENT,
    ))
}

/// Says that the calling host is there, and how its VMs are.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Heartbeat {
    /// The host's id.
    id: HostId,
    /// All VMs on the host; absent: nothing is said of them.
    #[serde(default)]
    #[schemars(length(max = 10_000))]
    vms: Option<Vec<VmReport>>,
    /// Where the host door is reached now, if that may have changed since the host registered.
    #[serde(default)]
    address: Option<HostAddress>,
    /// The host has no address (any more): it is reached over a connection of its own.
    #[serde(default)]
    reverse: bool,
    /// The host is about to leave.
    #[serde(default)]
    goodbye: bool,
}

/// A VM on a host, in a heartbeat.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct VmReport {
    /// Its name on the host.
    name: String,
    /// Its state.
    state: VmState,
}

async fn heartbeat(fleet: &Fleet, call: Call, input: Heartbeat) -> Result<(), HostSelfError> {
    if calling_host(&call) != Some(&input.id) {
        return Err(HostSelfError::Mismatch);
    }
    let reported = input.vms.map(|vms| {
        let pairs = vms.into_iter().map(|vm| (vm.name, vm.state));
        pairs.collect::<Vec<_>>()
    });
    let beat = Beat {
        actor: Actor::of(&call, clock::now()),
        host: input.id,
        address: match input.reverse {
            true => Some(String::new()),
            false => input.address.map(|address| address.as_str().to_owned()),
        },
        vms: reported,
    };
    let beat = Arc::new(beat);
    if !input.goodbye && fleet.beats.note(&fleet.store, &fleet.redis, &beat).await {
        return Ok(());
    }
    with_news(fleet, &call, &beat, input.goodbye).await
}

/// What a host has to say, and what follows from it, in one transaction.
async fn with_news(
    fleet: &Fleet,
    call: &Call,
    beat: &Beat,
    goodbye: bool,
) -> Result<(), HostSelfError> {
    let now = clock::now();
    let mut tx = fleet.store.begin().await?;
    let host = caller(&mut tx, call, &beat.host).await?;
    let status = match (goodbye, host.status) {
        (true, _) => HostStatus::Offline,
        (false, HostStatus::Draining) => HostStatus::Draining,
        (false, _) => HostStatus::Online,
    };
    hosts::heard_of(&mut tx, &host, status, now).await?;
    if status != host.status {
        let actor = Actor::of(call, now);
        audit::record(&mut tx, &actor, &format!("host.{status}"), &host.id).await?;
        tracing::info!(host = %host.id, from = %host.status, to = %status, "a host changed");
    }
    if let Some(address) = &beat.address
        && host.address.as_deref().unwrap_or_default() != address
    {
        hosts::set_address(&mut tx, &host.id, address, now).await?;
        audit::record(&mut tx, &Actor::of(call, now), "host.moved", &host.id).await?;
        tracing::info!(host = %host.id, %address, "a host has another address");
    }
    if let Some(reported) = &beat.vms {
        let known = vms::known_on(&mut tx, &[&host.id], now - SETTLED_AFTER).await?;
        let known: Vec<_> = known.into_iter().map(|(_, known)| known).collect();
        for change in reconcile::changes(&known, reported) {
            vms::set_state(&mut tx, &change.id, change.state, change.reason, now).await?;
        }
    }
    Ok(store::commit(tx).await?)
}
