//! Reading a set of files, and refusing what is none.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::SvidFiles;
use crate::bundle::{BundleError, TrustBundles};
use crate::svid::{Svid, SvidError};

/// Far above any chain, key or bundle.
const MAX_BYTES: u64 = 1024 * 1024;
/// Permission bits that a key's file must not have: anything for others, writing for the group.
/// The group may read, because that is how a key is given to a service account (`ssl-cert`, a
/// secret volume with `fsGroup`).
const TOO_OPEN: u32 = 0o027;

/// Why a set of files is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("{} is not a file; give the path of a PEM file", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
    },
    /// A file is larger than 1 MiB, which no certificate, key or bundle is.
    #[error("{} is larger than {MAX_BYTES} bytes; is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file holds bytes that are not text.
    #[error("{} is not text; give PEM files, not DER", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// The key can be read by others, or written by its group.
    #[error(
        "{} holds a private key but has mode {mode:03o}; take the key as known to others, or, if \
         only the mode is wrong, run: chmod 600 {}", path.display(), path.display()
    )]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The chain and the key are no SVID.
    #[error("{} and {} are no identity: {source}", chain.display(), key.display())]
    Svid {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: SvidError,
    },
    /// The chain and the key cannot be presented together.
    #[error("{} and {} are no certificate with its key: {reason}", chain.display(), key.display())]
    Certificate {
        /// The chain's file.
        chain: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The authority's file cannot be used.
    #[error("{} holds no certificate authority: {reason}", path.display())]
    Authority {
        /// The authority's file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The bundle cannot be used.
    #[error("{}: {source}", path.display())]
    Bundle {
        /// The bundle's file.
        path: PathBuf,
        /// What is wrong.
        source: BundleError,
    },
    /// The bundle holds no certificate. As a bundle that would mean to trust nobody; as a file it
    /// is one that is being written.
    #[error("{} holds no certificate; put the trust domain's roots there", path.display())]
    EmptyBundle {
        /// The bundle's file.
        path: PathBuf,
    },
}

/// Reads the set and checks that it fits together.
pub(super) fn set(files: &SvidFiles) -> Result<(Svid, TrustBundles), FilesError> {
    let key = key(&files.key)?;
    let chain = public(&files.chain)?;
    let svid = Svid::from_pem(&chain, &key).map_err(|source| FilesError::Svid {
        chain: files.chain.clone(),
        key: files.key.clone(),
        source,
    })?;
    let trust_domain = svid.id().trust_domain();
    let roots = public(&files.bundle)?;
    let bundles = TrustBundles::from_pem(trust_domain.clone(), &roots).map_err(|source| {
        FilesError::Bundle {
            path: files.bundle.clone(),
            source,
        }
    })?;
    match bundles.get(trust_domain) {
        Some(roots) if !roots.is_empty() => Ok((svid, bundles)),
        _ => Err(FilesError::EmptyBundle {
            path: files.bundle.clone(),
        }),
    }
}

/// Reads a file that anybody may see.
pub(crate) fn public(path: &Path) -> Result<String, FilesError> {
    text(path, read(path, 0)?)
}

pub(crate) fn key(path: &Path) -> Result<SecretString, FilesError> {
    text(path, read(path, TOO_OPEN)?).map(SecretString::from)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String, FilesError> {
    String::from_utf8(bytes).map_err(|_| FilesError::NotText {
        path: path.to_owned(),
    })
}

/// Reads a file that has none of the forbidden permission bits.
fn read(path: &Path, forbidden: u32) -> Result<Vec<u8>, FilesError> {
    let failed = |source| FilesError::Read {
        path: path.to_owned(),
        source,
    };
    // Before it is opened: opening a pipe would wait for whoever writes to it.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(FilesError::NotAFile {
            path: path.to_owned(),
        });
    }
    let file = File::open(path).map_err(failed)?;
    // Of the file that was opened, which may be another one by now.
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & forbidden != 0 {
        return Err(FilesError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(FilesError::TooLarge {
            path: path.to_owned(),
        }),
        false => Ok(bytes),
    }
}
