//! The kernel's modules: loaded in the order in which the host listed them.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;
use rustix::system::finit_module;

use crate::error::{Context, Result};

/// Where the host put the modules.
const DIRECTORY: &str = "/modules";

/// The kernel unpacks the file itself (`MODULE_INIT_COMPRESSED_FILE`, finit_module(2)).
const COMPRESSED: i32 = 4;

/// Loads the modules of these file names. One that is there already is no error.
pub(crate) fn load(names: &[String]) -> Result<()> {
    // A kernel without its own proc would have no command line for its modules either.
    let command_line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    for name in names {
        let path = Path::new(DIRECTORY).join(name);
        let tried = || format!("load module {name}");
        let file = File::open(&path).context(tried)?;
        let flags = if name.ends_with(".ko") { 0 } else { COMPRESSED };
        let parameters = parameters(&command_line, name);
        match finit_module(&file, &parameters, flags) {
            Err(Errno::EXIST) => {}
            loaded => loaded.context(tried)?,
        }
    }
    Ok(())
}

/// What the kernel's command line says to a module that is not built in: `virtio_mmio.device=...`
/// is how a machine without tables of its devices tells where they are. Dashes and underscores are
/// the same, as for modprobe(8).
fn parameters(command_line: &str, file: &str) -> CString {
    let module = file.split('.').next().unwrap_or(file).replace('-', "_");
    let mine = command_line.split_ascii_whitespace().filter_map(|word| {
        let (name, parameter) = word.split_once('.')?;
        (name.replace('-', "_") == module).then_some(parameter)
    });
    let all: Vec<&str> = mine.collect();
    CString::new(all.join(" ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_gets_what_the_command_line_says_to_it() {
        let line = "quiet virtio_mmio.device=4K@0xd0000000:5 virtio-mmio.device=4K@0xd0001000:6 \
                    other.device=1 virtio_mmio panic=-1\n";
        let told = parameters(line, "virtio_mmio.ko.xz");
        assert_eq!(
            told.as_c_str(),
            c"device=4K@0xd0000000:5 device=4K@0xd0001000:6"
        );
        assert_eq!(parameters(line, "virtio_blk.ko").as_c_str(), c"");
    }
}
