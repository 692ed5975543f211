//! Kernels: what VMs boot.
//!
//! A kernel is kept in the form in which it boots best, with the modules that a guest on it needs
//! before it can reach its root disk.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blocking;
use crate::cpio::Archive;
use crate::driver::Bus;
use crate::errors::UnknownKernel;
use crate::files::{self, Context as _, StorageError};
use crate::kernel_file::{self, KernelFormat, NotBootable};
use crate::name::ItemName;
use crate::registry::{Registry, Share};
use crate::shelf::{self, Item, RemoveError, Shelf};
use crate::sources::Sources;

pub(crate) const KERNEL_FILE: &str = "kernel";
pub(crate) const MODULES_FILE: &str = "modules.cpio";
pub(crate) const MOUNT_MODULES_FILE: &str = "mount-modules.cpio";

/// A kernel on this host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Kernel {
    /// What it is called; unique among the host's kernels.
    pub name: ItemName,
    /// The form in which it is kept.
    pub format: KernelFormat,
    /// The processor that it is for.
    pub arch: String,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: String,
    /// Where it came from.
    pub source: String,
    /// When it came to this host.
    pub created_at: Timestamp,
    /// The files of the modules to load, in order, by what the guest finds its devices on.
    pub modules: BTreeMap<Bus, Vec<String>>,
    /// The same, for a guest that shares directories of its host.
    #[serde(default)]
    pub mount_modules: Vec<String>,
}

impl Item for Kernel {
    const KIND: &'static str = "kernel";
    const DESCRIPTION: &'static str = "kernel.json";

    fn name(&self) -> &ItemName {
        &self.name
    }

    fn used_in(share: &Share, name: &ItemName) -> bool {
        share.kernel == *name
    }
}

/// A request to import a kernel.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKernel {
    /// A file on the host, absolute, in a directory that it allows imports from: an ELF `vmlinux` or a bzImage for x86-64, an `Image` for
    /// arm64; for the host's own processor. It has to have the
    /// drivers for virtio devices and ext4 built in.
    pub source: PathBuf,
    /// What to call it.
    pub name: ItemName,
}

/// A kernel was not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportKernelError {
    /// The source is not a file that can be read.
    #[error(
        "{}: {problem}; give the absolute path of a kernel file on the host",
        path.display()
    )]
    Source { path: PathBuf, problem: String },
    /// It cannot be booted here.
    #[error("{}: {problem}", path.display())]
    NotBootable { path: PathBuf, problem: NotBootable },
    /// A kernel of that name is there.
    #[error("a kernel named {name} is on this host already; choose another name, or delete it")]
    Exists { name: ItemName },
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The host's kernels.
#[derive(Clone)]
pub struct Kernels {
    shelf: Arc<Shelf<Kernel>>,
    sources: Sources,
}

/// The files of a kernel that a start needs.
pub(crate) struct KernelFiles {
    pub(crate) kernel: PathBuf,
    pub(crate) modules_archive: PathBuf,
    /// Absent when they are built in, or unknown.
    pub(crate) mount_modules_archive: Option<PathBuf>,
    pub(crate) mount_modules: Vec<String>,
    pub(crate) format: KernelFormat,
    modules: BTreeMap<Bus, Vec<String>>,
}

impl KernelFiles {
    /// Whether it has what a guest needs there: in modules, or built in, as imported ones have.
    pub(crate) fn knows(&self, bus: Bus) -> bool {
        self.modules.is_empty() || self.modules.contains_key(&bus)
    }

    /// The files of the modules to load, in order.
    pub(crate) fn modules_on(&self, bus: Bus) -> &[String] {
        self.modules.get(&bus).map_or(&[], Vec::as_slice)
    }
}

impl Kernels {
    pub(crate) fn open(
        root: PathBuf,
        sources: Sources,
        registry: Arc<Registry>,
    ) -> Result<Self, StorageError> {
        Ok(Self {
            shelf: Arc::new(Shelf::open(root, registry)?),
            sources,
        })
    }

    /// All kernels, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn list(&self) -> Result<Vec<Kernel>, StorageError> {
        let shelf = self.shelf.clone();
        blocking::run(move || shelf.list()).await
    }

    /// Imports a kernel from a file of the host, checked and brought into the form in which it
    /// boots best.
    ///
    /// # Errors
    /// When the file is not a kernel for this host, the name is taken, or the disk refuses;
    /// nothing is left behind.
    pub async fn import(&self, request: ImportKernel) -> Result<Kernel, ImportKernelError> {
        let (shelf, sources) = (self.shelf.clone(), self.sources.clone());
        blocking::run(move || import(&shelf, &sources, request)).await
    }

    /// Deletes a kernel that no VM uses.
    ///
    /// # Errors
    /// When it is not there, is in use, or the disk refuses.
    pub async fn delete(&self, name: &str) -> Result<(), RemoveError> {
        let (shelf, name) = (self.shelf.clone(), name.to_owned());
        blocking::run(move || shelf.remove(&name)).await
    }

    pub(crate) fn get(&self, name: &ItemName) -> Option<Kernel> {
        self.shelf.get(name)
    }

    pub(crate) fn shelf(&self) -> &Shelf<Kernel> {
        &self.shelf
    }

    /// The kernel of this name.
    pub(crate) fn known(&self, name: &ItemName) -> Result<Kernel, UnknownKernel> {
        self.shelf.get(name).ok_or_else(|| {
            let known = self.shelf.list().unwrap_or_default();
            let known = known.into_iter().map(|kernel| kernel.name).collect();
            UnknownKernel {
                name: name.to_string(),
                known,
            }
        })
    }

    /// The files that a start with this kernel needs.
    pub(crate) fn files(&self, name: &ItemName) -> Result<KernelFiles, UnknownKernel> {
        let kernel = self.known(name)?;
        let directory = self.shelf.directory(name);
        Ok(KernelFiles {
            kernel: directory.join(KERNEL_FILE),
            modules_archive: directory.join(MODULES_FILE),
            mount_modules_archive: (!kernel.mount_modules.is_empty())
                .then(|| directory.join(MOUNT_MODULES_FILE)),
            mount_modules: kernel.mount_modules,
            format: kernel.format,
            modules: kernel.modules,
        })
    }
}

fn import(
    shelf: &Shelf<Kernel>,
    sources: &Sources,
    request: ImportKernel,
) -> Result<Kernel, ImportKernelError> {
    let ImportKernel { source, name } = request;
    if shelf.get(&name).is_some() {
        return Err(ImportKernelError::Exists { name });
    }
    let bytes = read_source(sources, &source)?;
    let bootable =
        kernel_file::prepare(&bytes).map_err(|problem| ImportKernelError::NotBootable {
            path: source.clone(),
            problem,
        })?;

    let draft = shelf.draft()?;
    let path = draft.path().join(KERNEL_FILE);
    write_flushed(&path, &bootable.bytes)?;
    write_flushed(
        &draft.path().join(MODULES_FILE),
        &Archive::default().finish(),
    )?;
    let kernel = Kernel {
        name,
        format: bootable.format,
        arch: std::env::consts::ARCH.to_owned(),
        size_bytes: bootable.bytes.len() as u64,
        sha256: shelf::sha256(&path)?,
        source: source.display().to_string(),
        created_at: Timestamp::now(),
        modules: BTreeMap::new(),
        mount_modules: Vec::new(),
    };
    match shelf.put(draft, &kernel) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(ImportKernelError::Exists { name: kernel.name })
        }
        put => Ok(put.map(|()| kernel)?),
    }
}

fn read_source(sources: &Sources, source: &Path) -> Result<Vec<u8>, ImportKernelError> {
    let unreadable = |problem: String| ImportKernelError::Source {
        path: source.to_owned(),
        problem,
    };
    if !source.is_absolute() {
        return Err(unreadable("the path is not absolute".to_owned()));
    }
    let file = sources.open(source);
    let file = file.map_err(|error| unreadable(error.to_string()))?;
    let metadata = file
        .metadata()
        .map_err(|error| unreadable(error.to_string()))?;
    // Not a device or a pipe, which may never end.
    if !metadata.is_file() {
        return Err(unreadable("it is not a regular file".to_owned()));
    }
    // Nor a disk's image, given by mistake: it is read into memory as a whole.
    let most = kernel_file::MAX_SIZE as u64;
    if metadata.len() > most {
        let most = kernel_file::MAX_SIZE >> 20;
        return Err(unreadable(format!("it has more than {most} MiB")));
    }
    let mut bytes = Vec::new();
    let read = file.take(most).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(error.to_string()))?;
    Ok(bytes)
}

/// Writes a new file and flushes it to the disk.
pub(crate) fn write_flushed(path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let mut file = files::create_private(path)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .context("write", path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::kernel_file::tests::elf;

    fn kernels() -> (tempfile::TempDir, Kernels) {
        let dir = tempfile::tempdir().unwrap();
        let (root, allowed) = (
            dir.path().join("kernels"),
            dir.path().canonicalize().unwrap(),
        );
        let sources = Sources::new(vec![allowed], &root);
        let kernels = Kernels::open(root, sources, Arc::default()).unwrap();
        (dir, kernels)
    }

    #[tokio::test]
    async fn a_kernel_is_imported_once_under_its_name() {
        let (dir, kernels) = kernels();
        let source = dir.path().join("vmlinux");
        fs::write(&source, elf(62, 18)).unwrap();
        let request = ImportKernel {
            source,
            name: "mine".parse().unwrap(),
        };
        let kernel = kernels.import(request.clone()).await.unwrap();
        assert_eq!(kernel.format, KernelFormat::Elf);
        assert_eq!(kernels.list().await.unwrap().len(), 1);
        let again = kernels.import(request).await;
        assert!(matches!(again, Err(ImportKernelError::Exists { .. })));
        kernels.delete("mine").await.unwrap();
        assert!(kernels.list().await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_not_a_kernel_file_is_refused_and_leaves_nothing() {
        let (dir, kernels) = kernels();
        let text = dir.path().join("text");
        fs::write(&text, "not a kernel").unwrap();
        for source in [
            PathBuf::from("relative"),
            PathBuf::from("/dev/zero"),
            dir.path().join("missing"),
            dir.path().to_owned(),
            text,
        ] {
            let request = ImportKernel {
                source,
                name: "mine".parse().unwrap(),
            };
            let error = kernels.import(request).await.unwrap_err();
            assert!(!matches!(error, ImportKernelError::Storage(_)), "{error}");
        }
        assert_eq!(fs::read_dir(dir.path().join("kernels")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_file_outside_of_what_the_host_allows_is_refused_whether_it_is_there_or_not() {
        let (_dir, kernels) = kernels();
        let elsewhere = tempfile::tempdir().unwrap();
        fs::write(elsewhere.path().join("vmlinux"), elf(62, 18)).unwrap();
        let refused = async |name: &str| {
            let request = ImportKernel {
                source: elsewhere.path().join(name),
                name: "mine".parse().unwrap(),
            };
            let error = kernels.import(request).await.unwrap_err().to_string();
            assert!(error.contains("--import-allow DIR"), "{error}");
            error.replace(name, "NAME")
        };
        assert_eq!(refused("vmlinux").await, refused("nothing").await);
    }

    #[tokio::test]
    async fn a_file_that_is_too_large_for_a_kernel_is_not_read() {
        let (dir, kernels) = kernels();
        let source = dir.path().join("disk.img");
        let file = fs::File::create(&source).unwrap();
        file.set_len(1 << 40).unwrap();
        let request = ImportKernel {
            source,
            name: "mine".parse().unwrap(),
        };
        let error = kernels.import(request).await.unwrap_err();
        assert!(error.to_string().contains("more than 512 MiB"), "{error}");
    }
}
