//! What is being made in the cache, which any number of daemons share.
//!
//! A daemon that starts may sweep its own directories: nobody else uses them. Here, somebody may be
//! at work. So whatever is made here is made in a directory that its maker holds a lock on; the
//! system lets go of it when the maker is gone, however that ended, and what nobody holds is a
//! leftover.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::files::{self, Context as _, DraftDir, StorageError};

/// A sweep takes a directory for a leftover only between two of its maker's steps.
const ATTEMPTS: usize = 10;

/// A directory in the making, which is removed unless it is put in its place; by whoever opens the
/// cache next, if its maker dies.
#[derive(Debug)]
pub(crate) struct CacheDraft {
    draft: DraftDir,
    /// Held for as long as this lives.
    _lock: File,
}

impl CacheDraft {
    /// Begins a directory that will appear in `directory`, which is made if needed.
    pub(crate) fn begin(directory: &Path) -> Result<Self, StorageError> {
        files::make_private_dir(directory)?;
        for _ in 0..ATTEMPTS {
            let draft = DraftDir::begin(directory)?;
            let lock = match open(draft.path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.context("open", draft.path())?,
            };
            match lock.try_lock() {
                Ok(()) if is_at(&lock, draft.path()) => {}
                // A file system without such locks: no sweep gets one there either.
                Err(TryLockError::Error(_)) => {}
                // A sweep was between the making and the lock.
                Ok(()) | Err(TryLockError::WouldBlock) => continue,
            }
            return Ok(Self { draft, _lock: lock });
        }
        Err(io::Error::from(io::ErrorKind::ResourceBusy)).context("create a draft in", directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.draft.path()
    }

    /// Lets the directory appear under its name.
    pub(crate) fn appear_as(self, place: &Path) -> Result<(), StorageError> {
        self.draft.appear_as(place)
    }
}

fn open(directory: &Path) -> io::Result<File> {
    let flags = OFlags::DIRECTORY.bits() | OFlags::NOFOLLOW.bits();
    let mut open = File::options();
    open.read(true).custom_flags(flags as i32).open(directory)
}

fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let there = fs::symlink_metadata(path).map(identity).ok();
    there.is_some() && there == file.metadata().map(identity).ok()
}

/// Writes a small file of the cache whole.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let draft = CacheDraft::begin(path.parent().unwrap_or(Path::new("/")))?;
    let written = draft.path().join("file");
    files::write_atomic(&written, content)?;
    fs::rename(&written, path).context("write", path)
}

/// Removes what was being made in a cache by those who are gone.
pub(crate) fn sweep(cache: &Path) {
    for directory in directories(cache) {
        for (path, _lock) in leftovers(&directory) {
            tracing::info!(path = %path.display(), "removing what interrupted work left behind");
            if let Err(error) = files::remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "a leftover stays in the cache");
            }
        }
    }
}

/// Where in a cache things are made.
fn directories(cache: &Path) -> [PathBuf; 3] {
    [
        cache.to_owned(),
        super::build::store(cache),
        super::packages::store(cache),
    ]
}

/// The drafts in a directory that nobody works on, each with the lock that keeps it so.
fn leftovers(directory: &Path) -> impl Iterator<Item = (PathBuf, File)> {
    // A cache that is not there yet has none.
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| {
        let entry = entry.ok()?;
        let path = entry.path();
        if !files::is_draft(&path) || !entry.file_type().ok()?.is_dir() {
            return None;
        }
        let lock = open(&path).ok()?;
        lock.try_lock().ok()?;
        Some((path, lock))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_sweep_takes_what_dead_makers_left_and_nothing_of_the_living() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        sweep(&cache);
        for directory in directories(&cache) {
            let draft = CacheDraft::begin(&directory).unwrap();
            fs::create_dir(draft.path().join("deep")).unwrap();
            fs::create_dir(directory.join("finished")).unwrap();
            let before = left(&directory);
            sweep(&cache);
            assert_eq!(left(&directory), before);
            // A maker that dies removes nothing, and its lock is gone.
            let CacheDraft { draft, _lock } = draft;
            drop(_lock);
            sweep(&cache);
            assert_eq!(left(&directory), before - 1);
            drop(draft);
        }
    }

    #[test]
    fn a_draft_that_is_kept_or_given_up_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let draft = CacheDraft::begin(dir.path()).unwrap();
        draft.appear_as(&dir.path().join("build")).unwrap();
        drop(CacheDraft::begin(dir.path()).unwrap());
        write(&dir.path().join("packages.json"), b"one").unwrap();
        write(&dir.path().join("packages.json"), b"two").unwrap();
        assert_eq!(left(dir.path()), 2);
        assert_eq!(fs::read(dir.path().join("packages.json")).unwrap(), b"two");
    }
}
