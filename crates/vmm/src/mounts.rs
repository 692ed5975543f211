//! Directories of the host that guests share: which ones may be, and getting hold of them.
//!
//! A guest may only share what lies in a directory that the host's configuration names. A path is
//! never judged by its text alone: it is walked from that directory, the kernel refuses every
//! symbolic link on the way (openat2(2)), and what is handed on is the directory that was reached,
//! not its name. So nobody who can write in there, such as another guest that shares it, can put
//! something else in its place: not between the check and the start, and not afterwards.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};

use crate::model::Mount;
use crate::spec::InvalidField;

/// How the names of places begin at which a mount is put together.
const PLACE: &str = ".mount-";

/// How many directories a VM may share: each takes a device, of which machines have few.
const MOST: usize = 4;

/// A tag longer than this does not fit into the device (virtio 1.2, section 5.11.4).
const LONGEST_TAG: usize = 36;

/// A directory cannot be shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The host's configuration does not allow it.
    #[error(
        "{} may not be mounted: {}", path.display(), allowance(allowed)
    )]
    NotAllowed {
        path: PathBuf,
        allowed: Vec<PathBuf>,
    },
    /// The way to it leads through a symbolic link.
    #[error(
        "{} may not be mounted: a symbolic link is on the way to it; name the directory itself",
        path.display()
    )]
    Link { path: PathBuf },
    /// It holds what this daemon keeps secret.
    #[error(
        "{} may not be mounted: the daemon's own data is in it, or it in that; choose another \
         directory", path.display()
    )]
    Ours { path: PathBuf },
    /// It cannot be opened.
    #[error("{} cannot be mounted: {source}; mounts are directories that are there", path.display())]
    Unusable { path: PathBuf, source: io::Error },
}

fn allowance(allowed: &[PathBuf]) -> String {
    if allowed.is_empty() {
        return "this host allows none; start its agent with --mount-allow DIR".to_owned();
    }
    let allowed: Vec<_> = allowed
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    format!(
        "this host allows what is in {}; choose a directory in there, or start its agent with \
         another --mount-allow DIR",
        allowed.join(", ")
    )
}

impl MountError {
    fn unusable(path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Unusable {
            path: path.to_owned(),
            source: source.into(),
        }
    }
}

/// Checks everything about mounts that can be checked by looking at them alone.
pub(crate) fn check(mounts: &[Mount]) -> Result<(), InvalidField> {
    let wrong = |problem: String| Err(InvalidField::new("mounts", problem));
    if mounts.len() > MOST {
        return wrong(format!(
            "are {}; share at most {MOST} directories",
            mounts.len()
        ));
    }
    for (index, mount) in mounts.iter().enumerate() {
        let tag = &mount.guest_tag;
        if !is_tag(tag) {
            return wrong(format!(
                "have the tag {tag:?}; use 1 to {LONGEST_TAG} lower-case letters, digits and \
                 hyphens, with a letter or digit at both ends"
            ));
        }
        if mounts[..index].iter().any(|other| other.guest_tag == *tag) {
            return wrong(format!("have the tag {tag} twice; give each its own"));
        }
        let path = &mount.host_path;
        let plain = path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        // A text that means the same but looks different, as with a slash too many, would too.
        let same: PathBuf = path.components().collect();
        if !path.is_absolute() || !plain || same.as_os_str() != path.as_os_str() {
            return wrong(format!(
                "have the host path {:?}; give an absolute one without . and ..",
                path.display().to_string()
            ));
        }
    }
    Ok(())
}

fn is_tag(tag: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = tag.as_bytes();
    bytes.len() <= LONGEST_TAG
        && bytes.first().copied().is_some_and(plain)
        && bytes.last().copied().is_some_and(plain)
        && bytes.iter().all(|&byte| plain(byte) || byte == b'-')
}

/// The directories that a configuration allows, as they really are.
pub(crate) fn real_directories(allowed: &[PathBuf]) -> Result<Vec<PathBuf>, MountError> {
    let real = allowed.iter().map(|path| {
        let real = fs::canonicalize(path).map_err(|error| MountError::unusable(path, error))?;
        if real.is_dir() {
            return Ok(real);
        }
        Err(MountError::unusable(path, io::ErrorKind::NotADirectory))
    });
    real.collect()
}

/// Gets hold of the directory of a mount, if it may be shared.
pub(crate) fn hold(
    mount: &Mount,
    allowed: &[PathBuf],
    data_dir: &Path,
) -> Result<OwnedFd, MountError> {
    let path = &mount.host_path;
    let Some(base) = allowed.iter().find(|base| path.starts_with(base)) else {
        return Err(MountError::NotAllowed {
            path: path.clone(),
            allowed: allowed.to_vec(),
        });
    };
    if data_dir.starts_with(path) || path.starts_with(data_dir) {
        return Err(MountError::Ours { path: path.clone() });
    }
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let strict = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let open = |at: &OwnedFd, path: &Path, how| openat2(at, path, directory, Mode::empty(), how);
    let refused = |error| match error {
        Errno::LOOP => MountError::Link { path: path.clone() },
        error => MountError::unusable(path, error),
    };
    let base_fd = openat2(CWD, base, directory, Mode::empty(), strict).map_err(refused)?;
    let rest = path.strip_prefix(base).unwrap_or(Path::new(""));
    if rest.as_os_str().is_empty() {
        return Ok(base_fd);
    }
    open(&base_fd, rest, strict | ResolveFlags::BENEATH).map_err(refused)
}

/// The same directory in a mount of its own that cannot be written to. The mount has no place in
/// the file system: it ends with the last descriptor that leads to it.
pub(crate) fn read_only(directory: &OwnedFd, workplace: &Path) -> io::Result<OwnedFd> {
    let place = workplace.join(format!("{PLACE}{}", uuid::Uuid::new_v4().simple()));
    fs::create_dir(&place)?;
    let made = (|| {
        mount_bind(format!("/proc/self/fd/{}", directory.as_raw_fd()), &place)?;
        crate::fault::point("mount.bound");
        let hidden = (|| {
            let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID;
            mount_remount(&place, flags | MountFlags::NODEV, "")?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(&place, flags, Mode::empty())
        })();
        unmount(&place, UnmountFlags::DETACH)?;
        hidden
    })();
    // Only ever an empty directory: what a mount that stayed would show is not to be removed.
    fs::remove_dir(&place)?;
    Ok(made?)
}

/// Takes down what a daemon had mounted in a workplace when it died; what a mount shows stays.
pub(crate) fn sweep(workplace: &Path) -> io::Result<()> {
    for entry in fs::read_dir(workplace)? {
        let entry = entry?;
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PLACE.as_bytes())
        {
            continue;
        }
        let place = entry.path();
        tracing::warn!(path = %place.display(), "taking down a mount that was in the making");
        // One may lie on another; where nothing is mounted this fails.
        while unmount(&place, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW).is_ok() {}
        fs::remove_dir(&place)?;
    }
    Ok(())
}

/// A directory that a VM is about to share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) tag: String,
    pub(crate) read_only: bool,
    pub(crate) directory: Arc<OwnedFd>,
    /// Where QEMU meets the program that serves the directory.
    pub(crate) socket: PathBuf,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mount(path: impl Into<PathBuf>) -> Mount {
        Mount {
            host_path: path.into(),
            guest_tag: "work".to_owned(),
            read_only: false,
        }
    }

    /// A directory that is allowed, one beside it that is not, and the data directory.
    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for name in ["allowed/deep/er", "secret", "allowed/data/vms"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        (dir, root.join("allowed"), root.join("allowed/data"))
    }

    #[test]
    fn a_mount_that_a_dead_daemon_has_left_goes_and_nothing_of_what_it_shows() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_dir, allowed, data) = place();
        let (file, vm) = (allowed.join("deep/file"), data.join("vms/web"));
        fs::write(&file, "theirs").unwrap();
        let left = vm.join(format!("{PLACE}1"));
        fs::create_dir_all(&left).unwrap();
        mount_bind(&allowed, &left).unwrap();
        let refused = crate::files::remove_tree(&vm).unwrap_err().to_string();
        assert!(refused.contains("unmount it first"), "{refused}");
        sweep(&vm).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
        assert!(!left.exists());
        crate::files::remove_tree(&vm).unwrap();
    }

    #[test]
    fn what_lies_in_an_allowed_directory_is_held() {
        let (_dir, allowed, data) = place();
        for path in ["deep", "deep/er"] {
            hold(
                &mount(allowed.join(path)),
                std::slice::from_ref(&allowed),
                &data,
            )
            .unwrap();
        }
        let other = allowed.join("deep");
        hold(&mount(&other), std::slice::from_ref(&other), &data).unwrap();
    }

    #[test]
    fn what_lies_elsewhere_is_refused_with_what_is_allowed() {
        let (_dir, allowed, data) = place();
        let beside = allowed.with_file_name("secret");
        let near = allowed.with_file_name("allowed-not");
        for path in [beside, near, PathBuf::from("/")] {
            let held = hold(&mount(path), std::slice::from_ref(&allowed), &data);
            let error = held.unwrap_err().to_string();
            assert!(error.contains(allowed.to_str().unwrap()), "{error}");
        }
        let error = hold(&mount(allowed.join("deep")), &[], &data)
            .unwrap_err()
            .to_string();
        assert!(error.contains("--mount-allow DIR"), "{error}");
    }

    #[test]
    fn no_link_leads_out_not_even_to_where_one_may_go() {
        let (_dir, allowed, data) = place();
        symlink(allowed.with_file_name("secret"), allowed.join("out")).unwrap();
        symlink("../secret", allowed.join("deep/out")).unwrap();
        symlink("deep", allowed.join("in")).unwrap();
        for path in ["out", "deep/out", "in", "in/er"] {
            let held = hold(
                &mount(allowed.join(path)),
                std::slice::from_ref(&allowed),
                &data,
            );
            assert!(
                matches!(held, Err(MountError::Link { .. })),
                "{path}: {held:?}"
            );
        }
        // And one that is put in the place of the allowed directory itself.
        fs::rename(&allowed, allowed.with_file_name("moved")).unwrap();
        symlink("secret", &allowed).unwrap();
        let held = hold(
            &mount(&allowed),
            std::slice::from_ref(&allowed),
            Path::new("/nowhere"),
        );
        assert!(matches!(held, Err(MountError::Link { .. })), "{held:?}");
    }

    #[test]
    fn the_daemons_own_data_is_nobodys_mount() {
        let (_dir, allowed, data) = place();
        for path in [allowed.clone(), data.clone(), data.join("vms")] {
            let held = hold(&mount(path), std::slice::from_ref(&allowed), &data);
            assert!(matches!(held, Err(MountError::Ours { .. })), "{held:?}");
        }
    }

    #[test]
    fn a_file_and_what_is_not_there_are_refused() {
        let (_dir, allowed, data) = place();
        fs::write(allowed.join("file"), "x").unwrap();
        for path in ["file", "nothing"] {
            let held = hold(
                &mount(allowed.join(path)),
                std::slice::from_ref(&allowed),
                &data,
            );
            assert!(matches!(held, Err(MountError::Unusable { .. })), "{held:?}");
        }
        assert!(real_directories(&[allowed.join("file")]).is_err());
        assert!(real_directories(&[allowed.join("nothing")]).is_err());
    }

    #[test]
    fn tags_and_paths_that_could_mean_something_else_are_refused() {
        assert!(check(&[mount("/srv/a")]).is_ok());
        for path in [
            "srv",
            "/srv/../etc",
            "/srv/./a",
            "/srv//a",
            "/srv/a/",
            "../a",
            "",
        ] {
            assert!(check(&[mount(path)]).is_err(), "{path:?}");
        }
        let long = "x".repeat(37);
        for tag in ["", "a/b", "..", "A", "a b", "-a", "a,b", "a\n", &long] {
            let mut wrong = mount("/srv");
            wrong.guest_tag = tag.to_owned();
            assert!(check(&[wrong]).is_err(), "{tag:?}");
        }
        assert!(
            check(&[mount("/srv/a"), mount("/srv/b")]).is_err(),
            "one tag, twice"
        );
    }
}
