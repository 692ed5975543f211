//! How much of the host VMs may take: arithmetic, without looking at a host.
//!
//! A VM reserves what it was created with for as long as it exists, running or not, so a start
//! never fails for want of room. CPUs may be reserved several times over, because guests mostly
//! idle; memory may not, because a guest that finds none is killed.

use std::fmt;
use std::ops::AddAssign;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An amount of a host.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// CPUs, of the host or virtual.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Disk in MiB.
    pub disk_mb: u64,
}

impl AddAssign for Resources {
    fn add_assign(&mut self, other: Self) {
        self.cpus = self.cpus.saturating_add(other.cpus);
        self.memory_mb = self.memory_mb.saturating_add(other.memory_mb);
        self.disk_mb = self.disk_mb.saturating_add(other.disk_mb);
    }
}

impl std::iter::Sum for Resources {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

/// What a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// What is built in; `disk_mb` is the size of the file system with the data directory.
    pub(crate) total: Resources,
    /// What the file system with the data directory has left for writing, in MiB.
    pub(crate) disk_free_mb: u64,
    /// How many virtual CPUs may be reserved for each CPU.
    pub(crate) cpu_overcommit: u32,
}

impl Capacity {
    /// What a new VM may take beside those that have reserved `used`.
    pub(crate) fn available(&self, used: Resources) -> Resources {
        Resources {
            cpus: self
                .total
                .cpus
                .saturating_mul(self.cpu_overcommit)
                .saturating_sub(used.cpus),
            memory_mb: self.total.memory_mb.saturating_sub(used.memory_mb),
            // Disks are sparse, so what VMs reserved and what other files take overlap: the
            // smaller remainder counts.
            disk_mb: self
                .total
                .disk_mb
                .saturating_sub(used.disk_mb)
                .min(self.disk_free_mb),
        }
    }

    /// Whether a VM that asks for `asked` fits beside those that have reserved `used`.
    pub(crate) fn admit(
        &self,
        used: Resources,
        asked: Resources,
    ) -> Result<(), InsufficientCapacity> {
        let available = self.available(used);
        let short = |resource, asked, available| {
            if asked <= available {
                return Ok(());
            }
            Err(InsufficientCapacity {
                resource,
                asked,
                available,
            })
        };
        short(Resource::Cpus, asked.cpus.into(), available.cpus.into())?;
        short(Resource::Memory, asked.memory_mb, available.memory_mb)?;
        short(Resource::Disk, asked.disk_mb, available.disk_mb)
    }
}

/// A VM does not fit on this host beside those that are there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the host has {available} {resource} left and the VM asks for {asked}; ask for less, delete a \
     VM that is not needed, or use another host"
)]
pub struct InsufficientCapacity {
    /// What there is too little of.
    pub resource: Resource,
    /// How much of it was asked for.
    pub asked: u64,
    /// How much of it is left.
    pub available: u64,
}

/// Something of which a host has a limited amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// Virtual CPUs.
    Cpus,
    /// Memory in MiB.
    Memory,
    /// Disk in MiB.
    Disk,
    /// Addresses on the host's bridge.
    Addresses,
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpus => "virtual CPUs",
            Self::Memory => "MiB of memory",
            Self::Disk => "MiB of disk",
            Self::Addresses => "addresses on its bridge",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: Capacity = Capacity {
        total: Resources {
            cpus: 2,
            memory_mb: 4096,
            disk_mb: 100_000,
        },
        disk_free_mb: 50_000,
        cpu_overcommit: 4,
    };

    fn amount(cpus: u32, memory_mb: u64, disk_mb: u64) -> Resources {
        Resources {
            cpus,
            memory_mb,
            disk_mb,
        }
    }

    #[test]
    fn cpus_are_overcommitted_and_memory_is_not() {
        let none = Resources::default();
        assert_eq!(HOST.admit(none, amount(8, 4096, 1)), Ok(()));
        let error = HOST.admit(none, amount(9, 1, 1)).unwrap_err();
        assert_eq!((error.resource, error.available), (Resource::Cpus, 8));
        let error = HOST.admit(none, amount(1, 4097, 1)).unwrap_err();
        assert_eq!((error.resource, error.available), (Resource::Memory, 4096));
    }

    #[test]
    fn a_disk_fits_in_what_is_neither_reserved_nor_written() {
        assert_eq!(HOST.available(amount(0, 0, 10_000)).disk_mb, 50_000);
        assert_eq!(HOST.available(amount(0, 0, 70_000)).disk_mb, 30_000);
    }

    proptest! {
        #[test]
        fn what_was_admitted_never_exceeds_the_host(
            asked in prop::collection::vec((1u32..33, 128u64..4096, 256u64..40_000), 0..40),
        ) {
            let mut used = Resources::default();
            for (cpus, memory_mb, disk_mb) in asked {
                let one = amount(cpus, memory_mb, disk_mb);
                if HOST.admit(used, one).is_ok() {
                    used += one;
                }
            }
            prop_assert!(used.cpus <= 8 && used.memory_mb <= 4096 && used.disk_mb <= 100_000);
        }
    }
}
