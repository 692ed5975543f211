//! Snapshots: what a VM was at one moment, on the host's disk.
//!
//! A snapshot is a directory beside its VM's other files, with a copy of the disk, the driver's
//! files of memory and devices if the VM had a process, and a [`Manifest`] that says what it was
//! taken of and what every file has to be. It appears whole, by a rename, never changes, and
//! disappears with its VM.
//!
//! The manifest is there because drivers do not notice what they load: a memory of another kernel,
//! another processor or a damaged file makes a guest that goes wrong later. So everything is
//! compared before anything is touched.

mod digest;
mod manifest;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::errors::DeleteSnapshotError;
use crate::files::{self, Context as _, DraftDir, StorageError};
use crate::layout::{VmDir, disk_in};
use crate::model::DriverKind;
use crate::name::{ItemName, SnapshotName, VmName};

pub use manifest::Incompatible;
pub(crate) use manifest::{Manifest, Memory, Parts};

/// How many snapshots a VM may have.
pub(crate) const MAX_SNAPSHOTS: usize = 32;

const MANIFEST: &str = "snapshot.json";
/// A longer one is none of ours.
const MAX_MANIFEST: u64 = 1024 * 1024;
const MIB: u64 = 1024 * 1024;

/// A snapshot of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Snapshot {
    /// What the snapshot is called; unique among those of its VM.
    pub name: SnapshotName,
    /// The VM that it is a snapshot of.
    pub vm: VmName,
    /// When it was taken.
    pub created_at: Timestamp,
    /// Whether it holds the VM's memory, so that a restored VM goes on where it was. A VM that did
    /// not run has none, and is restored as it was: not running.
    pub memory: bool,
    /// What runs the VM.
    pub driver: DriverKind,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mb: u64,
    /// Size of the root disk in MiB.
    pub disk_size_mb: u64,
    /// The kernel that the guest runs.
    pub kernel: ItemName,
    /// What the snapshot takes of the host's disk, in MiB.
    pub size_mb: u64,
}

/// A VM has no such snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("VM {vm} has no snapshot {snapshot:?}; {}", or_known(known))]
pub struct NoSuchSnapshot {
    /// The VM.
    pub vm: VmName,
    /// The name that was asked for.
    pub snapshot: String,
    /// The snapshots that are there.
    pub known: Vec<SnapshotName>,
}

fn or_known(known: &[SnapshotName]) -> String {
    if known.is_empty() {
        return "it has none: take one first".to_owned();
    }
    let known: Vec<&str> = known.iter().map(SnapshotName::as_str).collect();
    format!("there are: {}", known.join(", "))
}

/// A snapshot is not what it was when it was taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("snapshot {snapshot} of VM {vm} is damaged: {problem}; delete it, and use another one")]
pub struct Damaged {
    /// The VM.
    pub vm: VmName,
    /// The snapshot.
    pub snapshot: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A snapshot says what its files have to be in a way that this version does not know. Whether they
/// are is not to be told, so nothing speaks against it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "snapshot {snapshot} of VM {vm} was written by a newer version of this program; use that one \
     (this one knows no {unknown})"
)]
pub struct Newer {
    /// The VM.
    pub vm: VmName,
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// What is not known here: a form of its manifest, or a kind of digest.
    pub unknown: String,
}

/// Why a snapshot is not used.
#[derive(Debug)]
enum Problem {
    /// Its files are not what they were; says what is wrong.
    Damage(String),
    /// It cannot be told, because this is not known here.
    Unknown(String),
}

/// A snapshot could not be found or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FindError {
    #[error(transparent)]
    Missing(#[from] NoSuchSnapshot),
    #[error(transparent)]
    Damaged(#[from] Damaged),
    #[error(transparent)]
    Newer(#[from] Newer),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The snapshots of one VM.
#[derive(Debug, Clone)]
pub(crate) struct Snapshots {
    vm: VmName,
    root: PathBuf,
}

/// A snapshot that was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) manifest: Manifest,
    directory: PathBuf,
}

impl Found {
    /// The directory with the driver's files.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn disk(&self) -> PathBuf {
        disk_in(&self.directory)
    }
}

impl Snapshots {
    pub(crate) fn of(vm: &VmName, dir: &VmDir) -> Self {
        Self {
            vm: vm.clone(),
            root: dir.snapshots(),
        }
    }

    /// All that can be read, by name.
    pub(crate) fn list(&self) -> Result<Vec<Snapshot>, StorageError> {
        let mut found = Vec::new();
        for name in self.names()? {
            match self.read(&name) {
                Ok(manifest) => found.push(manifest.view(&self.vm)),
                Err(error) => tracing::warn!(%error, "a snapshot is left out; delete it"),
            }
        }
        Ok(found)
    }

    /// The names of all, readable or not.
    pub(crate) fn names(&self) -> Result<Vec<SnapshotName>, StorageError> {
        let entries = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.context("read", &self.root)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.context("read", &self.root)?.file_name();
            // A draft's name is none.
            names.extend(name.to_str().and_then(|name| name.parse().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// What all of them take of the disk, in MiB.
    pub(crate) fn size_mb(&self) -> Result<u64, StorageError> {
        let mut total = 0;
        for name in self.names()? {
            total += taken_mb(&self.directory(&name))?;
        }
        Ok(total)
    }

    /// The snapshot of this name.
    pub(crate) fn find(&self, name: &str) -> Result<Found, FindError> {
        let parsed = self.known::<FindError>(name)?;
        Ok(Found {
            manifest: self.read(&parsed)?,
            directory: self.directory(&parsed),
        })
    }

    /// Removes the snapshot of this name, damaged or not.
    pub(crate) fn remove(&self, name: &str) -> Result<(), DeleteSnapshotError> {
        let name = self.known::<DeleteSnapshotError>(name)?;
        Ok(files::remove_dir_atomic(&self.directory(&name))?)
    }

    /// Begins a new one.
    pub(crate) fn draft(&self) -> Result<DraftDir, StorageError> {
        files::make_private_dir(&self.root)?;
        DraftDir::begin(&self.root)
    }

    /// Lets a finished one appear: flushes and measures its files, and describes them.
    pub(crate) fn put(&self, draft: DraftDir, parts: Parts) -> Result<Snapshot, StorageError> {
        let directory = draft.path();
        let mut sums = Vec::new();
        for entry in fs::read_dir(directory).context("read", directory)? {
            let path = entry.context("read", directory)?.path();
            let file = files::open_regular(&path).context("read", &path)?;
            file.sync_all().context("write", &path)?;
            sums.push(manifest::FileSum::of(&path)?);
        }
        let manifest = Manifest::new(parts, sums, taken_mb(directory)?);
        let bytes = serde_json::to_vec_pretty(&manifest)
            .map_err(io::Error::from)
            .context("write", directory)?;
        files::write_atomic(&directory.join(MANIFEST), &bytes)?;
        crate::fault::point("snapshot.described");
        let place = self.directory(manifest.name());
        draft.appear_as(&place)?;
        crate::fault::point("snapshot.appeared");
        Ok(manifest.view(&self.vm))
    }

    /// Removes what interrupted work left behind.
    pub(crate) fn sweep(&self) -> Result<(), StorageError> {
        if self.root.is_dir() {
            files::sweep_drafts(&self.root)?;
        }
        Ok(())
    }

    /// Whether all files of a snapshot are what they were. Reads them to the end.
    pub(crate) fn verify(&self, found: &Found) -> Result<(), FindError> {
        let name = found.manifest.name();
        match found.manifest.problem_in(&found.directory)? {
            None => Ok(()),
            Some(problem) => Err(self.unusable(name, problem)),
        }
    }

    fn directory(&self, name: &SnapshotName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// The name, if there is such a snapshot.
    fn known<E>(&self, name: &str) -> Result<SnapshotName, E>
    where
        E: From<NoSuchSnapshot> + From<StorageError>,
    {
        let known = self.names()?;
        match known.iter().find(|known| known.as_str() == name) {
            Some(found) => Ok(found.clone()),
            None => Err(NoSuchSnapshot {
                vm: self.vm.clone(),
                snapshot: name.to_owned(),
                known,
            }
            .into()),
        }
    }

    fn read(&self, name: &SnapshotName) -> Result<Manifest, FindError> {
        let path = self.directory(name).join(MANIFEST);
        let bytes = match files::read_regular(&path, MAX_MANIFEST) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let problem = format!("{MANIFEST} is missing");
                return Err(self.damaged(name.as_str(), problem).into());
            }
            bytes => bytes.context("read", &path)?,
        };
        Manifest::read(&bytes, name).map_err(|problem| self.unusable(name, problem))
    }

    fn unusable(&self, name: &SnapshotName, problem: Problem) -> FindError {
        match problem {
            Problem::Damage(problem) => self.damaged(name.as_str(), problem).into(),
            Problem::Unknown(unknown) => Newer {
                vm: self.vm.clone(),
                snapshot: name.clone(),
                unknown,
            }
            .into(),
        }
    }

    fn damaged(&self, snapshot: &str, problem: String) -> Damaged {
        Damaged {
            vm: self.vm.clone(),
            snapshot: snapshot.to_owned(),
            problem,
        }
    }
}

/// What a file takes of the disk, in MiB; holes take nothing.
pub(crate) fn taken_mb_of(file: &Path) -> Result<u64, StorageError> {
    let blocks = file.metadata().context("read", file)?.blocks();
    Ok((blocks * 512).div_ceil(MIB))
}

/// What the files of a directory take of the disk, in MiB; holes take nothing.
fn taken_mb(directory: &Path) -> Result<u64, StorageError> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).context("read", directory)? {
        let path = entry.context("read", directory)?.path();
        bytes += path.metadata().context("read", &path)?.blocks() * 512;
    }
    Ok(bytes.div_ceil(MIB))
}

#[cfg(test)]
mod tests;
