//! The kernel's modules: loaded in the order in which the host listed them.

use std::fs::File;
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
    for name in names {
        let path = Path::new(DIRECTORY).join(name);
        let tried = || format!("load module {name}");
        let file = File::open(&path).context(tried)?;
        let flags = if name.ends_with(".ko") { 0 } else { COMPRESSED };
        match finit_module(&file, c"", flags) {
            Err(Errno::EXIST) => {}
            loaded => loaded.context(tried)?,
        }
    }
    Ok(())
}
