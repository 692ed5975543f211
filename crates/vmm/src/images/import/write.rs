//! The second half of an import: the layers are merged, and the tree is written.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ImportImageError;
use super::read::{AllRead, Read};
use super::steps::{STEPS, Work};
use crate::files::{self, Context as _, StorageError};
use crate::images::blobs::Hold;
use crate::images::digest::Digest;
use crate::images::ext4::{self, LOST_FOUND, PlaceError, PlacedFile};
use crate::images::layer::{Layer, LayerError};
use crate::images::tree::{Refused, Tree};
use crate::images::{Image, ROOT_DISK};
use crate::shelf::sha256;
use crate::{blocking, disk, fault};

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

impl Work<'_> {
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
        {
            let _turn = self.turn().await;
            ext4::make_empty(disk, merged.size_mb, merged.tree.len() as u64).await?;
        }
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
