//! The socket's place in the file system: made safely, replaced safely, removed at the end.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::files::{self, FileError};

/// Anybody may ask; what they are told depends on who they are.
const SOCKET_MODE: u32 = 0o666;
const DIRECTORY_MODE: u32 = 0o755;

/// Why the Workload API cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Another process listens there, or a file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The path names no place for a socket.
    #[error("{} is no path for a socket; give an absolute one", path.display())]
    Path {
        /// What was given.
        path: PathBuf,
    },
    /// Anybody may write in the directory.
    #[error(
        "anybody may write in {} and put a socket of their own there; use a directory under the \
         data directory or /run", path.display()
    )]
    PublicDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// There is something else in the socket's place.
    #[error("{} exists and is no socket; move it away, or give another path", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen at {}: {source}", path.display())]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A listening socket and its place.
#[derive(Debug)]
pub(super) struct Socket {
    listener: UnixListener,
    place: Place,
}

/// The socket's path, ours for as long as this lives; removed when dropped.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    /// Held so that no second process takes the place. Whoever holds it knows that a socket found
    /// there is a leftover: no guessing by trying to connect.
    _lock: File,
}

impl Socket {
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        let directory = match path.parent() {
            Some(directory) if path.is_absolute() && path.file_name().is_some() => directory,
            _ => {
                return Err(SocketError::Path {
                    path: path.to_owned(),
                });
            }
        };
        let listen = |source| SocketError::Listen {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)
            .map_err(listen)?;
        if fs::metadata(directory).map_err(listen)?.mode() & 0o002 != 0 {
            return Err(SocketError::PublicDirectory {
                path: directory.to_owned(),
            });
        }
        let lock = files::lock(&beside(path, ".lock"))?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NotASocket {
                    path: path.to_owned(),
                });
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(listen(error)),
            _ => {}
        }
        // Made beside its place and renamed into it: there is no moment without a socket, and
        // none in which it has other permissions.
        let new = beside(path, ".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(listen(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(listen)?;
        fs::set_permissions(&new, Permissions::from_mode(SOCKET_MODE))
            .and_then(|()| fs::rename(&new, path))
            .inspect_err(|_| drop(fs::remove_file(&new)))
            .map_err(listen)?;
        let place = Place {
            path: path.to_owned(),
            _lock: lock,
        };
        Ok(Self { listener, place })
    }

    pub(super) fn path(&self) -> &Path {
        &self.place.path
    }

    pub(super) fn into_parts(self) -> (UnixListener, Place) {
        (self.listener, self.place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Before the lock goes. If it cannot be removed, the next start replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
