//! Files that are whole or not there: atomic writes, and errors that say which path and what to do.
//!
//! Whatever this crate keeps appears by a rename: first written beside its place under a name that
//! starts with a dot (which no VM, image or kernel can have), flushed to the disk, then renamed,
//! and the directory flushed too. A crash leaves the old or the new, and perhaps a dotted leftover,
//! which the next start sweeps away.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use uuid::Uuid;

use crate::fault;

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

/// Makes a directory that only its owner may enter, in a place where others may make some too: one
/// that is there has to be ours, and closed.
pub(crate) fn make_private_dir_among_others(path: &Path) -> Result<(), StorageError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made.context("create", path),
    }
    let found = fs::symlink_metadata(path).context("read", path)?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && ours && found.mode() & 0o077 == 0 {
        return Ok(());
    }
    let told = "it is not a directory of this user's alone; remove it";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, told)).context("use", path)
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
    let making = Making::begin(draft_in(directory));
    let draft = making.path();
    let written = (|| {
        let mut file = create_private(draft)?;
        file.write_all(content).context("write", path)?;
        file.sync_all().context("write", path)?;
        fault::point("write.drafted");
        fs::rename(draft, path).context("write", path)
    })();
    if written.is_err() {
        // Best effort: what remains is swept at the next start.
        let _ = fs::remove_file(draft);
    }
    written?;
    fault::point("write.renamed");
    flush_name(path);
    Ok(())
}

/// Flushes a name that has just been given. It is there, for everybody who looks, so that a power cut
/// could take it away again is no reason to say that nothing has happened.
fn flush_name(path: &Path) {
    if let Err(error) = sync_dir(parent(path)) {
        tracing::error!(path = %path.display(), %error, "a file may not outlive a power cut");
    }
}

/// Reads a file of ours that is no longer than `most` bytes. What is no file, a pipe that somebody
/// put in its place say, is an error and not waited for.
pub(crate) fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    if file.metadata()?.len() > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file to be read; what is no file is an error and not waited for.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    // Without O_NONBLOCK, to open a pipe is to wait for whoever writes to it; of a file, it means
    // nothing.
    let mut open = OpenOptions::new();
    let flags = OFlags::NONBLOCK.bits() | OFlags::NOCTTY.bits();
    let file = open.read(true).custom_flags(flags as i32).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// What is being made now, and therefore is no leftover although its name starts with a dot.
static IN_THE_MAKING: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn in_the_making() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    IN_THE_MAKING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether somebody is at work on this path, or on what is above it.
pub(crate) fn is_in_the_making(path: &Path) -> bool {
    let making = in_the_making();
    path.ancestors().any(|above| making.contains(above))
}

/// A path that is being worked on for as long as this lives.
#[derive(Debug)]
struct Making(PathBuf);

impl Making {
    fn begin(path: PathBuf) -> Self {
        in_the_making().insert(path.clone());
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        in_the_making().remove(&self.0);
    }
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
    making: Making,
    kept: bool,
}

impl DraftDir {
    /// Begins a directory that will appear in `directory`.
    pub(crate) fn begin(directory: &Path) -> Result<Self, StorageError> {
        let making = Making::begin(draft_in(directory));
        make_private_dir(making.path())?;
        Ok(Self {
            making,
            kept: false,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.making.path()
    }

    /// Lets the directory appear under its name, whole and flushed.
    ///
    /// # Errors
    /// Fails when something of that name is there already, and when the disk refuses.
    pub(crate) fn appear_as(mut self, place: &Path) -> Result<(), StorageError> {
        sync_dir(self.path())?;
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            self.path(),
            rustix::fs::CWD,
            place,
            rustix::fs::RenameFlags::NOREPLACE,
        )
        .context("create", place)?;
        self.kept = true;
        flush_name(place);
        Ok(())
    }
}

impl Drop for DraftDir {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove_tree(self.path())
        {
            let path = self.path().display();
            tracing::warn!(%path, %error, "a leftover stays until the next start");
        }
    }
}

/// Removes a directory such that it is there or gone, never half there under its name. That
/// somebody else has removed it is no error.
pub(crate) fn remove_dir_atomic(place: &Path) -> Result<(), StorageError> {
    set_aside(place).map(drop)
}

/// The same in two steps: the directory has lost its name when this returns, and is removed with
/// what is returned, which takes as long as the disk does. `None` when it was gone already.
pub(crate) fn set_aside(place: &Path) -> Result<Option<DraftDir>, StorageError> {
    let making = Making::begin(draft_in(parent(place)));
    match fs::rename(place, making.path()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        renamed => renamed.context("remove", place)?,
    }
    fault::point("remove.renamed");
    Ok(Some(DraftDir {
        making,
        kept: false,
    }))
}

/// Removes a directory with all that is in it, unless something is mounted there: what a mount shows
/// is somebody else's.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    if let Some(mount) = mount_in(&mounts, directory) {
        let told = format!("{} is a mount; unmount it first", mount.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, told));
    }
    fs::remove_dir_all(directory)
}

/// What is mounted there or below, by `/proc/PID/mountinfo`: the fifth field, in which some
/// characters are octal numbers (proc_pid_mountinfo(5)).
fn mount_in(mounts: &str, directory: &Path) -> Option<PathBuf> {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut places = places.map(|place| {
        let place = escapes
            .iter()
            .fold(place.to_owned(), |place, (code, plain)| {
                place.replace(code, plain)
            });
        PathBuf::from(place)
    });
    places.find(|place| place.starts_with(directory))
}

/// Lets two files of one directory change their names, in one step.
pub(crate) fn exchange(one: &Path, other: &Path) -> Result<(), StorageError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).context("replace", other)?;
    flush_name(other);
    Ok(())
}

/// A file in the making, or one on its way out, beside the place of another. It is removed with
/// this.
#[derive(Debug)]
pub(crate) struct DraftFile {
    making: Making,
}

impl DraftFile {
    /// A name for a file in `directory`; nothing is there yet.
    pub(crate) fn begin(directory: &Path) -> Self {
        Self {
            making: Making::begin(draft_in(directory)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.making.path()
    }

    /// Keeps the file in its directory under a name like this one: `stem.extension`, or `stem-2.extension`
    /// when that is taken, and so on. Says which.
    ///
    /// # Errors
    /// When the disk refuses. The error says where the file is; there it stays until the next start.
    pub(crate) fn keep_as(self, stem: &str, extension: &str) -> Result<PathBuf, StorageError> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        use rustix::io::Errno;
        let directory = parent(self.path());
        let mut place = directory.join(format!("{stem}.{extension}"));
        let mut number = 1;
        loop {
            // Somebody else may be keeping one at the same time.
            match renameat_with(CWD, self.path(), CWD, &place, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {
                    number += 1;
                    place = directory.join(format!("{stem}-{number}.{extension}"));
                }
                Ok(()) => {
                    flush_name(&place);
                    return Ok(place);
                }
                Err(error) => {
                    let error = StorageError::new("rename", self.path(), error.into());
                    // It is in the making for good, so nothing of ours sweeps it away meanwhile.
                    std::mem::forget(self);
                    return Err(error);
                }
            }
        }
    }
}

impl Drop for DraftFile {
    fn drop(&mut self) {
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = self.path().display();
                tracing::warn!(%path, %error, "a leftover stays until the next start");
            }
            _ => {}
        }
    }
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
            remove_tree(&path).context("remove", &path)?;
        } else {
            fs::remove_file(&path).context("remove", &path)?;
        }
    }
    Ok(())
}

const DRAFT: &str = ".draft-";

/// A path in `directory` that nothing else uses.
pub(crate) fn draft_in(directory: &Path) -> PathBuf {
    directory.join(format!("{DRAFT}{}", Uuid::new_v4().simple()))
}

/// Whether a path has the name of a draft.
pub(crate) fn is_draft(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(DRAFT.as_bytes())
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
    fn a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.json");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let error = read_regular(&path, 100).unwrap_err();
        assert!(error.to_string().contains("not a regular file"), "{error}");
        assert!(
            read_regular(dir.path(), 100).is_err(),
            "a directory was read"
        );
        fs::remove_file(&path).unwrap();
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read_regular(&path, 10).unwrap(), b"0123456789");
        assert!(
            read_regular(&path, 9).is_err(),
            "more was read than is allowed"
        );
    }

    #[test]
    fn what_is_being_made_is_known_until_it_is_there_or_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let draft = DraftDir::begin(dir.path()).unwrap();
        let path = draft.path().to_owned();
        assert!(is_in_the_making(&path) && is_in_the_making(&path.join("disk")));
        draft.appear_as(&dir.path().join("vm")).unwrap();
        assert!(!is_in_the_making(&path) && !is_in_the_making(dir.path()));
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
    fn two_files_change_places_and_a_draft_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("disk");
        fs::write(&place, "old").unwrap();
        let draft = DraftFile::begin(dir.path());
        fs::write(draft.path(), "new").unwrap();
        exchange(draft.path(), &place).unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"new");
        assert_eq!(fs::read(draft.path()).unwrap(), b"old");
        drop(draft);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_kept_takes_nobodys_name_and_is_not_removed_when_it_gets_none() {
        let dir = tempfile::tempdir().unwrap();
        let draft = |content: &str| {
            let draft = DraftFile::begin(dir.path());
            fs::write(draft.path(), content).unwrap();
            draft
        };
        for (number, name) in ["old.ext4", "old-2.ext4", "old-3.ext4"].iter().enumerate() {
            let kept = draft(&number.to_string()).keep_as("old", "ext4").unwrap();
            assert_eq!(kept, dir.path().join(name));
        }
        let first = fs::read_to_string(dir.path().join("old.ext4"));
        assert_eq!(first.unwrap(), "0");
        // There is no such directory.
        let error = draft("last").keep_as("no/old", "ext4").unwrap_err();
        assert_eq!(fs::read_to_string(error.path()).unwrap(), "last");
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

    #[test]
    fn what_is_mounted_below_is_found_whatever_it_is_called() {
        let mounts = "22 1 0:20 / / rw - ext4 /dev/vda rw\n\
                      30 22 0:21 / /data/vms/.mount-a\\040b rw - ext4 /dev/vda rw\n";
        let found = |place: &str| mount_in(mounts, Path::new(place));
        assert_eq!(found("/data/vms"), Some("/data/vms/.mount-a b".into()));
        assert_eq!(found("/data/vms/.mount-a b"), found("/data"));
        assert_eq!(found("/data/vm"), None);
    }

    #[test]
    fn a_directory_that_others_can_enter_is_not_taken_for_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sockets");
        make_private_dir_among_others(&path).unwrap();
        make_private_dir_among_others(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let error = make_private_dir_among_others(&path).unwrap_err();
        assert!(error.to_string().contains("remove it"), "{error}");
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(dir.path(), &path).unwrap();
        make_private_dir_among_others(&path).unwrap_err();
    }
}
