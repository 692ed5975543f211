//! `images/*`: what root disks start as.

use std::time::Duration;

use futures::StreamExt as _;
use hostler_operations::{
    Call, INVALID_INPUT, Method, NOT_FOUND, Outputs, Service, StatusCode, errors, internal,
    mutation, query, service, subscription,
};
use hostler_vmm::{
    BuildError, Image, ImportImageError, ImportProgress, ItemName, PackageError, Progress, Pulled,
    RemoveError, ToolError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::codes::{
    CONFLICT, IN_USE, INVALID_STATE, REGISTRY_UNAVAILABLE, STORAGE_FULL, UNSUPPORTED,
};
use super::page::{Page, page};
use super::storage::from_storage_error;
use super::{IMAGES_READ, IMAGES_WRITE, request};
use crate::host::Host;

/// For what downloads, unpacks and packs: as long as the slowest of the tools may take.
const LONG: Duration = Duration::from_secs(1800);

pub(super) fn operations() -> Service<Host> {
    service("images")
        .with(query("list", list).requires(IMAGES_READ).rest(
            Method::GET,
            "/v1/images",
            StatusCode::OK,
        ))
        .with(
            mutation("pull", pull)
                .requires(IMAGES_WRITE)
                .rest(Method::POST, "/v1/images/pull", StatusCode::OK)
                .timeout(LONG),
        )
        .with(
            mutation("import", import)
                .requires(IMAGES_WRITE)
                .rest(Method::POST, "/v1/images/import", StatusCode::CREATED)
                .timeout(LONG),
        )
        .with(subscription("import-progress", import_progress).requires(IMAGES_READ))
        .with(mutation("delete", delete).requires(IMAGES_WRITE).rest(
            Method::DELETE,
            "/v1/images/{name}",
            StatusCode::OK,
        ))
}

request! {
    /// Lists the images of this host, by name.
    List(Page)
}

errors! {
    /// Why images cannot be listed.
    enum ListError {
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be read.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
    }
}

async fn list(host: &Host, call: Call, input: List) -> Result<Vec<Image>, ListError> {
    let images = host.machines().images().list().await?;
    Ok(page(images, |image| image.name.as_str(), input.0, &call))
}

/// Makes the default image and its kernel present, from the host's cache or from Debian's
/// packages. Takes a minute or two the first time, and nothing when both are there.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Pull {}

errors! {
    /// Why the default image is not present.
    enum PullError {
        /// This host does not have what the image is made from or with.
        Unsupported { reason: String } = UNSUPPORTED, "{reason}";
        /// The packages cannot be had at present.
        NoPackages { reason: String } = INVALID_STATE, "{reason}";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
    }
}

async fn pull(host: &Host, _: Call, _: Pull) -> Result<Pulled, PullError> {
    Ok(host.machines().images().pull(&log).await?)
}

request! {
    /// Makes an image from a registry, or from an OCI layout, an archive of layers or a root file
    /// system's tar archive that lies on the host. When the caller leaves, it is given up and
    /// nothing of it is left.
    Import(hostler_vmm::ImportImage)
}

errors! {
    /// Why an image was not imported.
    enum ImportError {
        /// The source is not an archive that an image can be made from, or the size no size.
        Invalid { reason: String } = INVALID_INPUT, "{reason}";
        /// The registry does not give it.
        Registry { reason: String } = INVALID_STATE, "{reason}";
        /// The registry cannot be reached, is busy, or broke off.
        RegistryAway { reason: String } = REGISTRY_UNAVAILABLE, "{reason}";
        /// A program is missing on the host.
        Unsupported { reason: String } = UNSUPPORTED, "{reason}";
        /// There is an image of that name.
        Exists { name: String } = CONFLICT,
            "an image named {name} is on this host already; choose another name, or delete it";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
        /// The caller left before it was done, and nothing of it is left.
        GivenUp = INVALID_STATE, "it was given up, because nobody waited for it any more";
    }
}

async fn import(host: &Host, call: Call, input: Import) -> Result<Image, ImportError> {
    tokio::select! {
        imported = host.machines().images().import(input.0, &log) => Ok(imported?),
        () = call.cancelled() => Err(ImportError::GivenUp),
    }
}

/// Watches how far imports are: those that run, and every change from now on. With a name, the
/// stream ends when an import of that name is over.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Watch {
    /// Only imports of images of this name.
    #[serde(default)]
    name: Option<ItemName>,
}

async fn import_progress(
    host: &Host,
    _: Call,
    input: Watch,
) -> Result<Outputs<ImportProgress, ListError>, ListError> {
    let progress = host.machines().images().import_progress(input.name);
    Ok(progress.map(Ok).boxed())
}

/// Deletes an image that no VM uses.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Delete {
    /// The image's name.
    name: ItemName,
}

/// The name of what is here no more.
#[derive(Serialize, JsonSchema)]
pub(super) struct Deleted {
    /// Its name.
    pub(super) name: ItemName,
}

errors! {
    /// Why an image or a kernel was not deleted.
    pub(super) enum DeleteError {
        /// There is none of that name.
        NotFound { kind: String, name: String } = NOT_FOUND,
            "there is no {kind} named {name:?} on this host; list them to see those that are";
        /// VMs use it.
        InUse { users: Vec<String>, reason: String } = IN_USE, "{reason}";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
    }
}

async fn delete(host: &Host, _: Call, input: Delete) -> Result<Deleted, DeleteError> {
    host.machines().images().delete(input.name.as_str()).await?;
    Ok(Deleted { name: input.name })
}

/// What begins is logged; how far it is, `images/import-progress` tells.
fn log(progress: Progress) {
    let Progress {
        step,
        steps,
        message,
        done_bytes,
        ..
    } = progress;
    if done_bytes.is_none() {
        info!(step, steps, "{message}");
    }
}

from_storage_error!(ListError, PullError, ImportError, DeleteError);

impl From<BuildError> for PullError {
    fn from(error: BuildError) -> Self {
        let reason = error.to_string();
        match error {
            BuildError::Storage(storage) | BuildError::Packages(PackageError::Storage(storage)) => {
                storage.into()
            }
            BuildError::Packages(
                PackageError::Unknown { .. }
                | PackageError::Fetch { .. }
                | PackageError::Checksum { .. },
            ) => Self::NoPackages { reason },
            BuildError::Recipe { .. }
            | BuildError::Kernel { .. }
            | BuildError::Tool(ToolError::Missing { .. })
            | BuildError::Packages(PackageError::Tool(ToolError::Missing { .. })) => {
                Self::Unsupported { reason }
            }
            other => internal(other).into(),
        }
    }
}

impl From<ImportImageError> for ImportError {
    fn from(error: ImportImageError) -> Self {
        use ImportImageError as E;
        let reason = error.to_string();
        match error {
            E::Exists { name } => Self::Exists { name: name.into() },
            E::Source { .. }
            | E::Image { .. }
            | E::NoInit { .. }
            | E::Size { .. }
            | E::TooSmall { .. } => Self::Invalid { reason },
            E::Registry { .. } => Self::Registry { reason },
            E::RegistryAway { .. } => Self::RegistryAway { reason },
            E::Tool(ToolError::Missing { .. }) => Self::Unsupported { reason },
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}

impl From<RemoveError> for DeleteError {
    fn from(error: RemoveError) -> Self {
        let reason = error.to_string();
        match error {
            RemoveError::NotFound { kind, name } => Self::NotFound {
                kind: kind.to_owned(),
                name,
            },
            RemoveError::InUse { users, .. } => Self::InUse {
                users: users.into_iter().map(Into::into).collect(),
                reason,
            },
            RemoveError::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}
