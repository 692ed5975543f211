//! The default kernel: taken out of its package, with the modules that a guest needs before it can
//! reach its root disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::build::BuildError;
use super::recipe;
use crate::cpio::Archive;
use crate::driver::Bus;
use crate::files::Context as _;
use crate::kernel_file::{self, KernelFormat};
use crate::kernels::{KERNEL_FILE, MODULES_FILE, write_flushed};

/// Puts the kernel and its modules into `target`.
pub(super) fn make(
    unpacked: &Path,
    target: &Path,
    package: String,
) -> Result<(KernelFormat, BTreeMap<Bus, Vec<String>>), BuildError> {
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

    let mut archive = Archive::default();
    archive.directory("modules");
    let mut packed = Vec::new();
    let mut lists = BTreeMap::new();
    for bus in [Bus::Mmio, Bus::MmioVsock, Bus::Pci] {
        let mut list = Vec::new();
        for module in recipe::modules(bus) {
            let Some(path) = find_module(unpacked, module)? else {
                continue;
            };
            let file = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !packed.contains(&file) {
                let content = fs::read(&path).context("read", &path)?;
                archive.file(&format!("modules/{file}"), 0o644, &content);
                packed.push(file.clone());
            }
            list.push(file);
        }
        lists.insert(bus, list);
    }
    write_flushed(&target.join(MODULES_FILE), &archive.finish())?;
    Ok((bootable.format, lists))
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
