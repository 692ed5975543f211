//! What a source is: a name in a registry, or something that lies on this host.
//!
//! ```text
//! HOST/NAME:TAG            a registry          /path/layout[:NAME]        an OCI layout
//! /path/archive.tar[:NAME] an OCI archive, a `docker save` archive, or a root file system
//! ```
//!
//! The prefixes that skopeo uses for paths (`oci:`, `oci-archive:`, `docker-archive:`) are taken
//! too. What a file is, its content says.

mod archive;
mod layout;

use std::fs::File;
use std::sync::Arc;

use super::digest::Digest;
use super::import::ImportImageError;
use super::layer::Layer;
use super::manifest::{Config, Descriptor, Document, Index, InvalidManifest, Manifest};
use super::reference::Reference;
use super::registry::{Credentials, RegistryError, Repository};
use crate::sources::{SourceRefused, Sources};

pub(super) use self::archive::looks_layered;

/// The most indexes on the way to a manifest.
const MAX_INDEXES: usize = 3;

/// A source, told apart but not yet looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    Registry(Reference),
    /// A path, and perhaps the image that is meant there.
    Local(String),
}

/// Where a layer is.
#[derive(Clone)]
pub(crate) enum LayerAt {
    Here(Layer),
    Registry {
        descriptor: Descriptor,
        diff_id: Digest,
    },
}

/// An image that was found, with nothing of its layers read.
pub(crate) struct Found {
    pub(crate) manifest: Option<Digest>,
    /// `None` for a bare root file system.
    pub(crate) config: Option<Config>,
    pub(crate) layers: Vec<LayerAt>,
    pub(crate) repository: Option<Arc<Repository>>,
}

/// Why a source is no image that can be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{0}")]
    Unreadable(String),
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Refused(#[from] SourceRefused),
}

impl SourceError {
    pub(super) fn of(self, source: &str) -> ImportImageError {
        let source = source.to_owned();
        match self {
            Self::Registry(RegistryError::Storage(storage)) => storage.into(),
            Self::Registry(problem) if problem.is_passing() => ImportImageError::RegistryAway {
                source_text: source,
                problem: problem.to_string(),
            },
            Self::Registry(problem) => ImportImageError::Registry {
                source_text: source,
                problem: problem.to_string(),
            },
            Self::Unreadable(problem) => ImportImageError::Source {
                source_text: source,
                problem,
            },
            Self::Refused(problem) => ImportImageError::Source {
                source_text: source,
                problem: problem.to_string(),
            },
            Self::Manifest(problem) => ImportImageError::Image {
                source_text: source,
                problem: problem.to_string(),
            },
        }
    }
}

impl Source {
    pub(super) fn parse(text: &str) -> Result<Self, SourceError> {
        let prefixes = ["oci:", "oci-archive:", "docker-archive:", "dir:"];
        let local = prefixes
            .iter()
            .find_map(|prefix| text.strip_prefix(prefix))
            .unwrap_or(text);
        if local.contains('\0') {
            return Err(SourceError::Unreadable("it has a zero in it".to_owned()));
        }
        if !local.starts_with('/') {
            if local.len() < text.len() || text.starts_with('.') || text.is_empty() {
                let problem = "a path has to be absolute, and is one on the host";
                return Err(SourceError::Unreadable(problem.to_owned()));
            }
            let reference = text.parse().map_err(|error| {
                SourceError::Unreadable(format!(
                    "it is neither an absolute path nor a name in a registry: {error}"
                ))
            })?;
            return Ok(Self::Registry(reference));
        }
        Ok(Self::Local(local.to_owned()))
    }

    /// Looks at what the source is. Reads on the host block, so they are done elsewhere.
    pub(super) async fn find(
        self,
        sources: &Sources,
        credentials: Option<Credentials>,
    ) -> Result<Found, SourceError> {
        match self {
            Self::Registry(reference) => find_in_registry(reference, credentials).await,
            Self::Local(text) => {
                let sources = sources.clone();
                crate::blocking::run(move || find_here(&sources, &text)).await
            }
        }
    }
}

async fn find_in_registry(
    reference: Reference,
    credentials: Option<Credentials>,
) -> Result<Found, SourceError> {
    let repository = Repository::open(reference, credentials)?;
    let mut wanted = repository.reference().wanted();
    for _ in 0..MAX_INDEXES {
        let (bytes, digest) = repository.manifest(&wanted).await?;
        let manifest = match Document::parse(&bytes)? {
            Document::Index(index) => {
                wanted = index.choose(None)?.digest.to_string();
                continue;
            }
            Document::Manifest(manifest) => manifest,
        };
        let Descriptor {
            digest: id, size, ..
        } = &manifest.config;
        let config = repository.small_blob(id, *size).await?;
        let config = Config::parse(&config, manifest.layers.len())?;
        let diff_ids = config.diff_ids.clone();
        let layers = manifest.layers.into_iter().zip(diff_ids);
        return Ok(Found {
            manifest: Some(digest),
            config: Some(config),
            layers: layers
                .map(|(descriptor, diff_id)| LayerAt::Registry {
                    descriptor,
                    diff_id,
                })
                .collect(),
            repository: Some(Arc::new(repository)),
        });
    }
    Err(too_many_indexes())
}

fn too_many_indexes() -> SourceError {
    SourceError::Unreadable("its index leads to an index, and that to another".to_owned())
}

fn find_here(sources: &Sources, text: &str) -> Result<Found, SourceError> {
    let (file, name) = sources.open_named(text)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return find_in_layout(&layout::Directory::new(file), name);
    }
    if !metadata.is_file() {
        let problem = "it is neither a regular file nor a directory";
        return Err(SourceError::Unreadable(problem.to_owned()));
    }
    find_in_file(Arc::new(file), metadata.len(), name)
}

/// What a file is: an archive of layers, or one of a root file system.
pub(crate) fn find_in_file(
    file: Arc<File>,
    length: u64,
    name: Option<&str>,
) -> Result<Found, SourceError> {
    if let Some(archive) = archive::Members::list(&file)? {
        if archive.has("oci-layout") {
            return find_in_layout(&archive, name);
        }
        if archive.has("manifest.json") {
            return archive.saved(name);
        }
    }
    Ok(Found {
        manifest: None,
        config: None,
        layers: vec![LayerAt::Here(Layer {
            file,
            offset: 0,
            length,
            digest: None,
            diff_id: None,
            is_ours: false,
        })],
        repository: None,
    })
}

fn unreadable(error: std::io::Error) -> SourceError {
    SourceRefused::Unreadable(error).into()
}

/// The files of a layout, wherever they lie.
trait Files {
    /// A small file, whole.
    fn small(&self, path: &str) -> Result<Vec<u8>, SourceError>;
    /// A file that stays where it is: what holds it, from where on, how long.
    fn large(&self, path: &str) -> Result<(Arc<File>, u64, u64), SourceError>;
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn small_blob(files: &impl Files, digest: &Digest) -> Result<Vec<u8>, SourceError> {
    let bytes = files.small(&blob_path(digest))?;
    let found = Digest::of(&bytes);
    if found != *digest {
        let wanted = digest.clone();
        return Err(RegistryError::Digest { wanted, found }.into());
    }
    Ok(bytes)
}

fn find_in_layout(files: &impl Files, name: Option<&str>) -> Result<Found, SourceError> {
    files.small("oci-layout")?;
    let mut index: Index = match Document::parse(&files.small("index.json")?)? {
        Document::Index(index) => index,
        Document::Manifest(_) => {
            return Err(SourceError::Unreadable(
                "its index.json is no index".to_owned(),
            ));
        }
    };
    let mut name = name;
    for _ in 0..MAX_INDEXES {
        let digest = index.choose(name.take())?.digest.clone();
        match Document::parse(&small_blob(files, &digest)?)? {
            Document::Index(inner) => index = inner,
            Document::Manifest(manifest) => return of_layout(files, manifest, digest),
        }
    }
    Err(too_many_indexes())
}

fn of_layout(files: &impl Files, manifest: Manifest, digest: Digest) -> Result<Found, SourceError> {
    let config = small_blob(files, &manifest.config.digest)?;
    let config = Config::parse(&config, manifest.layers.len())?;
    let layers = manifest.layers.into_iter().zip(&config.diff_ids);
    let layers = layers.map(|(Descriptor { digest, size, .. }, diff_id)| {
        let (file, offset, length) = files.large(&blob_path(&digest))?;
        if length != size {
            return Err(RegistryError::Size {
                said: size,
                sent: length,
            }
            .into());
        }
        Ok(LayerAt::Here(Layer {
            file,
            offset,
            length,
            digest: Some(digest),
            diff_id: Some(diff_id.clone()),
            is_ours: false,
        }))
    });
    let layers = layers.collect::<Result<_, SourceError>>()?;
    Ok(Found {
        manifest: Some(digest),
        config: Some(config),
        layers,
        repository: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_told_by_its_form() {
        let local = |text: &str| Source::parse(text).unwrap();
        let here = |text: &str| Source::Local(text.to_owned());
        assert_eq!(local("/srv/layout"), here("/srv/layout"));
        assert_eq!(local("oci:/srv/layout"), here("/srv/layout"));
        assert_eq!(
            local("/srv/a:r.example:5000/a:1"),
            here("/srv/a:r.example:5000/a:1")
        );
        assert!(matches!(local("127.0.0.1:5000/a:1"), Source::Registry(_)));
        for text in ["", "./a", "../a", "oci:a", "a b", "/a\0b"] {
            assert!(Source::parse(text).is_err(), "{text:?}");
        }
    }
}
