//! `hosts/watch` and `vms/watch`: every change of the hosts and VMs that the caller sees, in order.

use futures::StreamExt;
use futures::stream;
use hostler_operations::{Call, Outputs, Service, internal, subscription};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::errors::ReadError;
use crate::events::{Change, Event, Following, Kind};
use crate::fleet::Fleet;
use crate::ids::TeamId;
use crate::model::{Host, Vm};
use crate::reach::Reach;
use crate::scopes::{HOSTS_READ, VMS_READ};

pub(super) fn of_hosts(hosts: Service<Fleet>) -> Service<Fleet> {
    hosts.with(
        subscription("watch", watch_hosts)
            .requires(HOSTS_READ)
            .resumed_by("seq"),
    )
}

pub(super) fn of_vms(vms: Service<Fleet>) -> Service<Fleet> {
    vms.with(
        subscription("watch", watch_vms)
            .requires(VMS_READ)
            .resumed_by("seq"),
    )
}

/// Tells of every change of a host that the caller sees, from now on, or from where a stream was
/// left (`Last-Event-ID`, or `after`). When some of it is no longer known, the first event is a
/// `gap`, after which hosts are to be listed anew.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WatchHosts {
    /// The number of the event after which to begin; absent: with the next one that happens.
    #[serde(default)]
    after: Option<u64>,
    /// Only those of this team.
    #[serde(default)]
    team_id: Option<TeamId>,
}

/// Something that happened to a host.
#[derive(Debug, Serialize, JsonSchema)]
struct HostEvent {
    /// Numbers the events: greater is later. Those that the caller does not see have numbers too.
    seq: u64,
    /// When it happened.
    at: Timestamp,
    /// What happened.
    change: Change,
    /// What the host is since then; absent for a gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<Host>,
}

/// Tells of every change of a VM that the caller sees, from now on, or from where a stream was left
/// (`Last-Event-ID`, or `after`). When some of it is no longer known, the first event is a `gap`,
/// after which VMs are to be listed anew.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WatchVms {
    /// The number of the event after which to begin; absent: with the next one that happens.
    #[serde(default)]
    after: Option<u64>,
    /// Only those of this team.
    #[serde(default)]
    team_id: Option<TeamId>,
}

/// Something that happened to a VM.
#[derive(Debug, Serialize, JsonSchema)]
struct VmEvent {
    /// Numbers the events: greater is later. Those that the caller does not see have numbers too.
    seq: u64,
    /// When it happened.
    at: Timestamp,
    /// What happened.
    change: Change,
    /// What the VM is since then; absent for a gap.
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<Vm>,
}

/// An event as it is told, with the thing that it is about.
trait Told: Send + 'static {
    const KIND: Kind;
    type Thing: DeserializeOwned;

    fn of(seq: u64, at: Timestamp, change: Change, thing: Option<Self::Thing>) -> Self;
}

impl Told for HostEvent {
    const KIND: Kind = Kind::Host;
    type Thing = Host;

    fn of(seq: u64, at: Timestamp, change: Change, host: Option<Host>) -> Self {
        Self {
            seq,
            at,
            change,
            host,
        }
    }
}

impl Told for VmEvent {
    const KIND: Kind = Kind::Vm;
    type Thing = Vm;

    fn of(seq: u64, at: Timestamp, change: Change, vm: Option<Vm>) -> Self {
        Self {
            seq,
            at,
            change,
            vm,
        }
    }
}

async fn watch_hosts(
    fleet: &Fleet,
    call: Call,
    input: WatchHosts,
) -> Result<Outputs<HostEvent, ReadError>, ReadError> {
    watch(fleet, &call, input.after, input.team_id).await
}

async fn watch_vms(
    fleet: &Fleet,
    call: Call,
    input: WatchVms,
) -> Result<Outputs<VmEvent, ReadError>, ReadError> {
    watch(fleet, &call, input.after, input.team_id).await
}

/// Where a watcher is, and what it sees.
struct Watcher {
    watch: crate::fleet::Watch,
    seen: i64,
    reach: Reach,
    team: Option<TeamId>,
}

async fn watch<T: Told>(
    fleet: &Fleet,
    call: &Call,
    after: Option<u64>,
    team: Option<TeamId>,
) -> Result<Outputs<T, ReadError>, ReadError> {
    let reach = Reach::of(call);
    let Ok(team) = reach.team(team) else {
        return Ok(stream::empty().boxed());
    };
    let watch = fleet.watch();
    let seen = match call.resume_after().or(after) {
        Some(seen) => i64::try_from(seen).unwrap_or(i64::MAX),
        None => watch.newest().await?,
    };
    let watcher = Watcher {
        watch,
        seen,
        reach,
        team,
    };
    let batches = stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        match watcher.next::<T>().await {
            Ok(Some(told)) => Some((told.into_iter().map(Ok).collect(), Some(watcher))),
            Ok(None) => None,
            Err(error) => Some((vec![Err(error)], None)),
        }
    });
    Ok(batches.flat_map(stream::iter).boxed())
}

impl Watcher {
    /// What happens next; `None` when the server stops.
    async fn next<T: Told>(&mut self) -> Result<Option<Vec<T>>, ReadError> {
        loop {
            // Before the look, so that what is committed during it wakes us.
            self.watch.mark();
            let Following { events, gap } = self.watch.after(self.seen).await?;
            let mut told = Vec::new();
            if let Some(up_to) = gap {
                self.seen = up_to;
                let number = up_to.unsigned_abs();
                told.push(T::of(number, crate::clock::now(), Change::Gap, None));
            }
            for event in &events {
                self.seen = event.seq;
                if event.kind == T::KIND && self.sees(event) {
                    let thing = serde_json::from_str(&event.document).map_err(unreadable)?;
                    let number = event.seq.unsigned_abs();
                    told.push(T::of(number, event.at, event.change, Some(thing)));
                }
            }
            if !told.is_empty() {
                return Ok(Some(told));
            }
            if events.is_empty() && !self.watch.wait().await {
                return Ok(None);
            }
        }
    }

    fn sees(&self, event: &Event) -> bool {
        let asked = self.team.is_none() || self.team == event.team;
        asked && self.reach.sees_team(event.team.as_ref())
    }
}

fn unreadable(error: serde_json::Error) -> ReadError {
    ReadError::Internal(internal(error))
}
