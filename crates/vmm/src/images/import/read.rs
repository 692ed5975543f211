//! The first half of an import: every layer is here, was read once, and is what it should be.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::ImportImageError;
use super::steps::Work;
use crate::images::blobs::Hold;
use crate::images::digest::Digest;
use crate::images::layer::{Layer, LayerError, Scanned};
use crate::images::manifest::Descriptor;
use crate::images::registry::Repository;
use crate::images::source::{self, Found, LayerAt, SourceError};
use crate::{blocking, fault};

/// How many layers are fetched at one time.
const TRANSFERS: usize = 4;

/// A layer that was read once.
pub(super) struct Read {
    pub(super) layer: Layer,
    pub(super) scanned: Scanned,
    /// Keeps it in the store.
    pub(super) hold: Option<Hold>,
}

/// All layers, lowest first.
pub(super) struct AllRead(pub(super) Vec<Read>);

impl AllRead {
    /// Whether what was read as a root file system is an archive of layers.
    pub(super) fn is_layered(&self) -> bool {
        let [only] = &self.0[..] else {
            return false;
        };
        source::looks_layered(&only.scanned.entries)
    }
}

impl Work<'_> {
    /// Fetches what is elsewhere, and reads every layer once.
    pub(super) async fn read(&self, found: &Found) -> Result<AllRead, ImportImageError> {
        let total = all_of(found.layers.iter().map(LayerAt::work));
        self.make_sure_of_room(all_of(found.layers.iter().map(LayerAt::to_fetch)))?;
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
        let (mut layer, fetching) = match (at, repository) {
            (LayerAt::Here(layer), _) => (layer, None),
            (
                LayerAt::Registry {
                    descriptor,
                    diff_id,
                },
                Some(repository),
            ) => {
                let fetching = Fetching {
                    hold: (self.images.blobs.hold(&descriptor.digest)).before(&self.afterwards),
                    repository,
                    descriptor,
                    diff_id,
                };
                (self.fetch(&fetching, None).await?, Some(fetching))
            }
            (LayerAt::Registry { .. }, None) => {
                let lost = SourceError::Unreadable("its registry is not known".to_owned());
                return Err(lost.of(self.source));
            }
        };
        fault::point("image.fetched");
        let mut scanned = self.scan(&layer).await;
        // Whatever is wrong with a layer of ours, that it is damaged is not its image's fault.
        if let (Some(fetching), Err(error)) = (&fetching, &scanned)
            && !matches!(error, LayerError::Cancelled)
            && !self.is_whole(&layer).await
        {
            layer = self.fetch(fetching, Some(&layer.file)).await?;
            scanned = self.scan(&layer).await;
        }
        Ok(Read {
            scanned: scanned.map_err(|error| self.refused(error))?,
            layer,
            hold: fetching.map(|fetching| fetching.hold),
        })
    }

    async fn scan(&self, layer: &Layer) -> Result<Scanned, LayerError> {
        let (meter, layer) = (Arc::clone(&self.meter), layer.clone());
        self.on_a_worker(move || layer.scan(&meter)).await
    }

    async fn is_whole(&self, layer: &Layer) -> bool {
        let (meter, layer) = (Arc::clone(&self.meter), layer.clone());
        self.on_a_worker(move || layer.is_whole(&meter)).await
    }

    /// Gets a layer from the store, or into it; in the place of one that turned out damaged.
    async fn fetch(
        &self,
        Fetching {
            repository,
            descriptor: Descriptor { digest, size, .. },
            diff_id,
            hold,
        }: &Fetching,
        damaged: Option<&File>,
    ) -> Result<Layer, ImportImageError> {
        let blobs = &self.images.blobs;
        let turn = hold.turn.lock().await;
        if let Some(damaged) = damaged {
            blobs.discard(digest, damaged);
        }
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
                // The hold goes along: an import that is given up now sweeps when this is done.
                let (blobs, digest, hold) = (Arc::clone(blobs), digest.clone(), hold.clone());
                let kept = blocking::run(move || {
                    let kept = blobs.keep(draft, &digest);
                    drop(hold);
                    kept
                });
                kept.await?
            }
        };
        drop(turn);
        Ok(Layer {
            file: Arc::new(file),
            offset: 0,
            length: *size,
            digest: Some(digest.clone()),
            diff_id: Some(diff_id.clone()),
            is_ours: true,
        })
    }
}

/// The sum of sizes that others have said: at most the largest number.
fn all_of(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

/// What it takes to get a layer from a registry.
struct Fetching {
    repository: Arc<Repository>,
    descriptor: Descriptor,
    diff_id: Digest,
    /// Keeps it in the store.
    hold: Hold,
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
