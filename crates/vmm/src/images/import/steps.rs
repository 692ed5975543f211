//! The steps of an import, and what they share: limits, workers, and how far it is.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::MissedTickBehavior;

use super::ImportImageError;
use crate::blocking;
use crate::disk;
use crate::fault;
use crate::files::{self, Context as _, DraftDir, StorageError};
use crate::images::blobs::Hold;
use crate::images::digest::Digest;
use crate::images::ext4::{self, LOST_FOUND, PlaceError, PlacedFile};
use crate::images::layer::{Layer, LayerError, Meter, Scanned};
use crate::images::manifest::Descriptor;
use crate::images::registry::Repository;
use crate::images::source::{self, Found, LayerAt, SourceError};
use crate::images::tree::{Refused, Tree};
use crate::images::{Image, Images, Progress, ProgressSink, ROOT_DISK};
use crate::shelf::sha256;

const STEPS: u32 = 4;
/// What an image may unpack to whose size nobody has said.
const UNSAID_LIMIT_MB: u64 = 16 * 1024;
/// How many layers are fetched at one time.
const TRANSFERS: usize = 4;
/// How often it is told how far a step is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// One import at work. When it goes, whatever still runs for it ends.
pub(super) struct Work<'a> {
    images: &'a Images,
    source: &'a str,
    size_mb: Option<u64>,
    progress: ProgressSink<'a>,
    meter: Arc<Meter>,
    /// Bytes that came over the network.
    fetched: AtomicU64,
    /// For what has to be unpacked as a whole; mostly nothing.
    scratch: DraftDir,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.meter.cancel();
    }
}

/// A layer that was read once.
struct Read {
    layer: Layer,
    scanned: Scanned,
    /// Keeps it in the store.
    hold: Option<Hold>,
}

/// All layers, lowest first.
pub(super) struct AllRead(Vec<Read>);

impl AllRead {
    /// Whether what was read as a root file system is an archive of layers.
    pub(super) fn is_layered(&self) -> bool {
        let [only] = &self.0[..] else {
            return false;
        };
        source::looks_layered(&only.scanned.entries)
    }
}

/// A tree, and where its data is.
pub(super) struct Merged {
    tree: Tree,
    layers: Vec<(Layer, Digest)>,
    pub(super) size_mb: u64,
    pub(super) has_init: bool,
    pub(super) diff_ids: Vec<Digest>,
    /// Those layers that are in the store.
    pub(super) blobs: Vec<Digest>,
    _holds: Vec<Hold>,
}

impl<'a> Work<'a> {
    pub(super) fn begin(
        images: &'a Images,
        source: &'a str,
        size_mb: Option<u64>,
        progress: ProgressSink<'a>,
    ) -> Result<Self, ImportImageError> {
        // Layers replace files of others, so they may hold more than what comes out.
        let limit_mb = size_mb.map_or(UNSAID_LIMIT_MB, |size_mb| size_mb.saturating_mul(2));
        Ok(Self {
            images,
            source,
            size_mb,
            progress,
            meter: Arc::new(Meter::new(limit_mb)),
            fetched: AtomicU64::new(0),
            scratch: images.shelf.draft()?,
        })
    }

    /// Tells which step begins.
    pub(super) fn say(&self, step: u32, message: String) {
        (self.progress)(Progress::at(step, STEPS, message));
    }

    /// Tells how far a step is while it lasts.
    async fn tell<T>(
        &self,
        (step, message): (u32, &str),
        total: u64,
        work: impl Future<Output = T>,
    ) -> T {
        self.say(step, message.to_owned());
        self.meter.done.store(0, Ordering::Relaxed);
        let mut ticks = tokio::time::interval(TELL_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {
                    let fetched = self.fetched.load(Ordering::Relaxed);
                    let done = self.meter.done.load(Ordering::Relaxed) + fetched;
                    let progress = Progress::at(step, STEPS, message.to_owned());
                    (self.progress)(progress.of_bytes(done.min(total), total));
                }
            }
        }
    }

    /// Work that blocks, when a worker is free for it: imports take turns with the processors.
    async fn on_a_worker<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let permit = Arc::clone(&self.images.workers).acquire_owned().await;
        blocking::run(move || {
            let done = work();
            drop(permit);
            done
        })
        .await
    }

    /// Fetches what is elsewhere, and reads every layer once.
    pub(super) async fn read(&self, found: &Found) -> Result<AllRead, ImportImageError> {
        let total: u64 = found.layers.iter().map(LayerAt::work).sum();
        self.make_sure_of_room(found.layers.iter().map(LayerAt::to_fetch).sum())?;
        let layers = stream::iter(found.layers.clone())
            .map(|layer| self.read_one(layer, found.repository.clone()))
            .buffered(TRANSFERS)
            .try_collect();
        let step = (2, "fetching and reading layers");
        Ok(AllRead(self.tell(step, total, layers).await?))
    }

    async fn read_one(
        &self,
        at: LayerAt,
        repository: Option<Arc<Repository>>,
    ) -> Result<Read, ImportImageError> {
        let (layer, hold) = match (at, repository) {
            (LayerAt::Here(layer), _) => (layer, None),
            (
                LayerAt::Registry {
                    descriptor,
                    diff_id,
                },
                Some(repository),
            ) => {
                let (layer, hold) = self.fetch(&repository, &descriptor, &diff_id).await?;
                (layer, Some(hold))
            }
            (LayerAt::Registry { .. }, None) => {
                let lost = SourceError::Unreadable("its registry is not known".to_owned());
                return Err(lost.of(self.source));
            }
        };
        fault::point("image.fetched");
        let (meter, scanning) = (Arc::clone(&self.meter), layer.clone());
        let scanned = self.on_a_worker(move || scanning.scan(&meter)).await;
        let scanned = scanned.map_err(|error| self.refused(error))?;
        Ok(Read {
            layer,
            scanned,
            hold,
        })
    }

    async fn fetch(
        &self,
        repository: &Repository,
        Descriptor { digest, size, .. }: &Descriptor,
        diff_id: &Digest,
    ) -> Result<(Layer, Hold), ImportImageError> {
        let blobs = &self.images.blobs;
        let hold = blobs.hold(digest);
        let turn = hold.turn.lock().await;
        let file = match blobs.get(digest, *size) {
            Some(file) => {
                self.fetched.fetch_add(*size, Ordering::Relaxed);
                file
            }
            None => {
                let draft = blobs.draft()?;
                let fetched = repository.blob(digest, *size, &draft, &self.fetched).await;
                fetched.map_err(|error| SourceError::from(error).of(self.source))?;
                fault::point("image.fetching");
                blobs.keep(draft, digest)?
            }
        };
        drop(turn);
        let layer = Layer {
            file: Arc::new(file),
            offset: 0,
            length: *size,
            digest: Some(digest.clone()),
            diff_id: Some(diff_id.clone()),
            is_ours: true,
        };
        Ok((layer, hold))
    }

    /// Unpacks an archive that is packed as a whole, and looks what is in it.
    pub(super) async fn unpack(&self, found: Found) -> Result<Found, ImportImageError> {
        let path = self.scratch.path().join("archive");
        let file = Arc::new(files::create_readable(&path)?);
        let Some(LayerAt::Here(layer)) = found.layers.into_iter().next() else {
            let lost = SourceError::Unreadable("it has no content".to_owned());
            return Err(lost.of(self.source));
        };
        let (meter, target) = (Arc::clone(&self.meter), Arc::clone(&file));
        let unpacked = self
            .on_a_worker(move || layer.unpack(&target, &meter))
            .await;
        let length = unpacked.map_err(|error| self.refused(error))?;
        let found = blocking::run(move || source::find_in_file(file, length, None)).await;
        found.map_err(|error| error.of(self.source))
    }

    /// Merges the layers and checks that the result is an image of the size that was asked for.
    pub(super) async fn merge(&self, read: AllRead) -> Result<Arc<Merged>, ImportImageError> {
        let size_mb = self.size_mb;
        let merged = self.on_a_worker(move || merge(read, size_mb)).await;
        let merged = merged.map_err(|refused| self.refused(refused.into()))?;
        let needed_mb = merged.tree.file_bytes().div_ceil(1 << 20);
        if merged.size_mb < needed_mb {
            return Err(self.too_small(merged.size_mb, needed_mb));
        }
        Ok(merged)
    }

    fn too_small(&self, size_mb: u64, needed_mb: u64) -> ImportImageError {
        ImportImageError::TooSmall {
            source_text: self.source.to_owned(),
            size_mb,
            needed_mb,
        }
    }

    /// Writes the file system; returns its checksum.
    pub(super) async fn write(
        &self,
        merged: &Arc<Merged>,
        disk: &Path,
    ) -> Result<String, ImportImageError> {
        if let Some(sha256) = self.reuse(merged, disk).await {
            return Ok(sha256);
        }
        self.make_sure_of_room(merged.tree.file_bytes())?;
        let length: u64 = merged.layers.iter().map(|(layer, _)| layer.length).sum();
        let file = Arc::new(files::create_readable(disk)?);
        ext4::make_empty(disk, merged.size_mb, merged.tree.len() as u64).await?;
        fault::point("image.made");
        self.fetched.store(0, Ordering::Relaxed);
        let writing = self.write_tree(merged, &file, disk);
        self.tell((3, "writing the file system"), length, writing)
            .await?;
        fault::point("image.written");

        self.say(STEPS, "flushing and summing it".to_owned());
        let disk = disk.to_owned();
        let summed = self.on_a_worker(move || {
            file.sync_all().context("write", &disk)?;
            sha256(&disk)
        });
        Ok(summed.await?)
    }

    async fn write_tree(
        &self,
        merged: &Arc<Merged>,
        file: &Arc<File>,
        disk: &Path,
    ) -> Result<(), ImportImageError> {
        let (placing, target) = (Arc::clone(merged), Arc::clone(file));
        let placed = self
            .on_a_worker(move || ext4::place(&target, &placing.tree))
            .await;
        let placed = placed.map_err(|error| self.not_placed(error, merged, disk))?;
        let placed: Arc<Vec<PlacedFile>> = Arc::new(placed);
        fault::point("image.placed");

        let mut writers = Vec::new();
        for (index, (layer, digest)) in (0u32..).zip(&merged.layers) {
            let from = placed.partition_point(|file| file.at.layer < index);
            let to = placed.partition_point(|file| file.at.layer <= index);
            if from < to {
                let (placed, meter) = (Arc::clone(&placed), Arc::clone(&self.meter));
                let (layer, digest, target) = (layer.clone(), digest.clone(), Arc::clone(file));
                writers.push(self.on_a_worker(move || {
                    layer.replay(&placed[from..to], &digest, &target, &meter)
                }));
            }
        }
        let written = futures::future::try_join_all(writers).await;
        match written {
            Err(LayerError::Write(error)) => Err(StorageError::new("write", disk, error).into()),
            written => written.map(drop).map_err(|error| self.refused(error)),
        }
    }

    fn not_placed(&self, error: PlaceError, merged: &Merged, disk: &Path) -> ImportImageError {
        match error {
            PlaceError::Full => {
                let needed_mb = ext4::size_for_tree(&merged.tree);
                self.too_small(merged.size_mb, needed_mb.max(merged.size_mb + 1))
            }
            PlaceError::Io(error) => StorageError::new("write", disk, error).into(),
            other => ImportImageError::Image {
                source_text: self.source.to_owned(),
                problem: other.to_string(),
            },
        }
    }

    /// Takes the file of another image that was made of the same layers, to the same size.
    async fn reuse(&self, merged: &Arc<Merged>, disk: &Path) -> Option<String> {
        let shelf = Arc::clone(&self.images.shelf);
        let (merged, to) = (Arc::clone(merged), disk.to_owned());
        blocking::run(move || {
            let diff_ids: Vec<String> = merged.diff_ids.iter().map(ToString::to_string).collect();
            let is_same = |image: &Image| {
                image.layers == diff_ids && image.size_mb == merged.size_mb && !diff_ids.is_empty()
            };
            let image = shelf.list().ok()?.into_iter().find(is_same)?;
            let from = shelf.directory(&image.name).join(ROOT_DISK);
            disk::place(&from, to).ok()?;
            Some(image.sha256)
        })
        .await
    }

    /// Refuses early what the disk has no room for.
    fn make_sure_of_room(&self, bytes: u64) -> Result<(), StorageError> {
        let path = self.scratch.path();
        let room = rustix::fs::statvfs(path).map_err(io::Error::from);
        let room = room.context("look at", path)?;
        if room.f_bavail.saturating_mul(room.f_frsize) < bytes {
            return Err(io::Error::from(io::ErrorKind::StorageFull)).context("write", path);
        }
        Ok(())
    }

    fn refused(&self, error: LayerError) -> ImportImageError {
        ImportImageError::Image {
            source_text: self.source.to_owned(),
            problem: error.to_string(),
        }
    }
}

fn merge(read: AllRead, size_mb: Option<u64>) -> Result<Arc<Merged>, Refused> {
    let mut tree = Tree::new();
    let mut merged = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (layers, diff_ids, blobs, holds) =
        (&mut merged.0, &mut merged.1, &mut merged.2, &mut merged.3);
    for (
        index,
        Read {
            layer,
            scanned,
            hold,
        },
    ) in (0u32..).zip(read.0)
    {
        tree.apply(index, scanned.entries)?;
        diff_ids.push(scanned.diff_id);
        if hold.is_some() {
            blobs.push(scanned.digest.clone());
        }
        holds.extend(hold);
        layers.push((layer, scanned.digest));
    }
    // Every file system has one of its own.
    tree.remove_from_root(LOST_FOUND);
    let has_init = tree
        .find(b"sbin/init")
        .is_some_and(|node| node.is_program());
    let (layers, diff_ids, blobs, _holds) = merged;
    Ok(Arc::new(Merged {
        size_mb: size_mb.unwrap_or_else(|| ext4::size_for_tree(&tree)),
        tree,
        layers,
        has_init,
        diff_ids,
        blobs,
        _holds,
    }))
}

impl LayerAt {
    fn to_fetch(&self) -> u64 {
        match self {
            Self::Here(_) => 0,
            Self::Registry { descriptor, .. } => descriptor.size,
        }
    }

    /// Bytes that pass by until it is read.
    fn work(&self) -> u64 {
        match self {
            Self::Here(layer) => layer.length,
            Self::Registry { descriptor, .. } => descriptor.size.saturating_mul(2),
        }
    }
}
