//! Images that others made: from a registry, from a layout or an archive of layers, or from a root
//! file system in a tar file.
//!
//! The way of an import: the source is found and its documents checked; layers are fetched, a few
//! at a time, and each is read through once, which checks its digests and lists its entries; the
//! lists are merged in memory; then there is a file system of the right size, in which every file
//! has its place, and the layers are read again for the data. Nothing is ever unpacked on the
//! host. The image appears by a rename when it is whole; whatever ends the import before that,
//! nothing is left.

mod error;
mod read;
mod steps;
mod write;

use std::io;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::registry::Credentials;
use super::source::{Found, Source};
use super::{Boots, Image, Images, ProgressSink, ROOT_DISK};
use crate::fault;
use crate::name::ItemName;

pub use self::error::ImportImageError;
use self::steps::Work;

/// A request to import an image.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportImage {
    /// An image in a registry (`HOST[:PORT]/NAME[:TAG]`, plain HTTP only to the host itself or
    /// after `http://`), or the absolute path, on the host, of an OCI layout, an OCI archive, a
    /// `docker save` archive (each with `:NAME` when it holds several images), or a tar archive of
    /// a root file system. A path has to lie in a directory that the host allows imports from.
    pub source: String,
    /// What to call the image.
    pub name: ItemName,
    /// Size of its file system in MiB; absent: as much as it needs, and some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 32, max = 1048576))]
    pub size_mb: Option<u64>,
    /// Who asks the registry; absent: nobody in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

impl Images {
    /// Carries an import out; dropped, it leaves nothing.
    pub(super) async fn carry_out(
        &self,
        request: ImportImage,
        progress: ProgressSink<'_>,
    ) -> Result<Image, ImportImageError> {
        let ImportImage {
            source: text,
            name,
            size_mb,
            credentials,
        } = request;
        if let Some(size_mb) = size_mb.filter(|size| !(32..=1_048_576).contains(size)) {
            return Err(ImportImageError::Size { size_mb });
        }
        let source = Source::parse(&text).map_err(|error| error.of(&text))?;
        if self.shelf.get(&name).is_some() {
            return Err(ImportImageError::Exists { name });
        }
        let work = Work::begin(self, &text, size_mb, progress)?;
        work.say(1, format!("looking at {text}"));
        let found = source.find(&self.sources, credentials).await;
        let mut found = found.map_err(|error| error.of(&text))?;
        let mut read = work.read(&found).await?;
        if found.config.is_none() && read.is_layered() {
            // It was packed as a whole, and shows only now what it is.
            found = work.unpack(found).await?;
            read = work.read(&found).await?;
        }
        fault::point("image.read");
        let Found {
            manifest, config, ..
        } = found;
        let program = config.map(|config| config.program);
        let merged = work.merge(read).await?;
        let boots = match (&program, merged.has_init) {
            (_, true) => Boots::Init,
            (Some(_), false) => Boots::Program,
            (None, false) => {
                let source_text = text.clone();
                return Err(ImportImageError::NoInit { source_text });
            }
        };
        let draft = self.shelf.draft()?;
        let disk = draft.path().join(ROOT_DISK);
        let sha256 = work.write(&merged, &disk).await?;
        let image = Image {
            name,
            size_mb: merged.size_mb,
            sha256,
            source: text.clone(),
            created_at: Timestamp::now(),
            manifest: manifest.map(Into::into),
            layers: merged.diff_ids.iter().map(ToString::to_string).collect(),
            blobs: merged.blobs.iter().map(ToString::to_string).collect(),
            boots,
            program: program.filter(|program| *program != Default::default()),
        };
        fault::point("image.before-put");
        match self.shelf.put(draft, &image) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(ImportImageError::Exists { name: image.name })
            }
            put => {
                fault::point("image.after-put");
                Ok(put.map(|()| image)?)
            }
        }
    }
}
