//! Where things are: the only place that knows the names of files in the data directory.
//!
//! ```text
//! DATA/lock                    held by the daemon that uses the directory
//! DATA/network.json            the bridge's subnet, and which VM has which address of it
//! DATA/vms/NAME/vm.json        what is known of the VM
//!               disk.ext4      its root disk, sparse
//!               initrd         what its kernel starts with: guest program, modules, configuration
//!               console.log    what its kernel and init said, the last of it
//!               vmm.pid        the process id, written by the driver's process
//!               vmm.log        what the driver's process said of itself
//!               *.sock         to the driver (control) and to the guest
//!               snapshots/SNAPSHOT/  snapshot.json, disk.ext4, and the driver's files of memory
//!               jail, cgroup   links to what a jailed VM has elsewhere
//! DATA/jail/                   the roots of jailed VMs
//! DATA/jail-users.json         which user each of them has
//! DATA/images/NAME/            image.json, root.ext4
//! DATA/blobs/SHA256            layers of images, as they came from registries
//! DATA/kernels/NAME/           kernel.json, kernel, modules.cpio
//! ```

use std::env;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::name::VmName;

/// The longest path that a Unix socket can have (unix(7): `sun_path` holds 108 bytes with the
/// final zero).
const MAX_SOCKET_PATH: usize = 107;

/// The link, beside a VM's sockets outside of its directory, to the VM's directory.
pub(crate) const OWNER: &str = "owner";

/// A data directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// `root` must be absolute: it goes to programs that run in another directory.
    pub(crate) fn new(root: PathBuf) -> Self {
        debug_assert!(root.is_absolute());
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn network(&self) -> PathBuf {
        self.root.join("network.json")
    }

    pub(crate) fn vms(&self) -> PathBuf {
        self.root.join("vms")
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(crate) fn kernels(&self) -> PathBuf {
        self.root.join("kernels")
    }

    pub(crate) fn vm(&self, name: &VmName) -> VmDir {
        self.vm_in(self.vms().join(name.as_str()))
    }

    /// A directory that is used as a VM's is.
    pub(crate) fn vm_in(&self, path: PathBuf) -> VmDir {
        let sockets = self.sockets_of(&path);
        VmDir { path, sockets }
    }

    /// Where the sockets of the VM in `directory` are: there, or in a short place that is named
    /// after it when their paths would be too long.
    fn sockets_of(&self, directory: &Path) -> PathBuf {
        if directory.as_os_str().len() + "/control.sock".len() <= MAX_SOCKET_PATH {
            return directory.to_owned();
        }
        let digest = Sha256::digest(directory.as_os_str().as_bytes());
        runtime_dir().join(format!("hostler-{}", hex::encode(&digest[..8])))
    }
}

/// Where short-lived things of this user go.
pub(crate) fn runtime_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run");
    }
    env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, PathBuf::from)
}

/// The directories of sockets that belong to VMs in `vms`, each with the directory of its VM, which
/// may be gone.
pub(crate) fn socket_dirs_of(vms: &Path) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    let entries = std::fs::read_dir(runtime_dir()).into_iter().flatten();
    entries.filter_map(move |entry| {
        let directory = entry.ok()?.path();
        let name = directory.file_name()?.as_encoded_bytes();
        let owner = std::fs::read_link(directory.join(OWNER)).ok()?;
        let ours = name.starts_with(b"hostler-") && owner.parent() == Some(vms);
        ours.then_some((directory, owner))
    })
}

/// The directory of one VM.
#[derive(Debug, Clone)]
pub(crate) struct VmDir {
    path: PathBuf,
    sockets: PathBuf,
}

impl VmDir {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that holds the sockets, which may be another one.
    pub(crate) fn sockets(&self) -> &Path {
        &self.sockets
    }

    pub(crate) fn has_own_sockets(&self) -> bool {
        self.sockets == self.path
    }

    pub(crate) fn disk(&self) -> PathBuf {
        disk_in(&self.path)
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    pub(crate) fn initrd(&self) -> PathBuf {
        self.path.join("initrd")
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.path.join("console.log")
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.path.join("vmm.pid")
    }

    pub(crate) fn control_socket(&self) -> PathBuf {
        self.sockets.join("control.sock")
    }

    /// Where a VM's process meets the one that serves its directory of this number.
    pub(crate) fn share_socket(&self, index: usize) -> PathBuf {
        self.sockets.join(format!("share{index}.sock"))
    }

    /// Those of these sockets that are there.
    pub(crate) fn share_sockets(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.sockets).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_one = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            name.starts_with(b"share") && name.ends_with(b".sock")
        };
        paths.filter(is_one).collect()
    }

    pub(crate) fn guest_socket(&self) -> PathBuf {
        self.sockets.join("guest.sock")
    }
}

/// The root disk in a VM's directory, wherever that is while it is being made.
pub(crate) fn disk_in(directory: &Path) -> PathBuf {
    directory.join("disk.ext4")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_never_exceed_what_the_kernel_takes() {
        let name: VmName = "n".repeat(63).parse().unwrap();
        for depth in 0..30 {
            let root = PathBuf::from(format!("/{}", "0123456789/".repeat(depth)));
            let dir = Layout::new(root).vm(&name);
            for socket in [dir.control_socket(), dir.guest_socket()] {
                assert!(
                    socket.as_os_str().len() <= MAX_SOCKET_PATH,
                    "{}",
                    socket.display()
                );
            }
        }
    }

    #[test]
    fn two_vms_never_share_sockets() {
        let layout = Layout::new(PathBuf::from(format!("/{}", "0123456789/".repeat(20))));
        let (one, two) = (
            layout.vm(&"a".parse().unwrap()),
            layout.vm(&"b".parse().unwrap()),
        );
        assert_ne!(one.control_socket(), two.control_socket());
        assert!(!one.has_own_sockets());
    }
}
