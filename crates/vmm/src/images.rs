//! Images: what root disks start as.
//!
//! An image is one ext4 file system with an `/sbin/init` in it. It comes from packages (the
//! default image, [`Images::pull`]) or from an archive of somebody's own ([`Images::import`]); no
//! mount, no container engine and no privilege is needed for either.

mod build;
mod ext4;
mod import;
mod kernel;
mod packages;
mod recipe;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blocking;
use crate::errors::UnknownImage;
use crate::files::StorageError;
use crate::kernels::{Kernel, Kernels};
use crate::name::ItemName;
use crate::registry::{Registry, Share};
use crate::shelf::{Item, RemoveError, Shelf};

pub use self::build::BuildError;
pub use self::ext4::Ext4Error;
pub use self::import::{ImportImage, ImportImageError};
pub use self::packages::PackageError;

pub(crate) const ROOT_DISK: &str = "root.ext4";

/// An image on this host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    /// What it is called; unique among the host's images.
    pub name: ItemName,
    /// Size of its file system in MiB: the least that a VM's disk can have.
    pub size_mb: u64,
    /// SHA-256 of its file, in hexadecimal.
    pub sha256: String,
    /// Where it came from.
    pub source: String,
    /// When it came to this host.
    pub created_at: Timestamp,
}

impl Item for Image {
    const KIND: &'static str = "image";
    const DESCRIPTION: &'static str = "image.json";

    fn name(&self) -> &ItemName {
        &self.name
    }

    fn used_in(share: &Share, name: &ItemName) -> bool {
        share.image == *name
    }
}

/// How far a long piece of work has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Which step this is, from 1.
    pub step: u32,
    /// How many steps there are.
    pub steps: u32,
    /// What is being done.
    pub message: String,
}

/// Who wants to know how far it has come. Called between steps; must not block.
pub type ProgressSink<'a> = &'a (dyn Fn(Progress) + Send + Sync);

/// The default image and its kernel.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// The kernel.
    pub kernel: Kernel,
}

/// The host's images.
#[derive(Clone)]
pub struct Images {
    shelf: Arc<Shelf<Image>>,
    kernels: Kernels,
    cache: PathBuf,
    /// Two requests for the same download are one.
    pulling: Arc<tokio::sync::Mutex<()>>,
}

impl Images {
    pub(crate) fn open(
        root: PathBuf,
        cache: PathBuf,
        kernels: Kernels,
        registry: Arc<Registry>,
    ) -> Result<Self, StorageError> {
        let shelf = Arc::new(Shelf::open(root, registry)?);
        Ok(Self {
            shelf,
            kernels,
            cache,
            pulling: Arc::default(),
        })
    }

    /// All images, by name.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn list(&self) -> Result<Vec<Image>, StorageError> {
        let shelf = self.shelf.clone();
        blocking::run(move || shelf.list()).await
    }

    /// Makes the default image and its kernel present: from this host if they are here, from the
    /// cache of an earlier build, or built from Debian's packages.
    ///
    /// # Errors
    /// When the packages cannot be had or the build fails; nothing is left behind.
    pub async fn pull(&self, progress: ProgressSink<'_>) -> Result<Pulled, BuildError> {
        let _alone = self.pulling.lock().await;
        build::default_image(&self.shelf, &self.kernels, &self.cache, progress).await
    }

    /// Makes an image from an archive of a root file system.
    ///
    /// # Errors
    /// When the source is not such an archive, the name is taken, or the build fails; nothing is
    /// left behind.
    pub async fn import(
        &self,
        request: ImportImage,
        progress: ProgressSink<'_>,
    ) -> Result<Image, ImportImageError> {
        import::import(&self.shelf, request, progress).await
    }

    /// Deletes an image that no VM uses.
    ///
    /// # Errors
    /// When it is not there, is in use, or the disk refuses.
    pub async fn delete(&self, name: &str) -> Result<(), RemoveError> {
        let (shelf, name) = (self.shelf.clone(), name.to_owned());
        blocking::run(move || shelf.remove(&name)).await
    }

    /// The file that root disks are copied from.
    pub(crate) fn root_disk(&self, name: &ItemName) -> Result<PathBuf, UnknownImage> {
        if self.shelf.get(name).is_some() {
            return Ok(self.shelf.directory(name).join(ROOT_DISK));
        }
        let known = self.shelf.list().unwrap_or_default();
        let known = known.into_iter().map(|image| image.name).collect();
        Err(UnknownImage {
            name: name.to_string(),
            known,
        })
    }
}
