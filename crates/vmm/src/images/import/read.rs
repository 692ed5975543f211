//! The first half of an import: every layer is here, was read once, and is what it should be.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::ImportImageError;
use super::steps::Work;
use crate::fault;
use crate::images::blobs::Hold;
use crate::images::digest::Digest;
use crate::images::layer::{Layer, Scanned};
use crate::images::manifest::Descriptor;
use crate::images::registry::Repository;
use crate::images::source::{self, Found, LayerAt, SourceError};

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
        let hold = blobs.hold(digest).before(&self.afterwards);
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
}

/// The sum of sizes that others have said: at most the largest number.
fn all_of(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
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
