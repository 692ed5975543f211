//! Writing files so that whoever reads them finds the old one or the new one, and nothing else.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Writes a neighbour, syncs it, and renames it into place. The file has this mode from its first
/// byte on, whatever the umask says.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let half = path.with_extension("half");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode & 0o600)
        .open(&half)?;
    // A leftover of an earlier attempt keeps its mode when it is opened again.
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&half, path)
}
