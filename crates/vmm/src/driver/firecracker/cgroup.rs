//! Control groups (cgroup v2): what a jailed VM may take of the host.
//!
//! The jailer makes the group and puts itself in; here it is decided which limits to ask for. A
//! controller that this host does not offer would make it fail, so only what is there is used.

use std::fs;
use std::path::{Path, PathBuf};

/// Memory that the process may use beside the guest's: its own, its page tables, and what the
/// kernel keeps for it. What it only caches of its disk is taken back from it when it gets tight.
const OVERHEAD_MB: u64 = 128;

/// The time over which a share of processors is counted, in microseconds.
const PERIOD_US: u64 = 100_000;

/// The control groups of one data directory's VMs.
#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    /// Where the hierarchy is mounted; none: there is none.
    mount: Option<PathBuf>,
    /// The group that holds the VMs' groups.
    name: String,
    cpu: bool,
    memory: bool,
}

impl Cgroups {
    /// Looks for the hierarchy and what it can limit.
    pub(super) fn find(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mount = mount_point(&mounts);
        let controllers = mount
            .as_ref()
            .and_then(|mount| fs::read_to_string(mount.join("cgroup.controllers")).ok());
        Self::with(mount, name, &controllers.unwrap_or_default())
    }

    fn with(mount: Option<PathBuf>, name: &str, controllers: &str) -> Self {
        let offers = |controller| {
            controllers
                .split_ascii_whitespace()
                .any(|it| it == controller)
        };
        Self {
            mount,
            name: name.to_owned(),
            cpu: offers("cpu"),
            memory: offers("memory"),
        }
    }

    pub(super) fn limits_something(&self) -> bool {
        self.cpu || self.memory
    }

    /// The directory that holds the VMs' groups.
    pub(super) fn parent(&self) -> PathBuf {
        let mount = self.mount.as_deref().unwrap_or(Path::new("/nonexistent"));
        mount.join(&self.name)
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        match (self.cpu, self.memory) {
            (true, true) => "limited by cgroup v2 (cpu, memory)".to_owned(),
            (true, false) => "limited by cgroup v2 (cpu; it does not offer memory)".to_owned(),
            (false, true) => "limited by cgroup v2 (memory; it does not offer cpu)".to_owned(),
            (false, false) => "without limits, because no cgroup v2 here offers cpu or memory \
                               (Linux: systemd.unified_cgroup_hierarchy=1)"
                .to_owned(),
        }
    }

    /// The jailer's options for a VM of this size.
    pub(super) fn arguments(&self, cpus: u32, memory_mb: u64) -> Vec<(&'static str, String)> {
        if !self.limits_something() {
            return Vec::new();
        }
        let mut arguments = vec![
            ("--cgroup-version", "2".to_owned()),
            ("--parent-cgroup", self.name.clone()),
        ];
        if self.cpu {
            let quota = u64::from(cpus) * PERIOD_US;
            arguments.push(("--cgroup", format!("cpu.max={quota} {PERIOD_US}")));
        }
        if self.memory {
            let most = memory_mb.saturating_add(OVERHEAD_MB) * 1024 * 1024;
            arguments.push(("--cgroup", format!("memory.max={most}")));
        }
        arguments
    }
}

/// Where cgroup v2 is mounted (proc(5): `/proc/mounts`).
fn mount_point(mounts: &str) -> Option<PathBuf> {
    let mut lines = mounts.lines().map(|line| line.split(' '));
    lines.find_map(|mut fields| {
        let (place, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_beside_older_ones() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("tmpfs / tmpfs rw 0 0\nodd"), None);
    }

    #[test]
    fn only_what_is_offered_is_limited() {
        let groups = |controllers| Cgroups::with(Some("/c".into()), "hostler-1", controllers);
        let all = groups("cpuset cpu io memory pids").arguments(2, 512);
        assert_eq!(
            all,
            [
                ("--cgroup-version", "2".to_owned()),
                ("--parent-cgroup", "hostler-1".to_owned()),
                ("--cgroup", "cpu.max=200000 100000".to_owned()),
                ("--cgroup", "memory.max=671088640".to_owned()),
            ]
        );
        // `cpuset` is another controller than `cpu`.
        assert!(groups("cpuset hugetlb").arguments(2, 512).is_empty());
        assert!(groups("").describe().contains("without limits"));
        assert_eq!(groups("cpu").arguments(1, 128).len(), 3);
    }
}
