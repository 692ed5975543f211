//! `metrics/*`: what this host and its VMs use, for Prometheus and whoever reads its form.

mod prometheus;

use hostler_operations::{Call, Method, Service, errors, query, service};
use schemars::JsonSchema;
use serde::Deserialize;

use super::HOSTS_READ;
use super::codes::{INVALID_STATE, STORAGE_FULL};
use super::storage::from_storage_error;
use crate::host::Host;

/// The text exposition format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats).
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn operations() -> Service<Host> {
    service("metrics").with(query("export", export).requires(HOSTS_READ).rest_text(
        Method::GET,
        "/v1/metrics",
        EXPOSITION,
    ))
}

/// Exports what the host and each of its VMs use, as Prometheus text: processors, memory, disks,
/// network. Lines about a VM carry its name, its id and what its guest calls itself.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Export {}

errors! {
    /// Why the host's metrics cannot be told.
    enum ExportError {
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be looked at.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
    }
}

from_storage_error!(ExportError);

async fn export(host: &Host, _: Call, _: Export) -> Result<String, ExportError> {
    let metrics = host.machines().metrics().await?;
    Ok(prometheus::text(&metrics, host.takes_work()))
}
