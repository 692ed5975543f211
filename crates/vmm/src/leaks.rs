//! What is on the host and belongs to no VM: the report that is empty on a healthy host.
//!
//! Whatever this crate makes carries the id or the directory of its VM. A finder knows one kind of
//! thing and compares what is there with what should be; each part of the crate that makes
//! something on the host adds its finder to [`finders`]. Things come and go while anybody looks, so
//! there are two looks, and a leak is what both have seen.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blocking;
use crate::driver::firecracker::jail::{self, Remains};
use crate::files;
use crate::layout::{self, Layout, VmDir};
use crate::model::VmId;
use crate::name::VmName;
use crate::process::Birth;
use crate::processes;

/// Between the two looks: longer than anything takes that is not written down anywhere.
const BETWEEN_LOOKS: Duration = Duration::from_millis(300);

/// Something on the host that no VM accounts for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Leak {
    /// What kind of thing it is.
    pub kind: LeakKind,
    /// Which one: a path, a process id, the name of an interface.
    pub what: String,
    /// Why nobody needs it, and what to do about it.
    pub reason: String,
    /// The VM that it was for, when that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_id: Option<VmId>,
}

/// What kind of thing was left behind.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LeakKind {
    /// A process that runs a VM.
    Process,
    /// A Unix socket, or a directory for such.
    Socket,
    /// A file with the id of a process.
    PidFile,
    /// A directory of a VM, with what is in it.
    Directory,
    /// A file that was being written.
    Draft,
    /// Part of an image or a kernel.
    Image,
    /// A network interface.
    Interface,
    /// Rules of the packet filter.
    Rule,
    /// A control group.
    Cgroup,
    /// A jail's directory.
    Jail,
}

/// What the host's VMs account for, at one moment.
pub(crate) struct Owners {
    pub(crate) layout: Layout,
    pub(crate) vms: BTreeMap<VmName, Owner>,
    /// Directories whose VM cannot be read: nobody knows what belongs to it.
    pub(crate) damaged: Vec<String>,
}

/// A VM, as far as it matters to what it owns.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    pub(crate) id: VmId,
    pub(crate) dir: VmDir,
    pub(crate) holds: Holds,
}

/// Which processes a VM accounts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holds {
    /// None: whatever runs is a leftover.
    Nothing,
    /// This one.
    Process(Birth),
    /// Somebody is at work on it: what there is may be right.
    Anything,
}

impl Owners {
    /// The VM of that id.
    pub(crate) fn by_id(&self, id: VmId) -> Option<&Owner> {
        self.vms.values().find(|owner| owner.id == id)
    }
}

/// Knows one kind of thing that VMs leave behind. Blocking.
pub(crate) trait LeakFinder: Send + Sync {
    /// What is there and belongs to nobody.
    fn find(&self, owners: &Owners) -> Vec<Leak>;
}

/// Everybody who makes something on the host.
fn finders() -> Vec<Box<dyn LeakFinder>> {
    vec![
        Box::new(Processes),
        Box::new(VmFiles),
        Box::new(Shelves),
        Box::new(SocketDirs),
        Box::new(Jails),
    ]
}

/// Looks twice, and reports what was there both times.
pub(crate) async fn look(owners: impl Fn() -> Owners) -> Vec<Leak> {
    let mut leaks = look_once(owners()).await;
    if !leaks.is_empty() {
        tokio::time::sleep(BETWEEN_LOOKS).await;
        let again = look_once(owners()).await;
        leaks.retain(|leak| again.contains(leak));
    }
    leaks.sort();
    leaks
}

async fn look_once(owners: Owners) -> Vec<Leak> {
    let owners = Arc::new(owners);
    blocking::run(move || {
        let found = finders().into_iter().flat_map(|f| f.find(&owners));
        found.collect()
    })
    .await
}

struct Processes;

impl LeakFinder for Processes {
    fn find(&self, owners: &Owners) -> Vec<Leak> {
        let strays = processes::of(&owners.layout.vms()).into_iter();
        let strays = strays.filter(|process| !owners.damaged.contains(&process.name));
        strays
            .filter_map(|process| {
                let reason = match owners.by_id(process.id).map(|owner| &owner.holds) {
                    Some(Holds::Anything) => return None,
                    Some(Holds::Process(birth)) if *birth == process.birth => return None,
                    Some(_) => {
                        "its VM does not know of it; restart the daemon, which takes it over"
                    }
                    None => "its VM is gone; restart the daemon, which ends it",
                };
                Some(Leak {
                    kind: LeakKind::Process,
                    what: process.pid.to_string(),
                    reason: reason.to_owned(),
                    vm_id: Some(process.id),
                })
            })
            .collect()
    }
}

/// What is under `vms` in the data directory.
struct VmFiles;

impl LeakFinder for VmFiles {
    fn find(&self, owners: &Owners) -> Vec<Leak> {
        let mut leaks = Vec::new();
        for path in entries(&owners.layout.vms()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if owners.damaged.iter().any(|damaged| *damaged == name) {
                continue;
            }
            let owner = name
                .parse()
                .ok()
                .and_then(|name: VmName| owners.vms.get(&name));
            match owner {
                Some(owner) => in_directory(owner, &mut leaks),
                None if files::is_in_the_making(&path) => {}
                None => leaks.push(leftover(
                    LeakKind::Directory,
                    &path,
                    None,
                    "no VM has this directory; restart the daemon, or move it away",
                )),
            }
        }
        leaks
    }
}

fn in_directory(owner: &Owner, leaks: &mut Vec<Leak>) {
    let dir = &owner.dir;
    let snapshots = entries(&dir.snapshots());
    let drafts = entries(dir.path()).into_iter().chain(snapshots);
    let drafts = drafts.filter(|path| is_hidden(path) && !files::is_in_the_making(path));
    leaks.extend(drafts.map(|path| {
        let reason = "nobody writes it any more; restart the daemon, which removes it";
        leftover(LeakKind::Draft, &path, Some(owner.id), reason)
    }));
    if owner.holds != Holds::Nothing {
        return;
    }
    let shares = dir.share_sockets().into_iter();
    let shares = shares.map(|path| (LeakKind::Socket, path));
    for (kind, path) in shares.chain([
        (LeakKind::Socket, dir.control_socket()),
        (LeakKind::Socket, dir.guest_socket()),
        (LeakKind::PidFile, dir.pid_file()),
    ]) {
        if path.symlink_metadata().is_ok() {
            let reason = "its VM does not run; restart the daemon, which removes it";
            leaks.push(leftover(kind, &path, Some(owner.id), reason));
        }
    }
}

/// Images, their layers, and kernels that somebody has begun and not finished.
struct Shelves;

impl LeakFinder for Shelves {
    fn find(&self, owners: &Owners) -> Vec<Leak> {
        let shelves = [
            owners.layout.images(),
            owners.layout.blobs(),
            owners.layout.kernels(),
        ];
        let things = shelves.iter().flat_map(|shelf| entries(shelf));
        let drafts = things.filter(|path| is_hidden(path) && !files::is_in_the_making(path));
        let reason = "nobody works on it any more; restart the daemon, which removes it";
        drafts
            .map(|path| leftover(LeakKind::Image, &path, None, reason))
            .collect()
    }
}

/// Roots and control groups of jailed VMs.
struct Jails;

impl LeakFinder for Jails {
    fn find(&self, owners: &Owners) -> Vec<Leak> {
        // Nobody knows the id of a VM whose record is damaged, and it may run.
        if !owners.damaged.is_empty() {
            return Vec::new();
        }
        let remains = jail::remains(owners.layout.root()).into_iter();
        let left = remains.filter(|remains| {
            let owner = remains.vm().and_then(|id| owners.by_id(id));
            owner.is_none_or(|owner| owner.holds == Holds::Nothing)
        });
        left.map(|remains| {
            let kind = match remains {
                Remains::Jail(_) => LeakKind::Jail,
                Remains::Cgroup(_) => LeakKind::Cgroup,
            };
            let reason = "its VM does not run; restart the daemon, which removes it";
            leftover(kind, remains.path(), remains.vm(), reason)
        })
        .collect()
    }
}

/// Directories of sockets outside of the data directory, for those with a long path.
struct SocketDirs;

impl LeakFinder for SocketDirs {
    fn find(&self, owners: &Owners) -> Vec<Leak> {
        let vms = owners.layout.vms();
        let owned = layout::socket_dirs_of(&vms);
        owned
            .filter_map(|(path, place)| {
                let name = place.file_name()?.to_str()?.to_owned();
                if owners.damaged.contains(&name) {
                    return None;
                }
                let owner = name
                    .parse()
                    .ok()
                    .and_then(|name: VmName| owners.vms.get(&name));
                if owner.is_some_and(|owner| owner.holds != Holds::Nothing) {
                    return None;
                }
                let reason = "its VM does not run; restart the daemon, which removes it";
                let id = owner.map(|owner| owner.id);
                Some(leftover(LeakKind::Socket, &path, id, reason))
            })
            .collect()
    }
}

fn leftover(kind: LeakKind, path: &Path, vm_id: Option<VmId>, reason: &str) -> Leak {
    Leak {
        kind,
        what: path.display().to_string(),
        reason: reason.to_owned(),
        vm_id,
    }
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect()
}

fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.as_encoded_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        _dir: tempfile::TempDir,
        layout: Layout,
        name: VmName,
        id: VmId,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let layout = Layout::new(dir.path().canonicalize().unwrap());
            let name: VmName = "web-1".parse().unwrap();
            fs::create_dir_all(layout.vm(&name).path()).unwrap();
            for shelf in [layout.images(), layout.blobs(), layout.kernels()] {
                fs::create_dir(shelf).unwrap();
            }
            Self {
                _dir: dir,
                layout,
                name,
                id: VmId::generate(),
            }
        }

        fn owners(&self, holds: Holds) -> Owners {
            let owner = Owner {
                id: self.id,
                dir: self.layout.vm(&self.name),
                holds,
            };
            Owners {
                layout: self.layout.clone(),
                vms: [(self.name.clone(), owner)].into(),
                damaged: vec!["bad".to_owned()],
            }
        }

        async fn kinds(&self, holds: Holds) -> Vec<LeakKind> {
            let leaks = look(|| self.owners(holds.clone())).await;
            leaks.iter().map(|leak| leak.kind).collect()
        }
    }

    #[tokio::test]
    async fn a_healthy_host_has_none_and_each_kind_of_leftover_is_found() {
        let place = Place::new();
        let dir = place.layout.vm(&place.name);
        fs::create_dir(place.layout.vms().join("bad")).unwrap();
        assert_eq!(place.kinds(Holds::Nothing).await, []);

        fs::write(dir.control_socket(), "").unwrap();
        fs::write(dir.pid_file(), "1").unwrap();
        fs::write(dir.share_socket(0), "").unwrap();
        assert_eq!(place.kinds(Holds::Anything).await, []);
        fs::write(dir.path().join(".draft-1"), "half").unwrap();
        fs::create_dir(place.layout.vms().join("stray")).unwrap();
        fs::create_dir(place.layout.images().join(".draft-2")).unwrap();
        fs::write(place.layout.blobs().join(".draft-3"), "half").unwrap();
        let all = [
            LeakKind::Socket,
            LeakKind::Socket,
            LeakKind::PidFile,
            LeakKind::Directory,
            LeakKind::Draft,
            LeakKind::Image,
            LeakKind::Image,
        ];
        assert_eq!(place.kinds(Holds::Nothing).await, all);
    }

    #[tokio::test]
    async fn what_is_being_made_is_no_leak_until_its_maker_is_gone() {
        let place = Place::new();
        let draft = files::DraftDir::begin(&place.layout.vms()).unwrap();
        assert_eq!(place.kinds(Holds::Nothing).await, []);
        let path = draft.path().to_owned();
        drop(draft);
        fs::create_dir(&path).unwrap();
        assert_eq!(place.kinds(Holds::Nothing).await, [LeakKind::Directory]);
    }
}
