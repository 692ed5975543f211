//! `kernels/*`: what VMs boot.

use hostler_operations::{
    Call, INVALID_INPUT, Method, Service, StatusCode, errors, internal, mutation, query, service,
};
use hostler_vmm::{ImportKernelError, ItemName, Kernel};
use schemars::JsonSchema;
use serde::Deserialize;

use super::codes::{CONFLICT, INVALID_STATE, STORAGE_FULL};
use super::images::{DeleteError, Deleted};
use super::page::{Page, page};
use super::storage::from_storage_error;
use super::{IMAGES_READ, IMAGES_WRITE, request};
use crate::host::Host;

pub(super) fn operations() -> Service<Host> {
    service("kernels")
        .with(query("list", list).requires(IMAGES_READ).rest(
            Method::GET,
            "/v1/kernels",
            StatusCode::OK,
        ))
        .with(mutation("import", import).requires(IMAGES_WRITE).rest(
            Method::POST,
            "/v1/kernels/import",
            StatusCode::CREATED,
        ))
        .with(mutation("delete", delete).requires(IMAGES_WRITE).rest(
            Method::DELETE,
            "/v1/kernels/{name}",
            StatusCode::OK,
        ))
}

request! {
    /// Lists the kernels of this host, by name.
    List(Page)
}

errors! {
    /// Why kernels cannot be listed.
    enum ListError {
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be read.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
    }
}

async fn list(host: &Host, call: Call, input: List) -> Result<Vec<Kernel>, ListError> {
    let kernels = host.machines().kernels().list().await?;
    Ok(page(kernels, |kernel| kernel.name.as_str(), input.0, &call))
}

request! {
    /// Takes in a kernel from a file that lies on the host.
    Import(hostler_vmm::ImportKernel)
}

errors! {
    /// Why a kernel was not imported.
    enum ImportError {
        /// The source is not a kernel that boots here.
        Invalid { reason: String } = INVALID_INPUT, "{reason}";
        /// There is a kernel of that name.
        Exists { name: String } = CONFLICT,
            "a kernel named {name} is on this host already; choose another name, or delete it";
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be written.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
    }
}

async fn import(host: &Host, _: Call, input: Import) -> Result<Kernel, ImportError> {
    Ok(host.machines().kernels().import(input.0).await?)
}

/// Deletes a kernel that no VM uses.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Delete {
    /// The kernel's name.
    name: ItemName,
}

async fn delete(host: &Host, _: Call, input: Delete) -> Result<Deleted, DeleteError> {
    host.machines()
        .kernels()
        .delete(input.name.as_str())
        .await?;
    Ok(Deleted { name: input.name })
}

from_storage_error!(ListError, ImportError);

impl From<ImportKernelError> for ImportError {
    fn from(error: ImportKernelError) -> Self {
        use ImportKernelError as E;
        let reason = error.to_string();
        match error {
            E::Source { .. } | E::NotBootable { .. } => Self::Invalid { reason },
            E::Exists { name } => Self::Exists { name: name.into() },
            E::Storage(storage) => storage.into(),
            other => internal(other).into(),
        }
    }
}
