//! Why a VM goes where it goes, what the other hosts lack, and the least that would have to change
//! for it to fit.
//!
//! Changes are weighed by what they cost somebody: opening a host is less than another tag, a tag
//! less than another architecture, and any of these less than a machine that has to come back.
//! Asking for less costs the fraction that would have to be given up. The host with the smallest sum
//! is the one that is named.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Candidate, Chosen, Demand, Lack, Policy, Resources, concerns, weigh};
use crate::ids::HostId;

const UNCORDON: f64 = 0.1;
const TAG: f64 = 0.2;
const ASK_FOR_LESS: f64 = 0.2;
const ARCHITECTURE: f64 = 0.4;
const SIZE: f64 = 2.0;
const COME_BACK: f64 = 3.0;

/// The least that a VM can be asked for with: CPUs, MiB of memory and of disk.
const LEAST: Resources = Resources {
    cpus: 1,
    memory_mb: 128,
    disk_mb: 256,
};

/// Something that a host lacks for a VM.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Shortage {
    /// What.
    pub(crate) what: Lack,
    /// How much of it the VM needs: CPUs, or MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wanted: Option<u64>,
    /// How much of it is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) free: Option<u64>,
}

/// What would have to change for a VM to fit.
#[derive(Debug, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Change {
    /// On which host it would then be; absent when the caller does not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<HostId>,
    /// Everything that has to be done.
    pub(crate) steps: Vec<String>,
}

/// Why this host was chosen, for people.
pub(crate) fn why(demand: &Demand, chosen: &Chosen<'_>) -> String {
    let Chosen { hosts, fitting, .. } = chosen;
    let s = if *hosts == 1 { "" } else { "s" };
    let mut said = format!("it fits on {fitting} of {hosts} host{s}");
    if *fitting < 2 {
        return said;
    }
    if !demand.group.is_empty() {
        said.push_str("; fewest VMs of its group are in this one's zone and on it");
    }
    let liked = |tag: &&crate::model::Tag| chosen.host.tags.contains(tag);
    let (has, of) = (
        demand.preferred.iter().filter(liked).count(),
        demand.preferred.len(),
    );
    if of > 0 {
        said.push_str(&format!("; this one has {has} of {of} preferred tags"));
    }
    match (demand.policy, weigh(demand, chosen.host).1) {
        (Policy::RoundRobin, _) => said.push_str("; it was this one's turn"),
        (Policy::LeastLoaded, Some(after)) => said.push_str(&format!(
            "; this one's scarcest resource stays freest, {} %",
            u128::from(after.free) * 100 / u128::from(after.total.max(1)),
        )),
        (Policy::LeastLoaded, None) => {}
    }
    said
}

/// Everything that a host lacks for a VM.
pub(crate) fn shortages(demand: &Demand, host: &Candidate) -> Vec<Shortage> {
    let (lacks, _) = weigh(demand, host);
    let shortage = |what: Lack| {
        let amounts = amounts(what, demand, host);
        Shortage {
            what,
            wanted: amounts.map(|(wanted, _)| wanted),
            free: amounts.map(|(_, free)| free),
        }
    };
    lacks.iter().map(shortage).collect()
}

/// How much the VM wants and the host has free of something that can be counted.
fn amounts(what: Lack, demand: &Demand, host: &Candidate) -> Option<(u64, u64)> {
    let (total, reserved, wanted) = (host.total?, host.reserved, demand.resources);
    Some(match what {
        Lack::Cpus => (wanted.cpus, total.cpus.saturating_sub(reserved.cpus)),
        Lack::Memory => (
            wanted.memory_mb,
            total.memory_mb.saturating_sub(reserved.memory_mb),
        ),
        Lack::Disk => (
            wanted.disk_mb,
            total.disk_mb.saturating_sub(reserved.disk_mb),
        ),
        _ => return None,
    })
}

/// The least that would have to change. `sees` says whether the caller may know of a host.
pub(crate) fn smallest_change(
    demand: &Demand,
    among: &[Candidate],
    sees: impl Fn(&Candidate) -> bool,
) -> Option<Change> {
    let concerned = among.iter().filter(|host| concerns(demand, host));
    let weighed = concerned.filter_map(|host| Some((cost(demand, host)?, host)));
    let (_, host) = weighed.min_by(|(one, here), (other, there)| {
        one.total_cmp(other).then_with(|| here.id.cmp(&there.id))
    })?;
    let seen = sees(host);
    Some(Change {
        host: seen.then(|| host.id.clone()),
        steps: steps(demand, host, seen),
    })
}

/// What it would cost to make a VM fit; nothing helps where even the least does not.
fn cost(demand: &Demand, host: &Candidate) -> Option<f64> {
    let mut sum = 0.0;
    for Shortage { what, wanted, free } in shortages(demand, host) {
        sum += match what {
            Lack::Cordoned => UNCORDON,
            Lack::Tags => TAG * missing(demand, host).count() as f64,
            Lack::Architecture => ARCHITECTURE,
            Lack::Size => SIZE,
            Lack::NotOnline => COME_BACK,
            Lack::Cpus | Lack::Memory | Lack::Disk => {
                let (wanted, free) = wanted.zip(free)?;
                if free < least(what) {
                    return None;
                }
                ASK_FOR_LESS + (wanted - free) as f64 / wanted as f64
            }
        };
    }
    Some(sum)
}

fn least(what: Lack) -> u64 {
    match what {
        Lack::Memory => LEAST.memory_mb,
        Lack::Disk => LEAST.disk_mb,
        _ => LEAST.cpus,
    }
}

fn missing<'a>(
    demand: &'a Demand,
    host: &'a Candidate,
) -> impl Iterator<Item = &'a crate::model::Tag> {
    demand.tags.iter().filter(|tag| !host.tags.contains(tag))
}

fn steps(demand: &Demand, host: &Candidate, seen: bool) -> Vec<String> {
    let name = match seen {
        true => host.id.to_string(),
        false => "a host of the platform".to_owned(),
    };
    let step = |Shortage { what, free, .. }: Shortage| {
        let free = free.unwrap_or(0);
        match what {
            Lack::NotOnline => format!("bring {name} back online"),
            Lack::Cordoned => format!("open {name} to new VMs (hosts/uncordon)"),
            Lack::Architecture => match &host.arch {
                Some(arch) => format!("ask for the architecture {arch}"),
                None => "ask for no architecture in particular".to_owned(),
            },
            Lack::Tags => {
                let missing: Vec<&str> = missing(demand, host).map(|tag| tag.as_str()).collect();
                format!("do not require {}, or tag {name} so", missing.join(", "))
            }
            Lack::Size => format!("let {name} say how large it is: register it anew"),
            Lack::Cpus => format!("ask for at most {free} CPUs"),
            Lack::Memory => format!("ask for at most {free} MiB of memory"),
            Lack::Disk => format!("ask for at most {free} MiB of disk"),
        }
    };
    shortages(demand, host).into_iter().map(step).collect()
}
