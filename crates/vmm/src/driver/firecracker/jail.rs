//! Jails: each Firecracker in a root of its own, as a user of its own, with limits of its own.
//!
//! Firecracker's jailer makes the jail and becomes the process in it; we choose the user, bring the
//! VM's files in, and clear up afterwards, which the jailer leaves to others (Firecracker's
//! `docs/jailer.md`). What a VM has on the host because of that is named by two links in its
//! directory, made before there is anything to name: `jail`, to the directory of its root, and
//! `cgroup`. So whoever finds the VM finds that too, and a sweep finds what has no VM any more.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::cgroup::Cgroups;
use super::users::Users;
use crate::config::JailConfig;
use crate::disk;
use crate::driver::{Blueprint, LaunchError};
use crate::files::{self, Context as _, StorageError};
use crate::model::VmId;
use crate::tool;

/// The links in a VM's directory; the first is also where the jails are in the data directory.
const JAIL: &str = "jail";
const CGROUP: &str = "cgroup";

/// How much larger than the disk and the memory a file of the process may become: its console and
/// its log.
const FILE_SLACK: u64 = 64 * 1024 * 1024;

/// How many files the process may have open. It needs some twenty.
const OPEN_FILES: u32 = 1024;

/// A jailer that can be used here.
#[derive(Debug)]
pub(crate) struct Jailer {
    program: PathBuf,
    /// What runs in the jails; its file name is part of their paths.
    firecracker: PathBuf,
    data_dir: PathBuf,
    /// Where the jails of this data directory are.
    base: PathBuf,
    netns: Option<PathBuf>,
    users: Users,
    cgroups: Cgroups,
}

impl Jailer {
    /// Checks everything that a jail will need; says what is missing.
    pub(crate) fn open(
        config: &JailConfig,
        data_dir: &Path,
        firecracker: &Path,
    ) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err(
                "a jailer is configured, and jails need root; run the daemon as root, or \
                        leave the jailer out"
                    .to_owned(),
            );
        }
        let program = tool::find(&config.jailer_binary).ok_or_else(|| {
            let jailer = config.jailer_binary.display();
            format!("the jailer {jailer} is not there; it comes with Firecracker")
        })?;
        let real = |path: &Path| {
            fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let firecracker = real(firecracker)?;
        if !file_name(&firecracker).contains("firecracker") {
            return Err(format!(
                "the jailer runs only programs with \"firecracker\" in their names; rename {}",
                firecracker.display()
            ));
        }
        if let Some(netns) = &config.netns {
            real(netns)
                .map_err(|error| format!("the jails' network namespace is not there: {error}"))?;
        }
        let users = Users::open(config.first_id, config.last_id, data_dir)?;
        let usual = data_dir.join(JAIL);
        if let Some(base) = &config.base_dir {
            // Others find the jails where they would be, had nobody chosen another place.
            let base = base.join(mark_of(data_dir));
            files::make_private_dir(&base).map_err(|error| error.to_string())?;
            let _ = fs::remove_dir(&usual);
            mark(&usual, &base).map_err(|error| error.to_string())?;
        } else {
            files::make_private_dir(&usual).map_err(|error| error.to_string())?;
        }
        let base = real(&usual)?;
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        if device(&base) != device(data_dir) {
            return Err(format!(
                "the jails' directory {} is on another file system than the data directory {}, so \
                 disks cannot be brought in; choose one on the same",
                base.display(),
                data_dir.display()
            ));
        }
        Ok(Self {
            program: real(&program)?,
            firecracker,
            data_dir: data_dir.to_owned(),
            base,
            netns: config.netns.clone(),
            users,
            cgroups: Cgroups::find(&mark_of(data_dir)),
        })
    }

    /// How VMs are confined, for people.
    pub(crate) fn describe(&self) -> String {
        let (first, last) = self.users.range();
        format!(
            "each VM in a jail, as a user between {first} and {last}, {}",
            self.cgroups.describe()
        )
    }

    /// The user that a VM's process has, always the same.
    pub(crate) fn user_of(&self, vm: VmId) -> Result<u32, LaunchError> {
        self.users.of(vm)
    }

    /// Gives up the user of a VM that is no more.
    pub(crate) fn forget(&self, vm: VmId) {
        self.users.forget(vm);
    }

    /// Gives up the users, jails and control groups of all VMs but these.
    pub(crate) fn sweep(&self, known: &BTreeSet<VmId>, alive: &BTreeSet<VmId>) {
        self.users.keep(known);
        for remains in remains(&self.data_dir) {
            let (path, id) = (remains.path(), remains.vm());
            if id.is_none_or(|id| !alive.contains(&id)) {
                tracing::info!(path = %path.display(), "removing what a jailed VM has left");
                remains.remove();
            }
        }
    }

    /// Makes a VM's jail, with nothing in it yet.
    pub(super) fn cell(&self, vm: &Blueprint) -> Result<Cell, LaunchError> {
        let user = self.user_of(vm.id)?;
        let id = vm.id.to_string();
        let jail = self.base.join(file_name(&self.firecracker)).join(&id);
        mark(&vm.directory.join(JAIL), &jail)?;
        if self.cgroups.limits_something() {
            mark(&vm.directory.join(CGROUP), &self.cgroups.parent().join(&id))?;
        }
        let root = jail.join("root");
        files::make_private_dir(&root)?;
        Ok(Cell { root, user })
    }

    /// The command that puts Firecracker into the jail; Firecracker's own arguments follow.
    pub(super) fn command(&self, vm: &Blueprint, cell: &Cell) -> Vec<OsString> {
        let disk = fs::metadata(&vm.disk).map_or(0, |metadata| metadata.len());
        let memory = vm.memory_mb.saturating_mul(1024 * 1024);
        let largest_file = disk.max(memory).saturating_add(FILE_SLACK);
        let mut line: Vec<OsString> = vec![self.program.clone().into()];
        let mut option = |name: &str, value: OsString| line.extend([name.into(), value]);
        option("--id", vm.id.to_string().into());
        option("--exec-file", self.firecracker.clone().into());
        option("--uid", cell.user.to_string().into());
        option("--gid", cell.user.to_string().into());
        option("--chroot-base-dir", self.base.clone().into());
        if let Some(netns) = &self.netns {
            option("--netns", netns.clone().into());
        }
        for (name, value) in self.cgroups.arguments(vm.cpus, vm.memory_mb) {
            option(name, value.into());
        }
        option("--resource-limit", format!("fsize={largest_file}").into());
        option("--resource-limit", format!("no-file={OPEN_FILES}").into());
        line.extend(["--new-pid-ns", "--"].map(OsString::from));
        line
    }

    /// Where the jailer writes which process it made.
    pub(super) fn pid_file(&self, cell: &Cell) -> PathBuf {
        let mut name = self.firecracker.file_name().unwrap_or_default().to_owned();
        name.push(".pid");
        cell.root.join(name)
    }
}

/// A VM's jail.
#[derive(Debug)]
pub(super) struct Cell {
    root: PathBuf,
    user: u32,
}

impl Cell {
    /// A path in the jail, as it is seen from outside.
    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Brings a file in that the process may read, and no process may change.
    pub(super) fn lend(&self, file: &Path, name: &str) -> Result<(), StorageError> {
        let place = self.path(name);
        disk::place(file, place.clone())?;
        // Nobody else gets to it: every directory on the way is ours alone.
        fs::set_permissions(&place, fs::Permissions::from_mode(0o444)).context("open", &place)
    }

    /// Brings a file in that becomes the process's own, while it keeps its place outside.
    pub(super) fn give(&self, file: &Path, name: impl AsRef<Path>) -> Result<(), StorageError> {
        let place = self.path(name);
        fs::hard_link(file, &place).context("link", &place)?;
        chown(&place, Some(self.user), Some(self.user)).context("give away", &place)
    }

    /// The same, under the path that the file has outside.
    pub(super) fn give_in_place(&self, file: &Path) -> Result<(), StorageError> {
        let name = file.strip_prefix("/").unwrap_or(file);
        let mut directory = self.root.clone();
        for part in name.parent().into_iter().flatten() {
            directory.push(part);
            match fs::create_dir(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).context("create", &directory);
                }
                _ => {}
            }
            let readable = fs::Permissions::from_mode(0o755);
            fs::set_permissions(&directory, readable).context("open", &directory)?;
        }
        self.give(file, name)
    }
}

/// What a jailed VM has on the host outside of its directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remains {
    Jail(PathBuf),
    Cgroup(PathBuf),
}

impl Remains {
    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Jail(path) | Self::Cgroup(path) => path,
        }
    }

    /// Whose it is, or was.
    pub(crate) fn vm(&self) -> Option<VmId> {
        file_name(self.path()).parse().ok()
    }

    fn remove(&self) {
        match self {
            Self::Jail(path) => remove_tree(path),
            Self::Cgroup(path) => remove_cgroup(path),
        }
    }
}

/// Everything of that kind that was made for the VMs of a data directory.
pub(crate) fn remains(data_dir: &Path) -> Vec<Remains> {
    let programs = directories(&data_dir.join(JAIL));
    let jails = programs.iter().flat_map(|program| directories(program));
    let groups = directories(&Cgroups::find(&mark_of(data_dir)).parent());
    let jails = jails.map(Remains::Jail);
    jails
        .chain(groups.into_iter().map(Remains::Cgroup))
        .collect()
}

/// Removes a VM's jail and control group, once its process has ended.
pub(crate) fn clear(directory: &Path) {
    for (name, remove) in [
        (JAIL, remove_tree as fn(&Path)),
        (CGROUP, remove_cgroup as fn(&Path)),
    ] {
        let link = directory.join(name);
        let Ok(target) = fs::read_link(&link) else {
            continue;
        };
        remove(&target);
        let _ = fs::remove_file(&link);
    }
}

/// The root of the jail of the VM in this directory, if it has one.
pub(super) fn root_in(directory: &Path) -> Option<PathBuf> {
    Some(fs::read_link(directory.join(JAIL)).ok()?.join("root"))
}

fn mark(link: &Path, target: &Path) -> Result<(), StorageError> {
    let _ = fs::remove_file(link);
    symlink(target, link).context("create", link)
}

/// What tells the jails of one data directory from those of another.
fn mark_of(data_dir: &Path) -> String {
    let digest = Sha256::digest(data_dir.as_os_str().as_bytes());
    format!("hostler-{}", hex::encode(&digest[..8]))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else {
        return Vec::new();
    };
    let entries = entries.filter_map(Result::ok);
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a jail could not be removed");
    }
}

/// A control group goes with its last process, and the kernel may take a moment to notice.
fn remove_cgroup(path: &Path) {
    for _ in 0..50 {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a control group stays");
                return;
            }
            _ => return,
        }
    }
}
