//! The steps of an import, and what they share: limits, workers, and how far it is.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::MissedTickBehavior;

use super::ImportImageError;
use crate::blocking;
use crate::files::{self, Context as _, DraftDir, StorageError};
use crate::images::layer::{LayerError, Meter};
use crate::images::source::{self, Found, LayerAt, SourceError};
use crate::images::{Images, Progress, ProgressSink, Sweep};

pub(super) const STEPS: u32 = 4;
/// What an image may unpack to whose size nobody has said.
const UNSAID_LIMIT_MB: u64 = 16 * 1024;
/// How often it is told how far a step is.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// One import at work. When it goes, whatever still runs for it ends.
pub(super) struct Work<'a> {
    pub(super) images: &'a Images,
    pub(super) source: &'a str,
    pub(super) size_mb: Option<u64>,
    progress: ProgressSink<'a>,
    pub(super) meter: Arc<Meter>,
    /// Bytes that came over the network.
    pub(super) fetched: AtomicU64,
    /// For what has to be unpacked as a whole; mostly nothing.
    scratch: DraftDir,
    pub(super) afterwards: Arc<Sweep>,
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.meter.cancel();
    }
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
            afterwards: Arc::new(Sweep(images.clone())),
        })
    }

    /// Tells which step begins.
    pub(super) fn say(&self, step: u32, message: String) {
        (self.progress)(Progress::at(step, STEPS, message));
    }

    /// Tells how far a step is while it lasts.
    pub(super) async fn tell<T>(
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

    /// A turn with the processors, of which all imports together have only so many.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        let workers = Arc::clone(&self.images.workers);
        // Nobody closes it.
        workers.acquire_owned().await.ok()
    }

    /// Work that blocks, when a worker is free for it: imports take turns with the processors,
    /// and let everybody else go first.
    pub(super) async fn on_a_worker<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let turn = self.turn().await;
        blocking::run_behind(move || {
            let done = work();
            drop(turn);
            done
        })
        .await
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

    pub(super) fn too_small(&self, size_mb: u64, needed_mb: u64) -> ImportImageError {
        ImportImageError::TooSmall {
            source_text: self.source.to_owned(),
            size_mb,
            needed_mb,
        }
    }

    /// Refuses early what the disk has no room for.
    pub(super) fn make_sure_of_room(&self, bytes: u64) -> Result<(), StorageError> {
        let path = self.scratch.path();
        let room = rustix::fs::statvfs(path).map_err(io::Error::from);
        let room = room.context("look at", path)?;
        if room.f_bavail.saturating_mul(room.f_frsize) < bytes {
            return Err(io::Error::from(io::ErrorKind::StorageFull)).context("write", path);
        }
        Ok(())
    }

    pub(super) fn refused(&self, error: LayerError) -> ImportImageError {
        ImportImageError::Image {
            source_text: self.source.to_owned(),
            problem: error.to_string(),
        }
    }
}
