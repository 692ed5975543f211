//! The database's file: private to its owner before SQLite writes the first byte into it. The
//! journal files that SQLite puts beside it take over its mode.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::OpenStoreError;

/// Makes the directory (0700) and the file (0600) where they do not exist, and closes the file to
/// others where it does.
pub(super) fn prepare(path: &Path) -> Result<(), OpenStoreError> {
    let make = |path: &Path, made: io::Result<()>| {
        made.map_err(|reason| OpenStoreError::Make {
            path: path.to_owned(),
            reason,
        })
    };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        make(
            dir,
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir),
        )?;
    }
    make(path, private_file(path))
}

fn private_file(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    let file = options.open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}
