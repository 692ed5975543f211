//! Which user each jailed VM's process has: one of its own out of a range, for as long as the VM
//! exists, so that the files that it owns are never another's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::driver::LaunchError;
use crate::files::{self, StorageError};
use crate::model::VmId;

/// The users of a data directory's VMs.
#[derive(Debug)]
pub(super) struct Users {
    first: u32,
    last: u32,
    file: PathBuf,
    taken: Mutex<BTreeMap<VmId, u32>>,
}

impl Users {
    /// Reads who has which user already.
    pub(super) fn open(first: u32, last: u32, data_dir: &Path) -> Result<Self, String> {
        if first == 0 || last < first || last == u32::MAX {
            return Err(format!(
                "users {first} to {last} are no range for jails: it must not hold root, and its \
                 end must not be before its beginning"
            ));
        }
        let file = data_dir.join("jail-users.json");
        let taken = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                format!(
                    "{} is damaged ({error}); restore it, or move it away while no VM runs",
                    file.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(format!("{} cannot be read: {error}", file.display())),
        };
        Ok(Self {
            first,
            last,
            file,
            taken: Mutex::new(taken),
        })
    }

    pub(super) fn range(&self) -> (u32, u32) {
        (self.first, self.last)
    }

    /// A VM's user, which is written down before anybody learns of it.
    pub(super) fn of(&self, vm: VmId) -> Result<u32, LaunchError> {
        let mut taken = self.lock();
        if let Some(user) = taken.get(&vm).filter(|user| self.has(**user)) {
            return Ok(*user);
        }
        let others: BTreeSet<u32> = taken.values().copied().collect();
        let free = (self.first..=self.last).find(|user| !others.contains(user));
        let user = free.ok_or_else(|| LaunchError::Jail {
            problem: format!(
                "all users from {} to {} have a VM; give the host a larger range",
                self.first, self.last
            ),
        })?;
        let mut next = taken.clone();
        next.insert(vm, user);
        self.save(&next)?;
        *taken = next;
        Ok(user)
    }

    /// Forgets all VMs but these.
    pub(super) fn keep(&self, known: &BTreeSet<VmId>) {
        self.retain(|vm| known.contains(vm));
    }

    /// Forgets a VM.
    pub(super) fn forget(&self, gone: VmId) {
        self.retain(|vm| *vm != gone);
    }

    fn retain(&self, stays: impl Fn(&VmId) -> bool) {
        let mut taken = self.lock();
        let mut next = taken.clone();
        next.retain(|vm, _| stays(vm));
        if next.len() == taken.len() {
            return;
        }
        match self.save(&next) {
            Ok(()) => *taken = next,
            Err(error) => tracing::warn!(%error, "users of VMs that are gone stay taken"),
        }
    }

    fn has(&self, user: u32) -> bool {
        (self.first..=self.last).contains(&user)
    }

    fn save(&self, taken: &BTreeMap<VmId, u32>) -> Result<(), StorageError> {
        let bytes = serde_json::to_vec_pretty(taken).unwrap_or_default();
        files::write_atomic(&self.file, &bytes)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmId, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_vm_has_a_user_of_its_own_that_a_restart_does_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Users::open(900_000, 900_002, dir.path()).unwrap();
        let (one, other, third) = (VmId::generate(), VmId::generate(), VmId::generate());
        let users = open();
        assert_eq!(users.of(one).unwrap(), 900_000);
        assert_eq!(users.of(other).unwrap(), 900_001);
        let users = open();
        assert_eq!(users.of(other).unwrap(), 900_001);
        // One that is gone leaves its user to the next.
        users.forget(one);
        assert_eq!(users.of(third).unwrap(), 900_000);
        users.keep(&[other, third].into());
        assert_eq!(open().of(third).unwrap(), 900_000);
    }

    #[test]
    fn a_range_that_is_used_up_is_an_error_that_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let users = Users::open(5, 5, dir.path()).unwrap();
        users.of(VmId::generate()).unwrap();
        let error = users.of(VmId::generate()).unwrap_err().to_string();
        assert!(error.contains("larger range"), "{error}");
    }

    #[test]
    fn root_is_in_no_range() {
        let dir = tempfile::tempdir().unwrap();
        for (first, last) in [(0, 10), (10, 9), (1, u32::MAX)] {
            assert!(
                Users::open(first, last, dir.path()).is_err(),
                "{first}-{last}"
            );
        }
    }
}
