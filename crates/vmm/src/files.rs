//! Files that are whole or not there: atomic writes, and errors that say which path and what to do.
//!
//! Whatever this crate keeps appears by a rename: first written beside its place under a name that
//! starts with a dot (which no VM, image or kernel can have), flushed to the disk, then renamed,
//! and the directory flushed too. A crash leaves the old or the new, and perhaps a dotted leftover,
//! which the next start sweeps away.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

/// A file or directory of ours could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}{}", path.display(), advice(source))]
pub struct StorageError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl StorageError {
    /// What the system said when this was done to this path.
    pub(crate) fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// The path that could not be used.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the system said.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space there, or use a data directory on another disk"
        }
        io::ErrorKind::PermissionDenied => {
            "; give the user that runs the daemon access to it, or use another data directory"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; mount the file system writable, or use another data directory"
        }
        _ => "",
    }
}

/// Names the action and path that an I/O error belongs to.
pub(crate) trait Context<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StorageError>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, StorageError> {
        self.map_err(|source| StorageError::new(action, path, source.into()))
    }
}

/// Makes a directory, and those above it, that only its owner may enter.
pub(crate) fn make_private_dir(path: &Path) -> Result<(), StorageError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .context("create", path)
}

/// Makes a new file that only its owner may read.
pub(crate) fn create_private(path: &Path) -> Result<File, StorageError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .context("create", path)
}

/// Makes a new file that only its owner may read, to be written and read again.
pub(crate) fn create_readable(path: &Path) -> Result<File, StorageError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .context("create", path)
}

/// Writes a file such that every reader, and every crash, finds either the old or the new content.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> Result<(), StorageError> {
    let directory = parent(path);
    let draft = draft_in(directory);
    let written = (|| {
        let mut file = create_private(&draft)?;
        file.write_all(content).context("write", path)?;
        file.sync_all().context("write", path)?;
        fs::rename(&draft, path).context("write", path)
    })();
    if written.is_err() {
        // Best effort: what remains is swept at the next start.
        let _ = fs::remove_file(&draft);
    }
    written?;
    sync_dir(directory)
}

/// Flushes a directory, so that a rename in it survives a loss of power.
pub(crate) fn sync_dir(directory: &Path) -> Result<(), StorageError> {
    File::open(directory)
        .and_then(|dir| dir.sync_all())
        .context("flush", directory)
}

/// A directory in the making, which is removed unless it is put in its place.
#[derive(Debug)]
pub(crate) struct DraftDir {
    path: PathBuf,
    kept: bool,
}

impl DraftDir {
    /// Begins a directory that will appear in `directory`.
    pub(crate) fn begin(directory: &Path) -> Result<Self, StorageError> {
        let path = draft_in(directory);
        make_private_dir(&path)?;
        Ok(Self { path, kept: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets the directory appear under its name, whole and flushed.
    ///
    /// # Errors
    /// Fails when something of that name is there already, and when the disk refuses.
    pub(crate) fn appear_as(mut self, place: &Path) -> Result<(), StorageError> {
        sync_dir(&self.path)?;
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            &self.path,
            rustix::fs::CWD,
            place,
            rustix::fs::RenameFlags::NOREPLACE,
        )
        .context("create", place)?;
        self.kept = true;
        sync_dir(parent(place))
    }
}

impl Drop for DraftDir {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            let path = self.path.display();
            tracing::warn!(%path, %error, "a leftover stays until the next start");
        }
    }
}

/// Removes a directory such that it is there or gone, never half there under its name. That
/// somebody else has removed it is no error.
pub(crate) fn remove_dir_atomic(place: &Path) -> Result<(), StorageError> {
    let doomed = draft_in(parent(place));
    match fs::rename(place, &doomed) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed.context("remove", place)?,
    }
    if let Err(error) = fs::remove_dir_all(&doomed) {
        tracing::warn!(path = %doomed.display(), %error, "a leftover stays until the next start");
    }
    Ok(())
}

/// Removes what interrupted work left in a directory: everything whose name starts with a dot.
pub(crate) fn sweep_drafts(directory: &Path) -> Result<(), StorageError> {
    for entry in fs::read_dir(directory).context("read", directory)? {
        let entry = entry.context("read", directory)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        tracing::info!(path = %path.display(), "removing what interrupted work left behind");
        if entry.file_type().context("read", &path)?.is_dir() {
            fs::remove_dir_all(&path).context("remove", &path)?;
        } else {
            fs::remove_file(&path).context("remove", &path)?;
        }
    }
    Ok(())
}

/// A path in `directory` that nothing else uses.
pub(crate) fn draft_in(directory: &Path) -> PathBuf {
    directory.join(format!(".draft-{}", Uuid::new_v4().simple()))
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_written_file_is_private_and_leaves_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_cannot_happen_keeps_the_old_file_and_names_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        // A directory of that name cannot be replaced by a file: the rename fails at the last step.
        fs::create_dir(&path).unwrap();
        let error = write_atomic(&path, b"two").unwrap_err();
        assert_eq!(error.path(), path);
        assert!(error.to_string().contains(path.to_str().unwrap()));
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "a draft was left behind"
        );
    }

    #[test]
    fn a_full_disk_is_reported_with_what_to_do() {
        let full = Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull));
        let error = full
            .context("write", Path::new("/data/vm.json"))
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("cannot write /data/vm.json: "), "{error}");
        assert!(error.contains("free some space"), "{error}");
    }

    #[test]
    fn a_draft_directory_that_is_given_up_disappears() {
        let dir = tempfile::tempdir().unwrap();
        let draft = DraftDir::begin(dir.path()).unwrap();
        fs::write(draft.path().join("file"), "x").unwrap();
        drop(draft);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_never_appears_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("vm");
        DraftDir::begin(dir.path())
            .unwrap()
            .appear_as(&place)
            .unwrap();
        let error = DraftDir::begin(dir.path())
            .unwrap()
            .appear_as(&place)
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_is_gone_already_counts_as_removed() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("vm");
        fs::create_dir(&place).unwrap();
        remove_dir_atomic(&place).unwrap();
        remove_dir_atomic(&place).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_sweep_takes_the_leftovers_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("web-1")).unwrap();
        fs::create_dir_all(dir.path().join(".draft-1/deep")).unwrap();
        fs::write(dir.path().join(".draft-2"), "half").unwrap();
        sweep_drafts(dir.path()).unwrap();
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["web-1"]);
    }
}
