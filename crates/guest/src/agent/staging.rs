//! What becomes a file piece by piece, until it is put in its place.
//!
//! It has no name meanwhile (open(2), `O_TMPFILE`), so nothing is left of it when nobody goes on: not
//! when the guest ends in between, however it ends. A file system that cannot do that (one that is
//! shared by the host) has it under a name, which goes with it. The host cannot tell us that whoever
//! sent the pieces is gone, so what nobody has touched for a while is given up.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::protocol::Stage;

/// How long a next piece is waited for: whoever sends them may read them from something slow.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// What is gathered at one time; one more gives up the one that waits longest.
const MAX_STAGED: usize = 64;

/// What the host is putting into this guest.
pub(super) static STAGING: Staging = Staging(Mutex::new(None));

/// The file that it will be, and the name of the upload.
type Key = (Vec<u8>, String);

#[derive(Default)]
struct All {
    staged: HashMap<Key, Staged>,
    is_swept: bool,
}

/// Everything that is gathered.
pub(super) struct Staging(Mutex<Option<All>>);

impl Staging {
    /// Writes a piece; the one at the beginning begins.
    pub(super) fn write(
        &'static self,
        path: &[u8],
        stage: &Stage,
        directory: OwnedFd,
        offset: u64,
        data: &[u8],
    ) -> io::Result<()> {
        let key = key(path, stage);
        if offset == 0 {
            // One of the same name ends first: it may have a name in the directory.
            drop(self.take(path, stage));
            self.keep(key.clone(), Staged::begin(directory, stage)?);
        }
        let file = self.lock(|all| {
            let staged = all.staged.get_mut(&key)?;
            staged.touched = Instant::now();
            Some(Arc::clone(&staged.file))
        });
        file.ok_or_else(gone)?.write_all_at(data, offset)
    }

    /// What was gathered for a file, which is gone unless it is put in its place.
    pub(super) fn take(&self, path: &[u8], stage: &Stage) -> io::Result<Staged> {
        let key = key(path, stage);
        self.lock(|all| all.staged.remove(&key)).ok_or_else(gone)
    }

    fn keep(&'static self, key: Key, staged: Staged) {
        let is_swept = self.lock(|all| {
            while all.staged.len() >= MAX_STAGED {
                let longest = all.staged.iter().min_by_key(|(_, staged)| staged.touched);
                let Some(longest) = longest.map(|(key, _)| key.clone()) else {
                    break;
                };
                all.staged.remove(&longest);
            }
            all.staged.insert(key, staged);
            std::mem::replace(&mut all.is_swept, true)
        });
        if !is_swept {
            let sweeping = thread::Builder::new().stack_size(64 * 1024).spawn(move || {
                while self.sweep(IDLE) {
                    thread::sleep(IDLE / 10)
                }
            });
            if sweeping.is_err() {
                self.lock(|all| all.is_swept = false);
            }
        }
    }

    /// Gives up what was not touched for so long; says whether anything is left to sweep.
    fn sweep(&self, idle: Duration) -> bool {
        self.lock(|all| {
            all.staged
                .retain(|_, staged| staged.touched.elapsed() < idle);
            all.is_swept = !all.staged.is_empty();
            all.is_swept
        })
    }

    fn lock<T>(&self, work: impl FnOnce(&mut All) -> T) -> T {
        let mut all: MutexGuard<'_, _> = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(all.get_or_insert_default())
    }
}

fn key(path: &[u8], stage: &Stage) -> Key {
    (path.to_vec(), stage.to_string())
}

fn gone() -> io::Error {
    let reason = "nothing of this upload is here (any more); begin it anew";
    io::Error::new(io::ErrorKind::NotFound, reason)
}

/// What becomes a file.
pub(super) struct Staged {
    file: Arc<File>,
    directory: OwnedFd,
    name: String,
    /// Whether it has its name already.
    is_named: bool,
    touched: Instant,
}

impl Staged {
    fn begin(directory: OwnedFd, stage: &Stage) -> io::Result<Self> {
        let (flags, mode) = (OFlags::WRONLY | OFlags::CLOEXEC, Mode::from(0o600));
        let name = format!(".hostler-{stage}");
        let (file, is_named) = match openat(&directory, c".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => (file, false),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
                let flags = flags | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
                (openat(&directory, &name, flags, mode)?, true)
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            file: Arc::new(file.into()),
            directory,
            name,
            is_named,
            touched: Instant::now(),
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn directory(&self) -> impl AsFd {
        &self.directory
    }

    /// Gives it the name that it was for, in one step.
    pub(super) fn place(mut self, name: &[u8]) -> io::Result<()> {
        if !self.is_named {
            // A link takes nobody's place, so it gets there under another name.
            let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            linkat(
                CWD,
                own,
                &self.directory,
                &self.name,
                AtFlags::SYMLINK_FOLLOW,
            )?;
            self.is_named = true;
        }
        renameat(&self.directory, &self.name, &self.directory, name)?;
        self.is_named = false;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.is_named {
            let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    /// A directory that goes with the test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("hostler-staging-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn open(&self) -> OwnedFd {
            File::open(&self.0).unwrap().into()
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect()
        }

        fn read(&self, name: &str) -> Vec<u8> {
            fs::read(Path::new(&self.0).join(name)).unwrap()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn staging() -> &'static Staging {
        Box::leak(Box::new(Staging(Mutex::default())))
    }

    #[test]
    fn what_is_gathered_has_no_name_until_it_is_whole() {
        let (all, place, stage) = (staging(), Directory::new("whole"), "k3".parse().unwrap());
        all.write(b"/a", &stage, place.open(), 0, b"one ").unwrap();
        all.write(b"/a", &stage, place.open(), 4, b"two").unwrap();
        assert!(place.names().is_empty(), "{:?}", place.names());
        fs::write(place.0.join("a"), "old").unwrap();
        all.take(b"/a", &stage).unwrap().place(b"a").unwrap();
        assert_eq!(
            (place.names(), place.read("a")),
            (vec!["a".into()], b"one two".to_vec())
        );
        assert!(all.take(b"/a", &stage).is_err(), "it is placed once");
    }

    #[test]
    fn what_nobody_goes_on_with_is_given_up_and_not_gone_on_with() {
        let (all, place, stage) = (staging(), Directory::new("idle"), "k3".parse().unwrap());
        all.write(b"/a", &stage, place.open(), 0, b"one ").unwrap();
        // As on a file system where it has a name.
        all.lock(|all| {
            let staged = all.staged.values_mut().next().unwrap();
            fs::write(place.0.join(&staged.name), "").unwrap();
            staged.is_named = true;
        });
        assert!(all.sweep(IDLE), "it was touched a moment ago");
        assert_eq!(place.names(), [".hostler-k3"]);
        assert!(!all.sweep(Duration::ZERO));
        assert!(place.names().is_empty());
        // Half a file would take the place of a whole one.
        let late = all.write(b"/a", &stage, place.open(), 4, b"two");
        assert!(late.unwrap_err().to_string().contains("begin it anew"));
        assert!(all.take(b"/a", &stage).is_err());
    }

    #[test]
    fn no_more_is_gathered_than_may_be() {
        let (all, place) = (staging(), Directory::new("many"));
        for number in 0..MAX_STAGED + 2 {
            let stage = format!("k{number}").parse().unwrap();
            all.write(b"/a", &stage, place.open(), 0, b"x").unwrap();
        }
        assert!(all.take(b"/a", &"k1".parse().unwrap()).is_err());
        assert!(all.take(b"/a", &"k2".parse().unwrap()).is_ok());
    }
}
