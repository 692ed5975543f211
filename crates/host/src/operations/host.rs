//! `host/*`: the host itself.

use hostler_operations::{Call, Method, Service, StatusCode, errors, query, service};
use hostler_vmm::{Config, Health, HostStatus};
use schemars::JsonSchema;
use serde::Deserialize;

use super::HOSTS_READ;
use super::codes::{INVALID_STATE, STORAGE_FULL};
use super::storage::from_storage_error;
use crate::host::Host;

pub(super) fn operations() -> Service<Host> {
    service("host")
        .with(query("status", status).requires(HOSTS_READ).rest(
            Method::GET,
            "/v1/host/status",
            StatusCode::OK,
        ))
        .with(query("config", config).requires(HOSTS_READ).rest(
            Method::GET,
            "/v1/host/config",
            StatusCode::OK,
        ))
        .with(query("health", health).requires(HOSTS_READ).rest(
            Method::GET,
            "/v1/health",
            StatusCode::OK,
        ))
        .with(super::leaks::operation())
}

/// Shows what the host has, what of it VMs have taken, and which driver runs them.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Status {}

errors! {
    /// Why the host's status cannot be told.
    enum StatusError {
        /// The host's disk is full.
        StorageFull { reason: String } = STORAGE_FULL, "{reason}";
        /// The host's data directory cannot be looked at.
        StorageUnusable { reason: String } = INVALID_STATE, "{reason}";
    }
}

from_storage_error!(StatusError);

async fn status(host: &Host, _: Call, _: Status) -> Result<HostStatus, StatusError> {
    Ok(host.machines().status().await?)
}

/// Shows the configuration that the host runs with.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShowConfig {}

errors! {
    /// Nothing can go wrong with it.
    enum Never {}
}

async fn config(host: &Host, _: Call, _: ShowConfig) -> Result<Config, Never> {
    Ok(host.machines().config().clone())
}

/// Says whether the host works, and if it does not, what is wrong.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CheckHealth {}

async fn health(host: &Host, _: Call, _: CheckHealth) -> Result<Health, Never> {
    Ok(host.health())
}
