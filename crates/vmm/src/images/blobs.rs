//! Layers that came over a network, kept under their digests: two images that share a layer fetch
//! it once.
//!
//! A blob is there whole or not at all, and it stays for as long as an image that was made of it.
//! Images do not need their blobs: losing one costs a download, and so does one that is damaged.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::Sweep;
use super::digest::Digest;
use crate::files::{self, Context as _, DraftFile, StorageError};

pub(crate) struct Blobs {
    root: PathBuf,
    /// Those that imports are at work with: how many, and whose turn it is to fetch it.
    held: Mutex<HashMap<Digest, Weak>>,
}

type Turn = tokio::sync::Mutex<()>;
type Weak = std::sync::Weak<Turn>;

/// Keeps a blob from being swept away.
#[derive(Debug, Clone)]
pub(crate) struct Hold {
    /// Held while the blob is fetched: others wait, and find it.
    pub(crate) turn: Arc<Turn>,
    /// The import's, which sweeps once its last hold is gone: work that was given up holds on
    /// until it notices.
    _afterwards: Option<Arc<Sweep>>,
}

impl Hold {
    /// The same for an import, which sweeps afterwards.
    pub(crate) fn before(self, afterwards: &Arc<Sweep>) -> Self {
        Self {
            _afterwards: Some(afterwards.clone()),
            ..self
        }
    }
}

impl Blobs {
    pub(crate) fn open(root: PathBuf) -> Result<Self, StorageError> {
        files::make_private_dir(&root)?;
        files::sweep_drafts(&root)?;
        Ok(Self {
            root,
            held: Mutex::default(),
        })
    }

    pub(crate) fn hold(&self, digest: &Digest) -> Hold {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, turn| turn.strong_count() > 0);
        let known = held.get(digest).and_then(Weak::upgrade);
        let turn = known.unwrap_or_else(|| {
            let turn = Arc::default();
            held.insert(digest.clone(), Arc::downgrade(&turn));
            turn
        });
        Hold {
            turn,
            _afterwards: None,
        }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.hex())
    }

    /// A blob that is here, with the size that it should have.
    pub(crate) fn get(&self, digest: &Digest, size: u64) -> Option<File> {
        let file = File::open(self.path(digest)).ok()?;
        let has_size = file.metadata().is_ok_and(|metadata| metadata.len() == size);
        has_size.then_some(file)
    }

    /// Begins a blob.
    pub(crate) fn draft(&self) -> Result<Draft, StorageError> {
        let place = DraftFile::begin(&self.root);
        let file = files::create_readable(place.path())?;
        Ok(Draft {
            file: Arc::new(file),
            place,
        })
    }

    /// Puts a blob in its place whose content was checked. It is on the disk before it has its
    /// name, so that a loss of power leaves none that only has the right size. Blocking.
    pub(crate) fn keep(&self, draft: Draft, digest: &Digest) -> Result<File, StorageError> {
        let place = self.path(digest);
        draft.file.sync_all().context("write", &place)?;
        fs::rename(draft.place.path(), &place).context("create", &place)?;
        files::sync_dir(&self.root)?;
        File::open(&place).context("read", &place)
    }

    /// Removes a blob that is not what it should be, unless another took its place meanwhile. The
    /// caller has its turn.
    pub(crate) fn discard(&self, digest: &Digest, damaged: &File) {
        let place = self.path(digest);
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let there = fs::symlink_metadata(&place).map(identity).ok();
        if there.is_some() && there == damaged.metadata().map(identity).ok() {
            tracing::warn!(path = %place.display(), "a layer is damaged and is fetched once more");
            remove(&place);
        }
    }

    /// Removes what is neither wanted nor held.
    pub(crate) fn sweep(&self, wanted: &HashSet<Digest>) {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(path = %self.root.display(), %error, "layers cannot be swept");
                return;
            }
        };
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries.flatten() {
            let name = entry.file_name();
            let digest = name
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse().ok());
            let Some(digest) = digest else {
                continue;
            };
            let is_held = held
                .get(&digest)
                .is_some_and(|turn| turn.strong_count() > 0);
            if !wanted.contains(&digest) && !is_held {
                remove(&entry.path());
            }
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a leftover stays until the next sweep");
    }
}

/// A blob in the making, which is removed unless it is kept.
pub(crate) struct Draft {
    pub(crate) file: Arc<File>,
    place: DraftFile,
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn put(blobs: &Blobs, content: &[u8]) -> Digest {
        let draft = blobs.draft().unwrap();
        (&*draft.file).write_all(content).unwrap();
        let digest = Digest::of(content);
        blobs.keep(draft, &digest).unwrap();
        digest
    }

    #[test]
    fn a_blob_stays_while_it_is_wanted_or_held() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        let [wanted, held, other] = [b"a", b"b", b"c"].map(|content| put(&blobs, content));
        let hold = blobs.hold(&held);
        let keep = HashSet::from([wanted.clone()]);
        blobs.sweep(&keep);
        assert!(blobs.get(&wanted, 1).is_some() && blobs.get(&held, 1).is_some());
        assert!(blobs.get(&other, 1).is_none());
        assert!(blobs.get(&wanted, 2).is_none(), "a blob of another size");
        drop(hold);
        blobs.sweep(&keep);
        assert!(blobs.get(&held, 1).is_none());
    }

    #[test]
    fn a_damaged_blob_is_discarded_and_not_the_one_that_took_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().join("blobs")).unwrap();
        let digest = put(&blobs, b"a");
        let damaged = blobs.get(&digest, 1).unwrap();
        put(&blobs, b"a");
        blobs.discard(&digest, &damaged);
        let there = blobs.get(&digest, 1).unwrap();
        blobs.discard(&digest, &there);
        assert!(blobs.get(&digest, 1).is_none());
    }

    #[test]
    fn a_draft_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().to_owned()).unwrap();
        drop(blobs.draft().unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
