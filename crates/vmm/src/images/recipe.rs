//! The recipe of the default image: which packages, which of their files, and what is written
//! beside them.
//!
//! The image is small because it is copied for every VM and because under software emulation
//! every program that starts costs time: busybox as init and as everything, dropbear for SSH, and a
//! page that greets. Nobody can log in but by the key that the VM was created with.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::driver::Bus;

/// Raised with every change of this file that changes the result.
pub(crate) const VERSION: u32 = 3;

/// The package that depends on the current kernel.
pub(crate) const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// The size of the image in MiB. A VM's disk grows from it.
pub(crate) const SIZE_MB: u64 = 96;

/// A package and what is taken from it: the file's name, and its place in the image. Packages
/// move their files between `/lib` and `/usr/lib` from one Debian to the next, so they are found by
/// name.
type Ingredient = (&'static str, &'static [(&'static str, &'static str)]);

pub(crate) const INGREDIENTS: &[Ingredient] = &[
    ("busybox-static", &[("busybox", "bin/busybox")]),
    (
        "dropbear-bin",
        &[
            ("dropbear", "usr/sbin/dropbear"),
            ("dropbearkey", "usr/bin/dropbearkey"),
        ],
    ),
    (
        "libtomcrypt1",
        &[("libtomcrypt.so.1", "lib/libtomcrypt.so.1")],
    ),
    ("libtommath1", &[("libtommath.so.1", "lib/libtommath.so.1")]),
    ("libgmp10", &[("libgmp.so.10", "lib/libgmp.so.10")]),
    ("libcrypt1", &[("libcrypt.so.1", "lib/libcrypt.so.1")]),
    ("zlib1g", &[("libz.so.1", "lib/libz.so.1")]),
    (
        "libc6",
        &[
            ("libc.so.6", "lib/libc.so.6"),
            ("ld-linux-x86-64.so.2", "lib64/ld-linux-x86-64.so.2"),
        ],
    ),
];

/// The modules that a guest needs before its root disk, in an order in which each finds what it
/// depends on.
pub(crate) fn modules(bus: Bus) -> Vec<&'static str> {
    let transport: &[_] = match bus {
        Bus::Mmio | Bus::MmioVsock => &["virtio_mmio"],
        Bus::Pci => &[
            "virtio_pci_legacy_dev",
            "virtio_pci_modern_dev",
            "virtio_pci",
        ],
    };
    let devices = ["virtio_blk", "failover", "net_failover", "virtio_net"];
    // What the host is spoken to through.
    let channel: &[_] = match bus {
        Bus::Mmio | Bus::Pci => &["virtio_console"],
        Bus::MmioVsock => &[
            "vsock",
            "vmw_vsock_virtio_transport_common",
            "vmw_vsock_virtio_transport",
        ],
    };
    [&["virtio_ring", "virtio"], transport, &devices, channel].concat()
}

/// The modules that a guest needs besides to share directories of its host, in such an order.
pub(crate) const MOUNT_MODULES: &[&str] = &["fuse", "virtiofs"];

const DIRECTORIES: &[&str] = &[
    "bin",
    "dev",
    "etc/dropbear",
    "home",
    "lib",
    "lib64",
    "mnt",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/sbin",
    "usr/share/doc",
    "var/log",
    "var/lib",
];

/// What is written: path, permissions, content.
const TEXTS: &[(&str, u32, &str)] = &[
    (
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    (
        "etc/group",
        0o644,
        "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    ),
    // No password fits a star: only keys get in.
    (
        "etc/shadow",
        0o600,
        "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n",
    ),
    ("etc/shells", 0o644, "/bin/sh\n"),
    ("etc/hosts", 0o644, "127.0.0.1\tlocalhost\n::1\tlocalhost\n"),
    (
        "etc/profile",
        0o644,
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin\nPS1='\\u@\\h:\\w# '\n",
    ),
    (
        "etc/os-release",
        0o644,
        "NAME=\"Hostler minimal\"\nID=hostler-minimal\nID_LIKE=debian\n\
         PRETTY_NAME=\"Hostler minimal (from Debian packages)\"\n",
    ),
    (
        "etc/inittab",
        0o644,
        "::sysinit:/etc/rcS\n\
         ::respawn:/bin/httpd -f -p 80 -h /run/www\n\
         ::respawn:/usr/sbin/dropbear -F -R -s\n",
    ),
    (
        "etc/rcS",
        0o755,
        "#!/bin/sh\n\
         # Builtins only: each program that starts here delays the guest.\n\
         read -r name </etc/hostname\n\
         mkdir -p /run/www\n\
         echo \"<!doctype html><title>$name</title><h1>Hello from $name</h1>\" \
         >/run/www/index.html\n",
    ),
];

/// An ingredient is not as expected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecipeError {
    #[error("package {package} has no file {file}")]
    Missing {
        package: &'static str,
        file: &'static str,
    },
    #[error("cannot make {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

trait At<T> {
    fn at(self, path: &Path) -> Result<T, RecipeError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, RecipeError> {
        self.map_err(|source| RecipeError::Write {
            path: path.to_owned(),
            source,
        })
    }
}

/// Puts the image's tree together from packages that were unpacked to `unpacked/PACKAGE`.
pub(crate) fn assemble(unpacked: &Path, tree: &Path, applets: &str) -> Result<(), RecipeError> {
    for directory in DIRECTORIES {
        let path = tree.join(directory);
        fs::create_dir_all(&path).at(&path)?;
        set_mode(&path, 0o755)?;
    }
    set_mode(&tree.join("root"), 0o700)?;
    set_mode(&tree.join("tmp"), 0o1777)?;
    for (package, wanted) in INGREDIENTS {
        let source = unpacked.join(package);
        for (file, place) in *wanted {
            let missing = RecipeError::Missing { package, file };
            let found = find(&source, file).ok_or(missing)?;
            let place = tree.join(place);
            fs::copy(&found, &place).at(&place)?;
            set_mode(&place, 0o755)?;
        }
        copy_licence(&source, tree, package)?;
    }
    for (path, mode, text) in TEXTS {
        let path = tree.join(path);
        fs::write(&path, text).at(&path)?;
        set_mode(&path, *mode)?;
    }
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let path = tree.join("bin").join(applet);
        symlink("busybox", &path).at(&path)?;
    }
    let init = tree.join("sbin/init");
    symlink("../bin/busybox", &init).at(&init)
}

/// What is passed on is passed on with its licence.
fn copy_licence(source: &Path, tree: &Path, package: &str) -> Result<(), RecipeError> {
    let place = Path::new("usr/share/doc").join(package);
    let from = source.join(&place).join("copyright");
    if !from.is_file() {
        return Ok(());
    }
    let directory = tree.join(&place);
    fs::create_dir_all(&directory).at(&directory)?;
    let to = directory.join("copyright");
    fs::copy(&from, &to).at(&to).map(drop)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), RecipeError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at(path)
}

/// Finds a file by its name anywhere in a tree. Documentation may have the same names.
pub(crate) fn find(tree: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(tree).ok()?.filter_map(Result::ok).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    entries.into_iter().find_map(|entry| {
        let path = entry.path();
        if entry.file_type().ok()?.is_dir() {
            return (entry.file_name() != "share")
                .then(|| find(&path, name))
                .flatten();
        }
        (entry.file_name() == name && path.is_file()).then_some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_ingredient_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = assemble(dir.path(), &dir.path().join("tree"), "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "package busybox-static has no file busybox"
        );
    }

    #[test]
    fn nobody_gets_in_by_a_password() {
        let shadow = TEXTS
            .iter()
            .find(|(path, ..)| *path == "etc/shadow")
            .unwrap()
            .2;
        assert!(
            shadow
                .lines()
                .all(|line| line.split(':').nth(1) == Some("*"))
        );
        let inittab = TEXTS
            .iter()
            .find(|(path, ..)| *path == "etc/inittab")
            .unwrap()
            .2;
        assert!(!inittab.contains("getty") && !inittab.contains("askfirst"));
    }

    #[test]
    fn each_bus_has_its_transport_and_every_device() {
        assert!(modules(Bus::Mmio).contains(&"virtio_mmio"));
        assert!(!modules(Bus::Mmio).contains(&"virtio_pci"));
        for bus in [Bus::Mmio, Bus::Pci] {
            for device in ["virtio_blk", "virtio_net", "virtio_console"] {
                assert!(modules(bus).contains(&device));
            }
        }
    }
}
