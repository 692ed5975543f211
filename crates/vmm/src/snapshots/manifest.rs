//! `snapshot.json`: what a snapshot was taken of, and what its files have to be.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::digest::{self, Comparison};
use super::{Problem, Snapshot};
use crate::files::{Context as _, StorageError};
use crate::model::{DriverKind, VmId};
use crate::name::{ItemName, SnapshotName, VmName};
use crate::spec::Spec;

/// The version of the file's form; a snapshot of another version is not used.
const VERSION: u32 = 1;

/// What a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    version: u32,
    parts: Parts,
    /// What it takes of the disk, in MiB.
    size_mb: u64,
    files: Vec<FileSum>,
}

/// What every form has.
#[derive(Deserialize)]
struct Form {
    version: u32,
}

/// What a snapshot was taken of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parts {
    pub(crate) name: SnapshotName,
    pub(crate) created_at: Timestamp,
    pub(crate) vm_id: VmId,
    pub(crate) driver: DriverKind,
    pub(crate) cpus: u32,
    pub(crate) memory_mb: u64,
    pub(crate) disk_size_mb: u64,
    pub(crate) kernel: ItemName,
    /// Absent when the VM had no process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<Memory>,
}

/// What has to be the same where a memory is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Memory {
    pub(crate) arch: String,
    /// SHA-256 of the kernel that is in there, in hexadecimal.
    pub(crate) kernel_sha256: String,
    /// What the driver needs to be the same.
    pub(crate) form: BTreeMap<String, String>,
}

/// What a file has to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileSum {
    name: String,
    size_bytes: u64,
    /// See [`digest`].
    digest: String,
}

impl FileSum {
    pub(crate) fn of(path: &Path) -> Result<Self, StorageError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok(Self {
            name: name.into_owned(),
            size_bytes: path.metadata().context("read", path)?.len(),
            digest: digest::of(path)?,
        })
    }

    /// What is wrong with the file of this name in a directory.
    fn problem_in(&self, directory: &Path) -> Result<Option<Problem>, StorageError> {
        let path = directory.join(&self.name);
        let damage = |what: &str| Ok(Some(Problem::Damage(format!("{} {what}", self.name))));
        let size = match path.symlink_metadata() {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Ok(_) => return damage("is no file"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return damage("is missing"),
            Err(error) => return Err(error).context("read", &path),
        };
        if size != self.size_bytes {
            let expected = self.size_bytes;
            return damage(&format!("has {size} bytes instead of {expected}"));
        }
        match digest::compare(&path, &self.digest)? {
            Comparison::Same => Ok(None),
            Comparison::Changed => damage("has changed"),
            Comparison::Unknown(kind) => Ok(Some(Problem::Unknown(format!("digest {kind:?}")))),
        }
    }
}

impl Manifest {
    pub(super) fn new(parts: Parts, mut files: Vec<FileSum>, size_mb: u64) -> Self {
        files.sort_by(|one, other| one.name.cmp(&other.name));
        Self {
            version: VERSION,
            parts,
            size_mb,
            files,
        }
    }

    /// Understands the manifest of the snapshot of this name; an error says what is wrong with it.
    pub(super) fn read(bytes: &[u8], name: &SnapshotName) -> Result<Self, Problem> {
        let damage = |what: String| Err(Problem::Damage(what));
        // First of all, since another form has other fields.
        let form: Form = match serde_json::from_slice(bytes) {
            Ok(form) => form,
            Err(error) => return damage(error.to_string()),
        };
        if form.version > VERSION {
            return Err(Problem::Unknown(format!("form {}", form.version)));
        }
        let manifest: Self = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(error) => return damage(error.to_string()),
        };
        if manifest.version != VERSION {
            return damage(format!("there never was a form {}", manifest.version));
        }
        if manifest.parts.name != *name {
            return damage(format!("it is the snapshot {}", manifest.parts.name));
        }
        // A name with a path in it would lead out of the snapshot.
        let strange = |file: &&FileSum| file.name.contains('/') || file.name.starts_with('.');
        if let Some(file) = manifest.files.iter().find(strange) {
            return damage(format!("it names a file {:?}", file.name));
        }
        Ok(manifest)
    }

    pub(crate) fn name(&self) -> &SnapshotName {
        &self.parts.name
    }

    pub(crate) fn memory(&self) -> Option<&Memory> {
        self.parts.memory.as_ref()
    }

    pub(super) fn view(&self, vm: &VmName) -> Snapshot {
        let Self {
            version: _,
            parts,
            size_mb,
            files: _,
        } = self;
        Snapshot {
            name: parts.name.clone(),
            vm: vm.clone(),
            created_at: parts.created_at,
            memory: parts.memory.is_some(),
            driver: parts.driver,
            cpus: parts.cpus,
            memory_mb: parts.memory_mb,
            disk_size_mb: parts.disk_size_mb,
            kernel: parts.kernel.clone(),
            size_mb: *size_mb,
        }
    }

    /// What is wrong with the files in the snapshot's directory.
    pub(super) fn problem_in(&self, directory: &Path) -> Result<Option<Problem>, StorageError> {
        // Side by side: whoever restores a VM waits for the largest of them, and not for all.
        std::thread::scope(|scope| {
            let looking: Vec<_> = self
                .files
                .iter()
                .map(|file| scope.spawn(|| file.problem_in(directory)))
                .collect();
            for looking in looking {
                let found = looking.join();
                let found = found.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                if let Some(problem) = found? {
                    return Ok(Some(problem));
                }
            }
            Ok(None)
        })
    }

    /// Whether a VM as it is now can be what it was: the disk always, and the memory where there
    /// is one.
    pub(crate) fn fits(&self, vm: &Spec) -> Result<(), Incompatible> {
        let Parts {
            vm_id,
            driver,
            cpus,
            memory_mb,
            disk_size_mb,
            ..
        } = &self.parts;
        self.same("VM", vm_id, &vm.id)?;
        self.same("disk size (MiB)", disk_size_mb, &vm.disk_size_mb)?;
        if self.parts.memory.is_some() {
            self.same("driver", driver, &vm.driver)?;
            self.same("number of CPUs", cpus, &vm.cpus)?;
            self.same("memory (MiB)", memory_mb, &vm.memory_mb)?;
        }
        Ok(())
    }

    /// Whether the memory can be loaded here.
    pub(crate) fn fits_here(&self, here: &Memory) -> Result<(), Incompatible> {
        let Some(taken) = &self.parts.memory else {
            return Ok(());
        };
        self.same("architecture", &taken.arch, &here.arch)?;
        self.same("kernel", &taken.kernel_sha256, &here.kernel_sha256)?;
        let none = "none".to_owned();
        for what in taken.form.keys().chain(here.form.keys()) {
            let (taken, here) = (taken.form.get(what), here.form.get(what));
            self.same(what, taken.unwrap_or(&none), here.unwrap_or(&none))?;
        }
        Ok(())
    }

    fn same<T: PartialEq + fmt::Display>(
        &self,
        what: &str,
        taken: &T,
        here: &T,
    ) -> Result<(), Incompatible> {
        if taken == here {
            return Ok(());
        }
        Err(Incompatible {
            snapshot: self.parts.name.clone(),
            what: what.to_owned(),
            taken: taken.to_string(),
            here: here.to_string(),
        })
    }
}

/// A snapshot does not fit the VM or the host as they are now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "snapshot {snapshot} does not fit any more: its {what} is {taken}, and here it is {here}; \
     nothing was changed"
)]
pub struct Incompatible {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// What differs.
    pub what: String,
    /// What it was when the snapshot was taken.
    pub taken: String,
    /// What it is now.
    pub here: String,
}
