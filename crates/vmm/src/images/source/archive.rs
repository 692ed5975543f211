//! Archives of layers: one tar file around what would else be a directory. Its members stay where
//! they are; only where each begins is kept.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::{Files, Found, LayerAt, SourceError};
use crate::images::brief;
use crate::images::digest::Digest;
use crate::images::layer::Layer;
use crate::images::manifest::{Config, MAX_DOCUMENT, Saved};
use crate::images::registry::RegistryError;
use crate::images::tar::{Archive, Entry, Kind, TarError};

/// The most members; 128 layers have some for each.
const MAX_MEMBERS: usize = 10_000;
/// The most bytes of their names, and of headers that only describe them.
const MAX_NAMES: u64 = 16 << 20;

enum Member {
    File {
        offset: u64,
        size: u64,
    },
    /// Older `docker save` archives hold a layer once and link to it.
    Link(String),
}

pub(super) struct Members {
    file: Arc<File>,
    members: HashMap<String, Member>,
}

/// A path as others name it in documents, if it is a plain one.
fn plain(path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let words = path
        .split('/')
        .filter(|word| !word.is_empty() && *word != ".");
    Some(words.collect::<Vec<_>>().join("/"))
}

/// Whether a tar archive that was read as a root file system is one of layers.
pub(in crate::images) fn looks_layered(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| {
        let path = plain(&entry.path);
        entry.kind == Kind::File && matches!(path.as_deref(), Some("oci-layout" | "manifest.json"))
    })
}

impl Members {
    /// Lists the members of an archive; `None` when it is packed, no archive, or one with too many
    /// members, or too much said of them, to be one of layers. A root file system is not looked through to its end.
    pub(super) fn list(file: &Arc<File>) -> Result<Option<Self>, SourceError> {
        let mut reader = BufReader::new(&**file);
        reader.rewind().map_err(super::unreadable)?;
        let mut archive = Archive::seeking(reader);
        let mut members = HashMap::new();
        let mut names = 0;
        loop {
            let entry = match archive.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(TarError::Io(error)) => return Err(super::unreadable(error)),
                Err(_) => return Ok(None),
            };
            names += entry.names() as u64;
            if members.len() == MAX_MEMBERS || names + archive.described() > MAX_NAMES {
                return Ok(None);
            }
            let Some(path) = plain(&entry.path) else {
                continue;
            };
            let member = match entry.kind {
                Kind::File => Member::File {
                    offset: archive.data_offset(),
                    size: entry.size,
                },
                Kind::Symlink(target) | Kind::HardLink(target) => match plain(&target) {
                    Some(target) => Member::Link(target),
                    None => continue,
                },
                _ => continue,
            };
            members.insert(path, member);
        }
        let file = Arc::clone(file);
        Ok(Some(Self { file, members }))
    }

    pub(super) fn has(&self, path: &str) -> bool {
        matches!(self.members.get(path), Some(Member::File { .. }))
    }

    fn find(&self, path: &str) -> Result<(u64, u64), SourceError> {
        let missing = || SourceError::Unreadable(format!("its {} is missing", brief(path)));
        let path = plain(path.as_bytes()).ok_or_else(missing)?;
        let found = match self.members.get(&path) {
            Some(Member::Link(target)) => self.members.get(&linked(&path, target)),
            found => found,
        };
        match found {
            Some(Member::File { offset, size }) => Ok((*offset, *size)),
            _ => Err(missing()),
        }
    }

    /// An image of `docker save`.
    pub(super) fn saved(&self, name: Option<&str>) -> Result<Found, SourceError> {
        let saved = Saved::choose(&self.small("manifest.json")?, name)?;
        let bytes = self.small(&saved.config)?;
        check_name(&saved.config, &bytes)?;
        let config = Config::parse(&bytes, saved.layers.len())?;
        let layers = saved.layers.iter().zip(&config.diff_ids);
        let layers = layers.map(|(path, diff_id)| {
            let (offset, length) = self.find(path)?;
            Ok(LayerAt::Here(Layer {
                file: Arc::clone(&self.file),
                offset,
                length,
                digest: None,
                diff_id: Some(diff_id.clone()),
                is_ours: false,
            }))
        });
        let layers = layers.collect::<Result<_, SourceError>>()?;
        Ok(Found {
            manifest: None,
            config: Some(config),
            layers,
            repository: None,
        })
    }
}

/// A configuration is named after its digest, `HEX.json` or `blobs/sha256/HEX`.
fn check_name(path: &str, bytes: &[u8]) -> Result<(), SourceError> {
    let hex = path.rsplit('/').next().unwrap_or(path);
    let hex = hex.strip_suffix(".json").unwrap_or(hex);
    let Ok(wanted) = format!("sha256:{hex}").parse::<Digest>() else {
        return Ok(());
    };
    match Digest::of(bytes) {
        found if found != wanted => Err(RegistryError::Digest { wanted, found }.into()),
        _ => Ok(()),
    }
}

/// Where a link in an archive leads: from its own directory, and never above the top.
fn linked(path: &str, target: &str) -> String {
    let mut words: Vec<&str> = path.split('/').collect();
    words.pop();
    for word in target.split('/') {
        match word {
            ".." => drop(words.pop()),
            word => words.push(word),
        }
    }
    words.join("/")
}

impl Files for Members {
    fn small(&self, path: &str) -> Result<Vec<u8>, SourceError> {
        let (offset, size) = self.find(path)?;
        if size > MAX_DOCUMENT {
            return Err(SourceError::Unreadable(format!("its {path} is too large")));
        }
        let mut bytes = vec![0; size as usize];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.map_err(|error| SourceError::Unreadable(format!("{path}: {error}")))?;
        Ok(bytes)
    }

    fn large(&self, path: &str) -> Result<(Arc<File>, u64, u64), SourceError> {
        let (offset, size) = self.find(path)?;
        Ok((Arc::clone(&self.file), offset, size))
    }
}
