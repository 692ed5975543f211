//! Images: what root disks start as.
//!
//! An image is one ext4 file system. It comes from packages (the default image, [`Images::pull`]) or
//! from what others made ([`Images::import`]); no mount, no container engine and no privilege is
//! needed for either.
//!
//! ```text
//! import ── source ── registry, layouts, archives: where the layers are
//!    │        └─ reference, manifest, digest: what is said of them, and whether it is so
//!    ├─ blobs          layers that came over a network, once each
//!    ├─ layer ── tar   their entries, without a file on the host
//!    ├─ tree           the layers merged, in memory
//!    └─ ext4           the tree in its place
//! ```

mod blobs;
mod build;
mod cache;
pub(crate) mod digest;
pub(crate) mod ext4;
mod import;
mod kernel;
pub(crate) mod layer;
pub(crate) mod manifest;
pub(crate) mod packages;
mod progress;
mod recipe;
pub(crate) mod reference;
mod registry;
pub(crate) mod source;
pub(crate) mod tar;
pub(crate) mod tree;

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use futures::Stream;
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
use crate::sources::Sources;

use self::blobs::Blobs;
use self::progress::Book;

pub use self::build::BuildError;
pub use self::ext4::Ext4Error;
pub use self::import::{ImportImage, ImportImageError};
pub use self::manifest::ImageProgram;
pub use self::packages::PackageError;
pub use self::progress::{ImportProgress, ImportState};
pub use self::registry::Credentials;

/// What a stranger's text says in an error, which is kept, logged and shown: enough of it to
/// recognise it by, whatever its length.
fn brief(text: &str) -> String {
    const SHOWN: usize = 400;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

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
    /// The digest of the manifest that it was made by, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// The digests of the layers that it was made of, unpacked, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// The digests of those layers that are kept on this host as they came.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<String>,
    /// What runs first in it.
    #[serde(default)]
    pub boots: Boots,
    /// What its maker wanted to run in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ImageProgram>,
}

/// What runs first in an image.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Boots {
    /// Its own `/sbin/init`.
    #[default]
    Init,
    /// It has none: our program in the guest runs its `program`, and stays when that ends.
    Program,
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
    /// How many bytes of this step are done, where it is about bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_bytes: Option<u64>,
    /// And of how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
}

impl Progress {
    pub(crate) fn at(step: u32, steps: u32, message: String) -> Self {
        Self {
            step,
            steps,
            message,
            done_bytes: None,
            total_bytes: None,
        }
    }

    pub(crate) fn of_bytes(self, done: u64, total: u64) -> Self {
        Self {
            done_bytes: Some(done),
            total_bytes: Some(total),
            ..self
        }
    }
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
    sources: Sources,
    blobs: Arc<Blobs>,
    book: Arc<Book>,
    /// How many layers are read or written at one time, over all imports: enough for the
    /// processors, and little enough for memory.
    workers: Arc<tokio::sync::Semaphore>,
    /// Two requests for the same download are one.
    pulling: Arc<tokio::sync::Mutex<()>>,
}

impl Images {
    pub(crate) fn open(
        root: PathBuf,
        blobs: PathBuf,
        cache: PathBuf,
        sources: Sources,
        kernels: Kernels,
        registry: Arc<Registry>,
    ) -> Result<Self, StorageError> {
        let shelf = Arc::new(Shelf::open(root, registry)?);
        let images = Self {
            shelf,
            kernels,
            cache,
            sources,
            blobs: Arc::new(Blobs::open(blobs)?),
            book: Arc::default(),
            workers: Arc::new(tokio::sync::Semaphore::new(WORKERS)),
            pulling: Arc::default(),
        };
        cache::sweep(&images.cache);
        images.sweep_blobs();
        Ok(images)
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
        let ticket = self
            .book
            .begin(ItemName::literal(crate::DEFAULT_IMAGE), "Debian".to_owned());
        let report = |step: Progress| {
            ticket.report(&step);
            progress(step);
        };
        let _alone = self.pulling.lock().await;
        let pulled = build::default_image(&self.shelf, &self.kernels, &self.cache, &report).await;
        ticket.end(pulled.as_ref().err().map(ToString::to_string));
        pulled
    }

    /// Makes an image of what others made. When the future is dropped before it is done, nothing is
    /// left behind.
    ///
    /// # Errors
    /// When the source is no image for this host, the name is taken, or the disk refuses; nothing
    /// is left behind.
    pub async fn import(
        &self,
        request: ImportImage,
        progress: ProgressSink<'_>,
    ) -> Result<Image, ImportImageError> {
        let ticket = self
            .book
            .begin(request.name.clone(), request.source.clone());
        let report = |step: Progress| {
            ticket.report(&step);
            progress(step);
        };
        let imported = self.carry_out(request, &report).await;
        ticket.end(imported.as_ref().err().map(ToString::to_string));
        imported
    }

    /// How far imports are: those that run, and every change from now on, as fast as it is taken.
    /// With a name, the stream ends when an import of that name is over.
    pub fn import_progress(
        &self,
        name: Option<ItemName>,
    ) -> impl Stream<Item = ImportProgress> + Send + use<> {
        self.book.watch(name)
    }

    /// Deletes an image that no VM uses.
    ///
    /// # Errors
    /// When it is not there, is in use, or the disk refuses.
    pub async fn delete(&self, name: &str) -> Result<(), RemoveError> {
        let (images, name) = (self.clone(), name.to_owned());
        blocking::run(move || {
            images.shelf.remove(&name)?;
            images.sweep_blobs();
            Ok(())
        })
        .await
    }

    /// Removes layers of which no image is made any more.
    fn sweep_blobs(&self) {
        match self.shelf.list() {
            Ok(images) => {
                let named = images.iter().flat_map(|image| &image.blobs);
                let wanted: HashSet<_> = named.filter_map(|digest| digest.parse().ok()).collect();
                self.blobs.sweep(&wanted);
            }
            Err(error) => tracing::warn!(%error, "layers are not swept"),
        }
    }

    /// What our program in the guest has to run, in an image that has no init of its own.
    pub(crate) fn stand_in(&self, name: &ItemName) -> Option<ImageProgram> {
        let image = self.shelf.get(name)?;
        (image.boots == Boots::Program).then(|| image.program.unwrap_or_default())
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

/// Layers are read and written by so many at one time.
const WORKERS: usize = 2;

/// Sweeps layers when an import is over, however it ended.
struct Sweep(Images);

impl std::fmt::Debug for Sweep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sweep")
    }
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.0.sweep_blobs();
    }
}
