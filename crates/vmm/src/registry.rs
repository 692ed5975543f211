//! All VMs of the host by name, and what they have reserved.
//!
//! The lock inside is held for a look-up or an insertion, never for work. A VM that is being made
//! has its name, its share of the host, its image and its kernel reserved, so two requests cannot
//! both get the last of anything; it is listed once it is whole.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

use crate::capacity::{Capacity, InsufficientCapacity, Resources};
use crate::name::{ItemName, VmName};
use crate::slot::Slot;

#[derive(Default)]
pub(crate) struct Registry {
    entries: RwLock<BTreeMap<VmName, Entry>>,
    bell: Arc<Notify>,
}

enum Entry {
    Reserved(Share),
    Present {
        share: Share,
        /// What the VM's snapshots take of the host's disk, in MiB.
        snapshots_mb: u64,
        slot: Arc<Slot>,
    },
}

/// What a VM takes of the host.
#[derive(Debug, Clone)]
pub(crate) struct Share {
    pub(crate) resources: Resources,
    pub(crate) image: ItemName,
    pub(crate) kernel: ItemName,
}

/// Why a share cannot be had.
#[derive(Debug)]
pub(crate) enum ReserveError {
    Exists,
    Capacity(InsufficientCapacity),
}

impl Registry {
    /// Enters a VM that was there before.
    pub(crate) fn enter(&self, slot: Arc<Slot>) {
        slot.hang_bell(Arc::clone(&self.bell));
        let spec = slot.record().spec;
        let share = Share {
            resources: spec.resources(),
            image: spec.image,
            kernel: spec.kernel,
        };
        let entry = Entry::Present {
            share,
            snapshots_mb: 0,
            slot,
        };
        self.write().insert(spec.name, entry);
    }

    /// Writes down what a VM's snapshots take of the disk now.
    pub(crate) fn note_snapshots(&self, name: &VmName, taken_mb: u64) {
        if let Some(Entry::Present { snapshots_mb, .. }) = self.write().get_mut(name) {
            *snapshots_mb = taken_mb;
        }
    }

    /// Reserves disk for one more snapshot of a VM, until [`Registry::note_snapshots`] says what
    /// they really take.
    pub(crate) fn reserve_snapshot(
        &self,
        name: &VmName,
        disk_mb: u64,
        capacity: Capacity,
    ) -> Result<(), InsufficientCapacity> {
        let mut entries = self.write();
        let used = entries.values().map(Entry::resources).sum();
        let asked = Resources {
            disk_mb,
            ..Resources::default()
        };
        capacity.admit(used, asked)?;
        if let Some(Entry::Present { snapshots_mb, .. }) = entries.get_mut(name) {
            *snapshots_mb = snapshots_mb.saturating_add(disk_mb);
        }
        Ok(())
    }

    /// Rung whenever a VM has ended.
    pub(crate) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// Reserves a name and a share of the host for a VM in the making.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        name: &VmName,
        share: Share,
        capacity: Capacity,
    ) -> Result<Reservation, ReserveError> {
        let mut entries = self.write();
        if entries.contains_key(name) {
            return Err(ReserveError::Exists);
        }
        let used = entries.values().map(Entry::resources).sum();
        capacity
            .admit(used, share.resources)
            .map_err(ReserveError::Capacity)?;
        entries.insert(name.clone(), Entry::Reserved(share));
        Ok(Reservation {
            registry: self.clone(),
            name: Some(name.clone()),
        })
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Slot>> {
        let name: VmName = name.parse().ok()?;
        match self.read().get(&name)? {
            Entry::Present { slot, .. } => Some(slot.clone()),
            Entry::Reserved(_) => None,
        }
    }

    /// All VMs, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Slot>> {
        let present = |entry: &Entry| match entry {
            Entry::Present { slot, .. } => Some(slot.clone()),
            Entry::Reserved(_) => None,
        };
        self.read().values().filter_map(present).collect()
    }

    pub(crate) fn remove(&self, name: &VmName) {
        self.write().remove(name);
    }

    /// What all VMs have reserved.
    pub(crate) fn used(&self) -> Resources {
        self.read().values().map(Entry::resources).sum()
    }

    /// Runs a short piece of work that no VM may interfere with which is just being created: it is
    /// told who uses the thing that `uses` recognises.
    pub(crate) fn with_users<T>(
        &self,
        uses: impl Fn(&Share) -> bool,
        work: impl FnOnce(Vec<VmName>) -> T,
    ) -> T {
        let entries = self.read();
        let users = entries.iter().filter(|(_, entry)| uses(entry.share()));
        work(users.map(|(name, _)| name.clone()).collect())
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<VmName, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<VmName, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn share(&self) -> &Share {
        match self {
            Self::Reserved(share) | Self::Present { share, .. } => share,
        }
    }

    fn resources(&self) -> Resources {
        let mut resources = self.share().resources;
        if let Self::Present { snapshots_mb, .. } = self {
            resources.disk_mb = resources.disk_mb.saturating_add(*snapshots_mb);
        }
        resources
    }
}

/// A name and a share of the host that are held for a VM in the making; given back unless the VM
/// comes to be.
pub(crate) struct Reservation {
    registry: Arc<Registry>,
    /// Taken once the VM is there.
    name: Option<VmName>,
}

impl Reservation {
    /// The VM is there.
    pub(crate) fn settle(mut self, slot: Arc<Slot>) {
        self.registry.enter(slot);
        self.name = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.registry.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(memory_mb: u64) -> Share {
        Share {
            resources: Resources {
                cpus: 1,
                memory_mb,
                disk_mb: 256,
            },
            image: "an-image".parse().unwrap(),
            kernel: "a-kernel".parse().unwrap(),
        }
    }

    const HOST: Capacity = Capacity {
        total: Resources {
            cpus: 4,
            memory_mb: 1000,
            disk_mb: 10_000,
        },
        disk_free_mb: 10_000,
        cpu_overcommit: 1,
    };

    fn name(name: &str) -> VmName {
        name.parse().unwrap()
    }

    #[test]
    fn a_vm_in_the_making_holds_its_name_and_share_until_it_is_given_up() {
        let registry = Arc::new(Registry::default());
        let first = registry.reserve(&name("a"), share(600), HOST).unwrap();
        let again = registry.reserve(&name("a"), share(1), HOST);
        assert!(matches!(again, Err(ReserveError::Exists)));
        let second = registry.reserve(&name("b"), share(600), HOST);
        assert!(matches!(second, Err(ReserveError::Capacity(_))));
        assert!(
            registry.get("a").is_none(),
            "it was listed before it was whole"
        );
        drop(first);
        registry.reserve(&name("b"), share(600), HOST).unwrap();
    }

    #[test]
    fn an_image_is_in_use_from_the_moment_a_vm_with_it_is_asked_for() {
        let registry = Arc::new(Registry::default());
        let users = |registry: &Registry| {
            registry.with_users(|share| share.image.as_str() == "an-image", |users| users)
        };
        let _making = registry.reserve(&name("a"), share(1), HOST).unwrap();
        assert_eq!(users(&registry), [name("a")]);
    }

    #[test]
    fn a_snapshots_room_is_reserved_before_and_known_afterwards() {
        let registry = Arc::new(Registry::default());
        let record = crate::record::tests::record();
        let vm = record.spec.name.clone();
        let disk = record.spec.disk_size_mb;
        let layout = crate::layout::Layout::new("/data".into());
        registry.enter(Arc::new(Slot::new(layout.vm(&vm), record)));
        registry.reserve_snapshot(&vm, 5000, HOST).unwrap();
        assert_eq!(registry.used().disk_mb, disk + 5000);
        let short = registry.reserve_snapshot(&vm, 5000, HOST).unwrap_err();
        assert_eq!((short.asked, short.available), (5000, 10_000 - disk - 5000));
        registry.note_snapshots(&vm, 70);
        assert_eq!(registry.used().disk_mb, disk + 70);
        registry.remove(&vm);
        assert_eq!(registry.used().disk_mb, 0);
    }

    #[test]
    fn of_many_racing_requests_exactly_as_many_as_fit_get_a_share() {
        let registry = Arc::new(Registry::default());
        let won: usize = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..16)
                .map(|number| {
                    let registry = &registry;
                    scope.spawn(move || {
                        let name = name(&format!("vm-{number}"));
                        registry
                            .reserve(&name, share(300), HOST)
                            .map(std::mem::forget)
                            .is_ok()
                    })
                })
                .collect();
            racers
                .into_iter()
                .map(|racer| usize::from(racer.join().unwrap()))
                .sum()
        });
        assert_eq!(won, 3);
        assert_eq!(registry.used().memory_mb, 900);
    }
}
