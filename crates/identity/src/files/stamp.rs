//! Whether files have changed, without reading them.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;

use super::SvidFiles;

/// A file that was touched more recently than this may be touched again without its stamp
/// showing it, because file systems keep time in coarse steps (two seconds at worst).
const SETTLED_AFTER_SECS: i64 = 3;

/// What tells one state of a set of files from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamps([Stamp; 3]);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    /// Changes with the permissions too, and cannot be set back by `touch` or `cp -p`.
    changed: (i64, i64),
}

impl Stamps {
    /// The stamps of the set at `now`; `None` when one of the files is missing, or so new that
    /// its stamp says nothing yet.
    pub(super) fn of(files: &SvidFiles, now: Timestamp) -> Option<Self> {
        let settled_before = now.as_second() - SETTLED_AFTER_SECS;
        let stamp = |path| {
            let stamp = Stamp::new(&fs::metadata(path).ok()?);
            (stamp.changed.0 < settled_before && stamp.modified.0 < settled_before).then_some(stamp)
        };
        Some(Self([
            stamp(&files.chain)?,
            stamp(&files.key)?,
            stamp(&files.bundle)?,
        ]))
    }
}

impl Stamp {
    fn new(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use jiff::SignedDuration;
    use tempfile::TempDir;

    use super::*;

    fn files() -> (SvidFiles, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let files = SvidFiles {
            chain: file("chain"),
            key: file("key"),
            bundle: file("bundle"),
        };
        (files, dir)
    }

    fn later() -> Timestamp {
        Timestamp::now() + SignedDuration::from_secs(60)
    }

    #[test]
    fn files_that_rest_keep_their_stamps() {
        let (files, _dir) = files();
        assert!(Stamps::of(&files, later()).is_some());
        assert_eq!(Stamps::of(&files, later()), Stamps::of(&files, later()));
    }

    #[test]
    fn a_file_that_was_touched_just_now_has_no_stamp_yet() {
        let (files, _dir) = files();
        assert_eq!(Stamps::of(&files, Timestamp::now()), None);
    }

    #[test]
    fn a_replacement_with_the_old_time_and_size_has_another_stamp() {
        let (files, dir) = files();
        let before = Stamps::of(&files, later()).unwrap();
        let old = fs::metadata(&files.key).unwrap().modified().unwrap();
        let replacement = dir.path().join("new");
        fs::write(&replacement, "yek").unwrap();
        let handle = fs::File::options().write(true).open(&replacement).unwrap();
        handle.set_modified(old).unwrap();
        fs::rename(&replacement, &files.key).unwrap();
        assert_ne!(Stamps::of(&files, later()).unwrap(), before);
    }

    #[test]
    fn a_file_from_the_future_is_never_settled() {
        let (files, _dir) = files();
        let future = SystemTime::now() + Duration::from_secs(3600);
        let handle = fs::File::options().write(true).open(&files.chain).unwrap();
        handle.set_modified(future).unwrap();
        assert_eq!(Stamps::of(&files, later()), None);
    }

    #[test]
    fn a_set_with_a_file_missing_has_no_stamps() {
        let (files, _dir) = files();
        fs::remove_file(&files.bundle).unwrap();
        assert_eq!(Stamps::of(&files, later()), None);
    }
}
