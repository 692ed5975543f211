//! `host/leaks`: what is on the host and belongs to no VM.

use hostler_operations::{Call, Method, Operation, StatusCode, errors, query};
use hostler_vmm::Leak;
use schemars::JsonSchema;
use serde::Deserialize;

use super::HOSTS_READ;
use crate::host::Host;

pub(super) fn operation() -> Operation<Host> {
    query("leaks", leaks)
        .requires(HOSTS_READ)
        .rest(Method::GET, "/v1/host/leaks", StatusCode::OK)
}

/// Lists what is on the host and belongs to no VM: processes, sockets, directories, drafts. It is
/// empty on a healthy host.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Leaks {}

errors! {
    /// Nothing can go wrong with it.
    enum Never {}
}

async fn leaks(host: &Host, _: Call, _: Leaks) -> Result<Vec<Leak>, Never> {
    Ok(host.machines().leaks().await)
}
