//! What becomes a file piece by piece, until it is put in its place.
//!
//! It has no name meanwhile (open(2), `O_TMPFILE`), so nothing is left of it when nobody goes on: not
//! when the guest ends in between, however it ends. Only for the moment in which it takes its place
//! it has one beside it, since a link takes nobody's place; a guest that ends just then leaves the
//! whole file there under that name. A file system that cannot do without names (one that is shared
//! by the host) has it under one from the beginning: it goes when the file is given up, and stays
//! when the guest ends first. Such a name is one file's alone, so what was left is in nobody's way.
//!
//! The host cannot tell us that whoever sent the pieces is gone, so what nobody has touched for a
//! while is given up.
//!
//! To flush a large file takes minutes, and the host may give it up meanwhile: it is placed only if it
//! is still wanted when it is flushed. Whoever was told that it is discarded never sees it appear.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
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

/// How often a name is made up that somebody has already.
const NAMES: u32 = 8;

/// What the host is putting into this guest.
pub(super) static STAGING: Staging = Staging(Mutex::new(None));

/// The file that it will be, and the name of the upload.
type Key = (Vec<u8>, String);

#[derive(Default)]
struct All {
    staged: HashMap<Key, Staged>,
    /// What is whole and on its way to its place.
    leaving: HashMap<Key, Wanted>,
    is_swept: bool,
}

/// Whether what is on its way to its place still has to get there. It is held while it gets there.
type Wanted = Arc<Mutex<bool>>;

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
            // What was begun under this name ends first.
            self.discard(path, stage);
            self.keep(key.clone(), Staged::begin(directory, stage)?);
        }
        let file = self.lock(|all| {
            let staged = all.staged.get_mut(&key)?;
            staged.touched = Instant::now();
            Some(Arc::clone(&staged.file))
        });
        file.ok_or_else(gone)?.write_all_at(data, offset)
    }

    /// What was gathered for a file, which is gone unless it is put in its place. Nothing is added to
    /// it any more, but until then it can be discarded.
    pub(super) fn take(&self, path: &[u8], stage: &Stage) -> io::Result<Leaving<'_>> {
        let key = key(path, stage);
        let wanted = Arc::new(Mutex::new(true));
        let staged = self.lock(|all| {
            let staged = all.staged.remove(&key)?;
            all.leaving.insert(key.clone(), Arc::clone(&wanted));
            Some(staged)
        });
        Ok(Leaving {
            staged: staged.ok_or_else(gone)?,
            all: self,
            key,
            wanted,
        })
    }

    /// Gives up what was gathered for a file. One that is on its way to its place gets there before
    /// this returns, or never.
    pub(super) fn discard(&self, path: &[u8], stage: &Stage) {
        let key = key(path, stage);
        let (staged, wanted) = self.lock(|all| (all.staged.remove(&key), all.leaving.remove(&key)));
        // To remove a large file may take a while, for which nobody else has to wait.
        drop(staged);
        if let Some(wanted) = wanted {
            *wanted.lock().unwrap_or_else(PoisonError::into_inner) = false;
        }
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

/// What is whole and on its way to its place.
pub(super) struct Leaving<'a> {
    staged: Staged,
    all: &'a Staging,
    key: Key,
    wanted: Wanted,
}

impl Leaving<'_> {
    pub(super) fn file(&self) -> &File {
        &self.staged.file
    }

    pub(super) fn directory(&self) -> impl AsFd {
        &self.staged.directory
    }

    /// Gives it the name that it was for, in one step, unless it was discarded meanwhile.
    pub(super) fn place(mut self, name: &[u8]) -> io::Result<()> {
        let wanted = Arc::clone(&self.wanted);
        // Whoever discards it now waits until it is there.
        let wanted = wanted.lock().unwrap_or_else(PoisonError::into_inner);
        match *wanted {
            true => self.staged.place(name),
            false => Err(gone()),
        }
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.all.lock(|all| {
            // The same upload may have been begun anew, and be on its way too.
            let own = all.leaving.get(&self.key);
            if own.is_some_and(|wanted| Arc::ptr_eq(wanted, &self.wanted)) {
                all.leaving.remove(&self.key);
            }
        });
    }
}

/// What becomes a file.
struct Staged {
    file: Arc<File>,
    directory: OwnedFd,
    stage: Stage,
    /// What it is called in the directory, where it has a name already.
    name: Option<String>,
    touched: Instant,
}

impl Staged {
    fn begin(directory: OwnedFd, stage: &Stage) -> io::Result<Self> {
        let (flags, mode) = (OFlags::WRONLY | OFlags::CLOEXEC, Mode::from(0o600));
        match openat(&directory, c".", flags | OFlags::TMPFILE, mode) {
            Ok(file) => Ok(Self::of(file, directory, stage, None)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
                Self::begin_named(directory, stage)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The same where every file has a name.
    fn begin_named(directory: OwnedFd, stage: &Stage) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
        let mode = Mode::from(0o600);
        let (name, file) = under_own_name(stage, |name| openat(&directory, name, flags, mode))?;
        Ok(Self::of(file, directory, stage, Some(name)))
    }

    fn of(file: OwnedFd, directory: OwnedFd, stage: &Stage, name: Option<String>) -> Self {
        Self {
            file: Arc::new(file.into()),
            directory,
            stage: stage.clone(),
            name,
            touched: Instant::now(),
        }
    }

    /// Gives it the name that it was for, in one step.
    fn place(&mut self, name: &[u8]) -> io::Result<()> {
        let from = match self.name.take() {
            Some(from) => from,
            None => {
                // A link takes nobody's place, so it gets there under another name.
                let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                let flags = AtFlags::SYMLINK_FOLLOW;
                let link = |from: &str| linkat(CWD, &own, &self.directory, from, flags);
                under_own_name(&self.stage, link)?.0
            }
        };
        let placed = renameat(&self.directory, &from, &self.directory, name);
        if placed.is_err() {
            self.name = Some(from);
        }
        Ok(placed?)
    }
}

/// Does something under a name that nobody has, and says which. Others may be at work in the same
/// directory: other uploads, and other guests that share it.
fn under_own_name<T>(
    stage: &Stage,
    work: impl Fn(&str) -> rustix::io::Result<T>,
) -> io::Result<(String, T)> {
    let mut attempt = 0;
    loop {
        // The keys of a hasher are random, and each has others.
        let name = format!(".hostler-{stage}-{:016x}", RandomState::new().hash_one(()));
        match work(&name) {
            Err(Errno::EXIST) if attempt < NAMES => attempt += 1,
            done => return Ok((name, done?)),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            let _ = unlinkat(&self.directory, name, AtFlags::empty());
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
            *staged = Staged::begin_named(place.open(), &stage).unwrap();
        });
        assert!(all.sweep(IDLE), "it was touched a moment ago");
        assert!(place.names()[0].starts_with(".hostler-k3"));
        assert!(!all.sweep(Duration::ZERO));
        assert!(place.names().is_empty());
        // Half a file would take the place of a whole one.
        let late = all.write(b"/a", &stage, place.open(), 4, b"two");
        assert!(late.unwrap_err().to_string().contains("begin it anew"));
        assert!(all.take(b"/a", &stage).is_err());
    }

    #[test]
    fn what_is_discarded_while_it_is_flushed_is_not_placed() {
        let (all, place, stage) = (staging(), Directory::new("late"), "k3".parse().unwrap());
        let write = |data: &[u8]| all.write(b"/a", &stage, place.open(), 0, data);
        fs::write(place.0.join("a"), "old").unwrap();
        write(b"given up").unwrap();
        let flushed = all.take(b"/a", &stage).unwrap();
        assert!(all.take(b"/a", &stage).is_err(), "it is on its way already");
        let more = all.write(b"/a", &stage, place.open(), 8, b"!");
        assert!(more.is_err(), "it would not be flushed");
        all.discard(b"/a", &stage);
        // Somebody tries once more under the same name before the flush is over.
        write(b"anew").unwrap();
        let anew = all.take(b"/a", &stage).unwrap();
        assert!(flushed.place(b"a").is_err());
        assert_eq!((place.names().len(), place.read("a")), (1, b"old".into()));
        anew.place(b"a").unwrap();
        assert_eq!(place.read("a"), b"anew");
        // To begin again is to give up what was begun.
        write(b"first").unwrap();
        let first = all.take(b"/a", &stage).unwrap();
        write(b"second").unwrap();
        assert!(first.place(b"a").is_err());
        assert_eq!(place.read("a"), b"anew");
        all.lock(|all| assert!(all.leaving.is_empty()));
    }

    #[test]
    fn a_file_does_not_change_any_more_once_its_upload_is_discarded() {
        let (all, place) = (staging(), Directory::new("race"));
        for round in 0..200 {
            let stage = format!("k{round}").parse().unwrap();
            fs::write(place.0.join("a"), "old").unwrap();
            all.write(b"/a", &stage, place.open(), 0, b"new").unwrap();
            let flushed = all.take(b"/a", &stage).unwrap();
            let placing = thread::spawn(move || flushed.place(b"a").is_ok());
            all.discard(b"/a", &stage);
            let told = place.read("a");
            let placed = placing.join().unwrap();
            assert_eq!(place.read("a"), told, "in round {round}");
            assert_eq!(told, if placed { b"new" } else { b"old" });
        }
    }

    #[test]
    fn what_was_left_is_in_nobodys_way() {
        let (all, place, stage) = (staging(), Directory::new("left"), "k3".parse().unwrap());
        // An older agent called it so.
        fs::write(place.0.join(".hostler-k3"), "left").unwrap();
        all.write(b"/a", &stage, place.open(), 0, b"new").unwrap();
        all.take(b"/a", &stage).unwrap().place(b"a").unwrap();
        assert_eq!(place.read("a"), b"new");
        // As when the guest ends before it takes its place.
        let left = Staged::begin_named(place.open(), &stage).unwrap();
        std::mem::forget(left);
        let mut staged = Staged::begin_named(place.open(), &stage).unwrap();
        staged.place(b"b").unwrap();
        assert_eq!(place.read("b"), b"");
    }

    #[test]
    fn no_two_files_have_one_name() {
        let (place, stage) = (Directory::new("names"), "k3".parse().unwrap());
        let begin = || Staged::begin_named(place.open(), &stage).unwrap();
        let (mut first, mut second, third) = (begin(), begin(), begin());
        first.file.write_all_at(b"first", 0).unwrap();
        second.file.write_all_at(b"second", 0).unwrap();
        drop(third);
        first.place(b"a").unwrap();
        second.place(b"b").unwrap();
        assert_eq!(
            (place.read("a"), place.read("b")),
            (b"first".to_vec(), b"second".to_vec())
        );
        assert_eq!(place.names().len(), 2, "{:?}", place.names());
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
