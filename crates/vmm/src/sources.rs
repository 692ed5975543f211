//! Files of the host that imports read: which ones may be, and opening them.
//!
//! Whoever may import reads with the daemon's rights, mostly root's, and sees what was read in a VM.
//! So nothing may be imported but what lies in a directory that the host's configuration names. A
//! path is never judged by its text alone: it is walked from that directory, and the kernel refuses
//! every symbolic link on the way (openat2(2)). Of a path outside, nothing is looked at: it is
//! refused alike whether anything is there or not.

use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// What imports may read.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    allowed: Arc<[PathBuf]>,
    /// The daemon's own, which nobody may read.
    data_dir: Arc<Path>,
}

/// A file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceRefused {
    #[error("it may not be read on the host: {0}")]
    NotAllowed(String),
    #[error(
        "it may not be read on the host: a symbolic link is on the way to it; name the file itself"
    )]
    Link,
    #[error("it may not be read on the host: the daemon's own data is there; choose another place")]
    Ours,
    #[error("it cannot be read on the host: {0}")]
    Unreadable(io::Error),
}

/// A directory of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read: {source}; give directories that are there", path.display())]
#[non_exhaustive]
pub struct UnusableDirectory {
    path: PathBuf,
    source: io::Error,
}

/// The directories of a configuration as they really are.
pub(crate) fn real_directories(allowed: &[PathBuf]) -> Result<Vec<PathBuf>, UnusableDirectory> {
    let real = allowed.iter().map(|path| {
        let real = fs::canonicalize(path).and_then(|real| match real.is_dir() {
            true => Ok(real),
            false => Err(io::ErrorKind::NotADirectory.into()),
        });
        real.map_err(|source| UnusableDirectory {
            path: path.clone(),
            source,
        })
    });
    real.collect()
}

impl Sources {
    /// What is in these directories, which have to be real ones, and not in the data directory.
    pub(crate) fn new(allowed: Vec<PathBuf>, data_dir: &Path) -> Self {
        Self {
            allowed: allowed.into(),
            data_dir: data_dir.into(),
        }
    }

    /// Opens a file or a directory; without waiting, as for a pipe that nobody writes to.
    pub(crate) fn open(&self, path: &Path) -> Result<File, SourceRefused> {
        // A text that means the same but looks different, as with `..` in it, may lead out.
        let is_plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        let base = self.allowed.iter().find(|base| path.starts_with(base));
        let Some(base) = base.filter(|_| is_plain) else {
            return Err(SourceRefused::NotAllowed(self.allowance()));
        };
        if path.starts_with(&self.data_dir) {
            return Err(SourceRefused::Ours);
        }
        let refused = |error| match error {
            Errno::LOOP => SourceRefused::Link,
            error => SourceRefused::Unreadable(error.into()),
        };
        let strict = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base_fd = openat2(CWD, base, flags, Mode::empty(), strict).map_err(refused)?;
        let rest = path.strip_prefix(base).unwrap_or(Path::new(""));
        let rest = match rest.as_os_str().is_empty() {
            true => Path::new("."),
            false => rest,
        };
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let beneath = strict | ResolveFlags::BENEATH;
        let file = openat2(&base_fd, rest, flags, Mode::empty(), beneath);
        file.map(File::from).map_err(refused)
    }

    /// Opens what a text names that may go on after the path: `PATH[:NAME]`. The name of an image
    /// may have slashes and colons itself, as in `registry.example:5000/a:1`.
    pub(crate) fn open_named<'a>(
        &self,
        text: &'a str,
    ) -> Result<(File, Option<&'a str>), SourceRefused> {
        let mut problem = match self.open(Path::new(text)) {
            Ok(file) => return Ok((file, None)),
            Err(problem) => problem,
        };
        for (at, _) in text.match_indices(':') {
            if !problem.may_be_elsewhere() {
                break;
            }
            match self.open(Path::new(&text[..at])) {
                Ok(file) => return Ok((file, Some(&text[at + 1..]))),
                Err(SourceRefused::NotAllowed(_)) => {}
                Err(other) => problem = other,
            }
        }
        Err(problem)
    }

    fn allowance(&self) -> String {
        if self.allowed.is_empty() {
            return "this host allows no path; start the agent with --import-allow DIR".to_owned();
        }
        let allowed = self.allowed.iter().map(|path| path.display().to_string());
        format!(
            "this host allows what is in {}; put it there, or start the agent with another \
             --import-allow DIR",
            allowed.collect::<Vec<_>>().join(", ")
        )
    }
}

impl SourceRefused {
    /// Whether a shorter path may be meant.
    fn may_be_elsewhere(&self) -> bool {
        match self {
            Self::NotAllowed(_) => true,
            Self::Unreadable(error) => matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
            Self::Link | Self::Ours => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory that is allowed, with the daemon's data in it, and one beside it that is not.
    fn place() -> (tempfile::TempDir, PathBuf, Sources) {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for name in ["allowed/deep", "secret", "allowed/data/vms"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        for name in ["allowed/deep/a", "secret/a", "allowed/data/a"] {
            fs::write(root.join(name), name).unwrap();
        }
        let allowed = root.join("allowed");
        let sources = Sources::new(vec![allowed.clone()], &allowed.join("data"));
        (dir, allowed, sources)
    }

    #[test]
    fn what_lies_in_an_allowed_directory_is_opened() {
        let (_dir, allowed, sources) = place();
        let mut text = String::new();
        let mut file = sources.open(&allowed.join("deep/a")).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "allowed/deep/a");
        assert!(sources.open(&allowed).unwrap().metadata().unwrap().is_dir());
    }

    #[test]
    fn what_lies_elsewhere_is_refused_alike_whether_it_is_there_or_not() {
        let (_dir, allowed, sources) = place();
        let beside = |name: &str| allowed.with_file_name(name);
        let said = |path: &Path| sources.open(path).unwrap_err().to_string();
        let told = said(&beside("secret/a"));
        assert!(told.contains("--import-allow DIR"), "{told}");
        assert!(told.contains(allowed.to_str().unwrap()), "{told}");
        for path in [
            beside("secret/nothing"),
            beside("secret"),
            beside("allowed-not"),
            allowed.join("../secret/a"),
            allowed.join("deep/../../secret/nothing"),
            PathBuf::from("/"),
            PathBuf::from("relative"),
        ] {
            assert_eq!(said(&path), told, "{}", path.display());
        }
        let named = |text: PathBuf| sources.open_named(text.to_str().unwrap()).unwrap_err();
        assert_eq!(named(beside("secret/a:1")).to_string(), told);
        assert_eq!(named(beside("secret/nothing:1")).to_string(), told);
        let none = Sources::new(Vec::new(), Path::new("/data"));
        let told = none.open(&allowed).unwrap_err().to_string();
        assert!(
            told.contains("start the agent with --import-allow DIR"),
            "{told}"
        );
    }

    #[test]
    fn no_link_leads_anywhere_and_the_daemons_own_data_is_nobodys() {
        let (_dir, allowed, sources) = place();
        symlink(allowed.with_file_name("secret"), allowed.join("out")).unwrap();
        symlink("deep/a", allowed.join("in")).unwrap();
        for path in ["out", "out/a", "out/nothing", "in"] {
            let opened = sources.open(&allowed.join(path));
            assert!(matches!(opened, Err(SourceRefused::Link)), "{opened:?}");
        }
        for path in ["data", "data/a", "data/nothing"] {
            let opened = sources.open(&allowed.join(path));
            assert!(matches!(opened, Err(SourceRefused::Ours)), "{opened:?}");
        }
        assert!(real_directories(&[allowed.join("deep/a")]).is_err());
        assert!(real_directories(&[allowed.join("nothing")]).is_err());
    }

    #[test]
    fn a_name_may_follow_the_path_and_have_colons_itself() {
        let (_dir, allowed, sources) = place();
        let deep = allowed.join("deep").display().to_string();
        for name in ["1", "r.example:5000/a:1", ""] {
            let text = format!("{deep}:{name}");
            assert_eq!(sources.open_named(&text).unwrap().1, Some(name));
        }
        fs::write(allowed.join("x:1"), "").unwrap();
        let whole = allowed.join("x:1").display().to_string();
        assert_eq!(sources.open_named(&whole).unwrap().1, None);
        let whole = allowed.display().to_string() + ":1";
        assert_eq!(sources.open_named(&whole).unwrap().1, Some("1"));
        let missing = sources
            .open_named(&format!("{deep}/nothing:1"))
            .unwrap_err();
        assert!(matches!(missing, SourceRefused::Unreadable(_)), "{missing}");
    }
}
