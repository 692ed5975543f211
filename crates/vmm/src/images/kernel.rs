//! The default kernel: taken out of its package, with the modules that a guest needs before it can
//! reach its root disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::build::BuildError;
use super::recipe;
use crate::cpio::Archive;
use crate::driver::Bus;
use crate::files::{Context as _, StorageError};
use crate::kernel_file::{self, KernelFormat};
use crate::kernels::{KERNEL_FILE, MODULES_FILE, MOUNT_MODULES_FILE, write_flushed};

/// A kernel that was taken out of its package.
pub(super) struct Made {
    pub(super) format: KernelFormat,
    pub(super) modules: BTreeMap<Bus, Vec<String>>,
    pub(super) mount_modules: Vec<String>,
}

/// Puts the kernel and its modules into `target`.
pub(super) fn make(unpacked: &Path, target: &Path, package: String) -> Result<Made, BuildError> {
    let boot = unpacked.join("boot");
    let entries = fs::read_dir(&boot).context("read", &boot)?;
    let image = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|n| n.as_encoded_bytes().starts_with(b"vmlinuz"))
        })
        .ok_or_else(|| BuildError::Recipe {
            problem: format!("package {package} has no vmlinuz"),
        })?;
    let bytes = fs::read(&image).context("read", &image)?;
    let bootable =
        kernel_file::prepare(&bytes).map_err(|problem| BuildError::Kernel { package, problem })?;
    write_flushed(&target.join(KERNEL_FILE), &bootable.bytes)?;

    let mut modules = Packed::default();
    let mut lists = BTreeMap::new();
    for bus in [Bus::Mmio, Bus::MmioVsock, Bus::Pci] {
        lists.insert(bus, modules.pack(unpacked, &recipe::modules(bus))?);
    }
    modules.write(&target.join(MODULES_FILE))?;
    let mut for_mounts = Packed::default();
    let mounts = for_mounts.pack(unpacked, recipe::MOUNT_MODULES)?;
    for_mounts.write(&target.join(MOUNT_MODULES_FILE))?;
    Ok(Made {
        format: bootable.format,
        modules: lists,
        mount_modules: mounts,
    })
}

/// An archive of modules in the making.
#[derive(Default)]
struct Packed {
    archive: Archive,
    files: Vec<String>,
}

impl Packed {
    /// Packs modules that are not in there yet; returns the files of all of them.
    fn pack(&mut self, unpacked: &Path, modules: &[&str]) -> Result<Vec<String>, BuildError> {
        let mut list = Vec::new();
        for module in modules {
            let Some(path) = find_module(unpacked, module)? else {
                continue;
            };
            let name = path.file_name().unwrap_or_default();
            let file = name.to_string_lossy().into_owned();
            if self.files.is_empty() {
                self.archive.directory("modules");
            }
            if !self.files.contains(&file) {
                let content = fs::read(&path).context("read", &path)?;
                let place = format!("modules/{file}");
                self.archive.file(&place, 0o644, &content);
                self.files.push(file.clone());
            }
            list.push(file);
        }
        Ok(list)
    }

    fn write(self, path: &Path) -> Result<(), StorageError> {
        write_flushed(path, &self.archive.finish())
    }
}

/// Finds a module, packed or not; `None` when it is built into the kernel.
fn find_module(unpacked: &Path, module: &str) -> Result<Option<PathBuf>, BuildError> {
    let forms = ["ko", "ko.xz", "ko.zst", "ko.gz"];
    let files = forms.map(|form| format!("{module}.{form}"));
    if let Some(path) = files.iter().find_map(|file| recipe::find(unpacked, file)) {
        return Ok(Some(path));
    }
    let built_in = recipe::find(unpacked, "modules.builtin");
    let built_in = built_in
        .and_then(|path| fs::read_to_string(path).ok())
        .unwrap_or_default();
    let suffix = format!("/{module}.ko");
    if built_in.lines().any(|line| line.ends_with(&suffix)) {
        return Ok(None);
    }
    Err(BuildError::Recipe {
        problem: format!("its kernel has no module {module}"),
    })
}
