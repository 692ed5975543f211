//! Where a VM is wanted, and `vms/place`: where it would go, without creating it.

use std::collections::{BTreeMap, BTreeSet};

use hostler_operations::{Call, FORBIDDEN, NOT_FOUND};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::ids::{HostId, TeamId};
use crate::model::{HostType, Tag};
use crate::operations::errors::read_errors;
use crate::placement::explain::{self, Change, Shortage};
use crate::placement::{self, Candidate, Demand, Lack, Policy, Resources, concerns};
use crate::reach::Reach;
use crate::store::{Db, StoreError, census};

/// Where a VM is wanted.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(super) struct Wanted {
    /// Whose VM it is to be; a team's key needs not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) team_id: Option<TeamId>,
    /// The host to put it on; absent: one on which it fits is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) host: Option<HostId>,
    /// The architecture (`x86_64`, `aarch64`) that the host must have; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    arch: Option<String>,
    /// Tags that the host must have, all of them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = 64))]
    required_tags: BTreeSet<Tag>,
    /// Tags that the host had better have, as many of them as possible.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    #[schemars(length(max = 64))]
    preferred_tags: BTreeSet<Tag>,
    /// A word that VMs share which are to be apart: it goes to the zone, and there to the host,
    /// that has fewest VMs of its team with the same word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub(super) spread_group: Option<String>,
    /// How the host is chosen of those that are equally good otherwise; absent: `least-loaded`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    policy: Option<Policy>,
}

impl Wanted {
    /// What that means for a VM of this team and size.
    pub(super) async fn demand(
        &self,
        db: &mut Db,
        team: Option<TeamId>,
        resources: Resources,
    ) -> Result<Demand, StoreError> {
        let group = match &self.spread_group {
            Some(group) => census::group(db, team.as_ref(), group).await?,
            None => Vec::new(),
        };
        Ok(Demand {
            resources,
            arch: self.arch.clone(),
            tags: self.required_tags.clone(),
            preferred: self.preferred_tags.clone(),
            group: group.into_iter().collect(),
            team,
            host: self.host.clone(),
            policy: self.policy.unwrap_or(Policy::LeastLoaded),
        })
    }
}

/// Says where a VM would go, and why, or what would have to change for it to fit. Nothing is
/// created or reserved.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct PlaceVm {
    #[serde(flatten)]
    place: Wanted,
    /// Virtual CPUs, 1 to 32.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 32))]
    cpus: u64,
    /// Memory in MiB, 128 to 65536.
    #[serde(default = "memory_mb")]
    #[schemars(range(min = 128, max = 65536))]
    memory_mb: u64,
    /// Size of the root disk in MiB, 256 to 1048576.
    #[serde(default = "disk_size_mb")]
    #[schemars(range(min = 256, max = 1_048_576))]
    disk_size_mb: u64,
    /// How many hosts to tell of, 0 to 1000.
    #[serde(default = "twenty")]
    #[schemars(range(max = 1000))]
    limit: usize,
}

fn one() -> u64 {
    1
}

fn memory_mb() -> u64 {
    512
}

fn disk_size_mb() -> u64 {
    1024
}

fn twenty() -> usize {
    20
}

/// Where a VM would go.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Placed {
    /// The host; absent when it fits nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<HostId>,
    /// Why, or why not.
    why: String,
    /// How many hosts there are for it at all.
    considered: usize,
    /// On how many of these it fits.
    fitting: usize,
    /// What the hosts lack on which it does not, and how many lack it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    lacking: BTreeMap<Lack, usize>,
    /// The least that would have to change for it to fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    smallest_change: Option<Change>,
    /// The other hosts that the caller sees, in the order of their creation, as many as asked for.
    others: Vec<OtherHost>,
}

/// A host on which the VM would not go.
#[derive(Debug, Serialize, JsonSchema)]
struct OtherHost {
    /// Its id.
    id: HostId,
    /// What it lacks; nothing when the VM fits there too.
    lacks: Vec<Shortage>,
}

read_errors! {
    /// Why nothing can be said.
    pub(super) enum PlaceError {
        /// There is no such team, or not for this caller.
        NoSuchTeam { team_id: TeamId } = NOT_FOUND, "there is no team {team_id}";
        /// Whoever calls may own no VM.
        NoOwner = FORBIDDEN, "these credentials cannot own a VM; use an API key";
        /// There is no such host, or not for this caller.
        NoSuchHost { id: HostId } = NOT_FOUND,
            "there is no host {id}; leave host out to have one chosen";
    }
}

pub(super) async fn place(fleet: &Fleet, call: Call, input: PlaceVm) -> Result<Placed, PlaceError> {
    let reach = Reach::of(&call);
    let Ok(team) = reach.team(input.place.team_id.clone()) else {
        return Err(match input.place.team_id {
            Some(team_id) => PlaceError::NoSuchTeam { team_id },
            None => PlaceError::NoOwner,
        });
    };
    let sees = |host: &Candidate| {
        reach.is_platform() || (host.kind == HostType::Byoc && reach.sees_team(host.team.as_ref()))
    };
    let resources = Resources {
        cpus: input.cpus,
        memory_mb: input.memory_mb,
        disk_mb: input.disk_size_mb,
    };
    let mut db = fleet.store.read().await?;
    let demand = input.place.demand(&mut db, team, resources).await?;
    let known = fleet.census.look(&mut db).await?;
    let hosts = known.hosts();
    if let Some(id) = &demand.host
        && !hosts.iter().any(|host| host.id == *id && sees(host))
    {
        return Err(PlaceError::NoSuchHost { id: id.clone() });
    }
    let mut placed = match placement::place(&demand, hosts) {
        Ok(chosen) => Placed {
            host: Some(chosen.host.id.clone()),
            why: explain::why(&demand, &chosen),
            considered: chosen.hosts,
            fitting: chosen.fitting,
            lacking: BTreeMap::new(),
            smallest_change: None,
            others: Vec::new(),
        },
        Err(none) => Placed {
            host: None,
            why: none.to_string(),
            considered: none.hosts,
            fitting: 0,
            lacking: none.lacking,
            smallest_change: explain::smallest_change(&demand, hosts, sees),
            others: Vec::new(),
        },
    };
    let mut others: Vec<&Candidate> = hosts
        .iter()
        .filter(|host| concerns(&demand, host) && sees(host))
        .filter(|host| placed.host.as_ref() != Some(&host.id))
        .collect();
    let limit = input.limit.min(others.len());
    if limit < others.len() {
        others.select_nth_unstable_by(limit, |one, other| one.id.cmp(&other.id));
        others.truncate(limit);
    }
    others.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    let told = others.into_iter().map(|host| OtherHost {
        id: host.id.clone(),
        lacks: explain::shortages(&demand, host),
    });
    placed.others = told.collect();
    Ok(placed)
}
