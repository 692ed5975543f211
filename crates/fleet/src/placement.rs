//! Where a VM goes: a pure function from what is asked and what there is to a host, or to the
//! reasons why there is none.
//!
//! The policy is `least-loaded`: of the hosts on which the VM fits, the one whose scarcest resource
//! has the largest free fraction afterwards. It spreads the VMs, and it does so by what will run
//! out first: a host with much memory and few cores fills by its cores.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::ids::{HostId, TeamId};
use crate::model::{Host, HostStatus, HostType, Tag};

/// How many virtual CPUs may be promised for each core: guests rarely compute all at once, and
/// share fairly when they do. Memory and disk are never promised twice.
pub const CPU_OVERCOMMIT: u64 = 4;

/// Amounts of what VMs use up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Virtual CPUs.
    pub(crate) cpus: u64,
    pub(crate) memory_mb: u64,
    pub(crate) disk_mb: u64,
}

/// What a VM needs of its host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Demand {
    pub(crate) resources: Resources,
    /// The architecture that the host must have; absent: any.
    pub(crate) arch: Option<String>,
    /// Tags that the host must have, all of them.
    pub(crate) tags: BTreeSet<Tag>,
    /// Whose VM it is; absent: the platform's.
    pub(crate) team: Option<TeamId>,
    /// The host that the caller named.
    pub(crate) host: Option<HostId>,
}

/// A host, and what is reserved on it already.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) host: Host,
    pub(crate) reserved: Resources,
}

/// What kept a host from taking the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lack {
    NotOnline,
    Cordoned,
    Architecture,
    Tags,
    Size,
    Cpus,
    Memory,
    Disk,
}

impl Lack {
    fn says(self, one: bool) -> &'static str {
        match (self, one) {
            (Self::NotOnline, true) => "is not online",
            (Self::NotOnline, false) => "are not online",
            (Self::Cordoned, true) => "is cordoned",
            (Self::Cordoned, false) => "are cordoned",
            (Self::Architecture, true) => "has another architecture",
            (Self::Architecture, false) => "have another architecture",
            (Self::Tags, true) => "lacks a required tag",
            (Self::Tags, false) => "lack a required tag",
            (Self::Size, true) => "has not said how large it is",
            (Self::Size, false) => "have not said how large they are",
            (Self::Cpus, true) => "has too few free CPUs",
            (Self::Cpus, false) => "have too few free CPUs",
            (Self::Memory, true) => "has too little free memory",
            (Self::Memory, false) => "have too little free memory",
            (Self::Disk, true) => "has too little free disk",
            (Self::Disk, false) => "have too little free disk",
        }
    }
}

/// No host takes the VM: of how many, and what each lacked. A host may lack several things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoFit {
    pub(crate) hosts: usize,
    pub(crate) lacking: BTreeMap<Lack, usize>,
}

impl fmt::Display for NoFit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.hosts == 0 {
            return f.write_str(
                "there is no host for it yet: create one (hosts/create) and register a machine",
            );
        }
        let (hosts, s) = (self.hosts, if self.hosts == 1 { "" } else { "s" });
        write!(f, "it fits on none of {hosts} host{s}: ")?;
        for (n, (lack, count)) in self.lacking.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{count} {}", lack.says(*count == 1))?;
        }
        f.write_str("; free something, add a host, or ask for less")
    }
}

/// Chooses the host for a VM.
pub(crate) fn place<'a>(demand: &Demand, among: &'a [Candidate]) -> Result<&'a HostId, NoFit> {
    let mut no_fit = NoFit {
        hosts: 0,
        lacking: BTreeMap::new(),
    };
    let mut best: Option<(Freedom, &Candidate)> = None;
    for candidate in among
        .iter()
        .filter(|candidate| concerns(demand, &candidate.host))
    {
        no_fit.hosts += 1;
        match fit(demand, candidate) {
            Ok(freedom) => {
                // The order of ids decides between equals, so that equal questions have one answer.
                let better = best.is_none_or(|(other, other_candidate)| {
                    freedom
                        .cmp(&other)
                        .then_with(|| other_candidate.host.id.cmp(&candidate.host.id))
                        == Ordering::Greater
                });
                if better {
                    best = Some((freedom, candidate));
                }
            }
            Err(lacks) => {
                for lack in lacks {
                    *no_fit.lacking.entry(lack).or_default() += 1;
                }
            }
        }
    }
    best.map(|(_, candidate)| &candidate.host.id).ok_or(no_fit)
}

/// Whether a host is one for this VM at all. Those that are not are not even counted: nobody
/// learns how many hosts another team has.
fn concerns(demand: &Demand, host: &Host) -> bool {
    let serves = match host.kind {
        HostType::Regular => true,
        HostType::Byoc => host.team_id == demand.team,
    };
    serves
        && host.status != HostStatus::Pending
        && demand.host.as_ref().is_none_or(|named| *named == host.id)
}

/// The free fraction of a host's scarcest resource: `free / total`, compared exactly.
#[derive(Debug, Clone, Copy)]
struct Freedom {
    free: u64,
    total: u64,
}

impl Freedom {
    fn cmp(&self, other: &Self) -> Ordering {
        let (here, there) = (
            u128::from(self.free) * u128::from(other.total),
            u128::from(other.free) * u128::from(self.total),
        );
        here.cmp(&there)
    }
}

fn fit(demand: &Demand, Candidate { host, reserved }: &Candidate) -> Result<Freedom, Vec<Lack>> {
    let unusable = if host.status != HostStatus::Online {
        Some(Lack::NotOnline)
    } else if host.cordoned {
        Some(Lack::Cordoned)
    } else if demand.arch.is_some() && demand.arch != host.arch {
        Some(Lack::Architecture)
    } else if !demand.tags.iter().all(|tag| host.tags.contains(tag)) {
        Some(Lack::Tags)
    } else {
        None
    };
    if let Some(lack) = unusable {
        return Err(vec![lack]);
    }
    let Some(total) = capacity(host) else {
        return Err(vec![Lack::Size]);
    };
    let wanted = demand.resources;
    let after = [
        (Lack::Cpus, total.cpus, reserved.cpus, wanted.cpus),
        (
            Lack::Memory,
            total.memory_mb,
            reserved.memory_mb,
            wanted.memory_mb,
        ),
        (Lack::Disk, total.disk_mb, reserved.disk_mb, wanted.disk_mb),
    ]
    .map(|(lack, total, reserved, wanted)| {
        let used = reserved.saturating_add(wanted);
        total
            .checked_sub(used)
            .map(|free| Freedom { free, total })
            .ok_or(lack)
    });
    let lacks: Vec<Lack> = after
        .iter()
        .filter_map(|one| one.as_ref().err().copied())
        .collect();
    let scarcest = after.into_iter().flatten().min_by(Freedom::cmp);
    match scarcest {
        Some(freedom) if lacks.is_empty() => Ok(freedom),
        _ => Err(lacks),
    }
}

/// How much a host has in all, as far as VMs are concerned.
fn capacity(host: &Host) -> Option<Resources> {
    Some(Resources {
        cpus: u64::from(host.cpu_cores?) * CPU_OVERCOMMIT,
        memory_mb: host.memory_mb?,
        disk_mb: host.disk_gb?.saturating_mul(1024),
    })
}

#[cfg(test)]
mod tests;
