//! Where a VM goes: a pure function from what is asked and what there is to a host, or to the
//! reasons why there is none.
//!
//! Of the hosts on which the VM fits, those come first whose zone, and then which themselves, have
//! fewest VMs of its group; of these, those with most of the tags that it would like; and of these
//! the policy chooses. `least-loaded` takes the host whose scarcest resource has the largest free
//! fraction afterwards: it spreads the VMs by what will run out first, so that a host with much
//! memory and few cores fills by its cores. `round-robin` takes the one whose turn was longest ago.

pub(crate) mod census;
pub(crate) mod explain;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use crate::ids::{HostId, TeamId};
use crate::model::{HostStatus, HostType, Tag};
use crate::words::words;

/// How many virtual CPUs may be promised for each core: guests rarely compute all at once, and
/// share fairly when they do. Memory and disk are never promised twice.
pub const CPU_OVERCOMMIT: u64 = 4;

words! {
    /// How one of several hosts is chosen on which a VM fits equally well otherwise.
    pub enum Policy {
        /// The host whose scarcest resource has the largest free fraction afterwards.
        LeastLoaded = "least-loaded",
        /// The host on which a VM was placed longest ago.
        RoundRobin = "round-robin",
    }
}

/// Amounts of what VMs use up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    /// Virtual CPUs.
    pub(crate) cpus: u64,
    pub(crate) memory_mb: u64,
    pub(crate) disk_mb: u64,
}

/// What a VM needs of its host.
#[derive(Debug, Clone)]
pub(crate) struct Demand {
    pub(crate) resources: Resources,
    /// The architecture that the host must have; absent: any.
    pub(crate) arch: Option<String>,
    /// Tags that the host must have, all of them.
    pub(crate) tags: BTreeSet<Tag>,
    /// Tags that the host had better have.
    pub(crate) preferred: BTreeSet<Tag>,
    /// How many VMs of its group are on which hosts.
    pub(crate) group: HashMap<HostId, usize>,
    /// Whose VM it is; absent: the platform's.
    pub(crate) team: Option<TeamId>,
    /// The host that the caller named.
    pub(crate) host: Option<HostId>,
    pub(crate) policy: Policy,
}

/// A host, as far as placement is concerned.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) id: HostId,
    pub(crate) kind: HostType,
    pub(crate) team: Option<TeamId>,
    pub(crate) zone: Option<String>,
    pub(crate) arch: Option<String>,
    pub(crate) status: HostStatus,
    pub(crate) cordoned: bool,
    pub(crate) tags: Vec<Tag>,
    /// What it has in all; absent when it has not said.
    pub(crate) total: Option<Resources>,
    /// What is reserved on it already.
    pub(crate) reserved: Resources,
    /// When it was last chosen: greater is later.
    pub(crate) last_placed: i64,
}

words! {
    /// What keeps a host from taking a VM.
    pub(crate) enum Lack {
        /// It is not online.
        NotOnline = "online",
        /// It is closed to new VMs.
        Cordoned = "uncordoned",
        /// It has another architecture.
        Architecture = "arch",
        /// It lacks a tag that is required.
        Tags = "tags",
        /// It has not said how large it is.
        Size = "size",
        /// It has too few free CPUs.
        Cpus = "cpus",
        /// It has too little free memory.
        Memory = "memory",
        /// It has too little free disk.
        Disk = "disk",
    }
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

/// What a host lacks for a VM, without the cost of a list: ten thousand hosts are asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lacks(u8);

impl Lacks {
    fn add(&mut self, lack: Lack) {
        self.0 |= 1 << lack as u8;
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = Lack> {
        let has = move |lack: &Lack| self.0 & (1 << *lack as u8) != 0;
        Lack::ALL.iter().copied().filter(has)
    }

    /// Those for which the host is counted: why it is of no use at all, or else everything of
    /// which it has too little.
    fn counted(self) -> impl Iterator<Item = Lack> {
        let unusable = self.iter().find(|lack| *lack < Lack::Cpus);
        let too_little = self.iter().filter(move |_| unusable.is_none());
        unusable.into_iter().chain(too_little)
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

/// The host for a VM, and of how many.
#[derive(Debug)]
pub(crate) struct Chosen<'a> {
    pub(crate) host: &'a Candidate,
    /// How many hosts came into question, and on how many of these it fits.
    pub(crate) hosts: usize,
    pub(crate) fitting: usize,
}

/// Chooses the host for a VM.
pub(crate) fn place<'a>(demand: &Demand, among: &'a [Candidate]) -> Result<Chosen<'a>, NoFit> {
    let zones = zones(demand, among);
    let (mut hosts, mut fitting) = (0, 0);
    let mut counts = [0_usize; Lack::ALL.len()];
    let mut best: Option<(Rank, &Candidate)> = None;
    for candidate in among.iter().filter(|host| concerns(demand, host)) {
        hosts += 1;
        let (lacks, after) = weigh(demand, candidate);
        let Some(after) = after.filter(|_| lacks.is_empty()) else {
            for lack in lacks.counted() {
                counts[lack as usize] += 1;
            }
            continue;
        };
        fitting += 1;
        let rank = Rank::of(demand, candidate, after, &zones);
        // The order of ids decides between equals, so that equal questions have one answer.
        let better = best.as_ref().is_none_or(|(other, holder)| {
            let order = rank.cmp(other, demand.policy);
            order.then_with(|| holder.id.cmp(&candidate.id)) == Ordering::Greater
        });
        if better {
            best = Some((rank, candidate));
        }
    }
    match best {
        Some((_, host)) => Ok(Chosen {
            host,
            hosts,
            fitting,
        }),
        None => {
            let counted = Lack::ALL.iter().map(|lack| (*lack, counts[*lack as usize]));
            Err(NoFit {
                hosts,
                lacking: counted.filter(|(_, count)| *count > 0).collect(),
            })
        }
    }
}

/// How many VMs of the group are in each zone. Hosts whose zone is not known are one zone.
fn zones<'a>(demand: &Demand, among: &'a [Candidate]) -> HashMap<Option<&'a str>, usize> {
    let mut zones = HashMap::new();
    if demand.group.is_empty() {
        return zones;
    }
    for candidate in among {
        if let Some(count) = demand.group.get(&candidate.id) {
            *zones.entry(candidate.zone.as_deref()).or_default() += count;
        }
    }
    zones
}

/// Whether a host is one for this VM at all. Those that are not are not even counted: nobody
/// learns how many hosts another team has.
pub(crate) fn concerns(demand: &Demand, host: &Candidate) -> bool {
    let serves = match host.kind {
        HostType::Regular => true,
        HostType::Byoc => host.team == demand.team,
    };
    serves
        && host.status != HostStatus::Pending
        && demand.host.as_ref().is_none_or(|named| *named == host.id)
}

/// How well a host suits, compared with others on which the VM fits too.
struct Rank {
    in_zone: usize,
    on_host: usize,
    liked: usize,
    after: Freedom,
    last_placed: i64,
}

impl Rank {
    fn of(
        demand: &Demand,
        host: &Candidate,
        after: Freedom,
        zones: &HashMap<Option<&str>, usize>,
    ) -> Self {
        let count = |tag: &&Tag| host.tags.contains(tag);
        let of_group = |count: Option<&usize>| count.copied().unwrap_or(0);
        Self {
            in_zone: match zones.is_empty() {
                true => 0,
                false => of_group(zones.get(&host.zone.as_deref())),
            },
            on_host: match zones.is_empty() {
                true => 0,
                false => of_group(demand.group.get(&host.id)),
            },
            liked: demand.preferred.iter().filter(count).count(),
            after,
            last_placed: host.last_placed,
        }
    }

    /// Which suits better: the greater.
    fn cmp(&self, other: &Self, policy: Policy) -> Ordering {
        let fewer = |ours: usize, theirs: usize| theirs.cmp(&ours);
        fewer(self.in_zone, other.in_zone)
            .then_with(|| fewer(self.on_host, other.on_host))
            .then_with(|| self.liked.cmp(&other.liked))
            .then_with(|| match policy {
                Policy::LeastLoaded => self.after.cmp(&other.after),
                Policy::RoundRobin => other.last_placed.cmp(&self.last_placed),
            })
    }
}

/// The free fraction of a host's scarcest resource: `free / total`, compared exactly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Freedom {
    pub(crate) free: u64,
    pub(crate) total: u64,
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

/// Everything that a host lacks for a VM, and how free its scarcest resource would be.
pub(crate) fn weigh(demand: &Demand, host: &Candidate) -> (Lacks, Option<Freedom>) {
    let mut lacks = Lacks::default();
    if host.status != HostStatus::Online {
        lacks.add(Lack::NotOnline);
    }
    if host.cordoned {
        lacks.add(Lack::Cordoned);
    }
    if demand.arch.is_some() && demand.arch != host.arch {
        lacks.add(Lack::Architecture);
    }
    if !demand.tags.iter().all(|tag| host.tags.contains(tag)) {
        lacks.add(Lack::Tags);
    }
    let Some(total) = host.total else {
        lacks.add(Lack::Size);
        return (lacks, None);
    };
    let (reserved, wanted) = (host.reserved, demand.resources);
    let mut scarcest: Option<Freedom> = None;
    for (lack, total, reserved, wanted) in [
        (Lack::Cpus, total.cpus, reserved.cpus, wanted.cpus),
        (
            Lack::Memory,
            total.memory_mb,
            reserved.memory_mb,
            wanted.memory_mb,
        ),
        (Lack::Disk, total.disk_mb, reserved.disk_mb, wanted.disk_mb),
    ] {
        let Some(free) = total.checked_sub(reserved.saturating_add(wanted)) else {
            lacks.add(lack);
            continue;
        };
        let freedom = Freedom { free, total };
        if scarcest.is_none_or(|other| freedom.cmp(&other) == Ordering::Less) {
            scarcest = Some(freedom);
        }
    }
    (lacks, scarcest)
}

#[cfg(test)]
mod tests;
