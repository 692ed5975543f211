//! `vms/*`: the VMs of this host.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::time::Duration;

use hostler_operations::{Call, Method, Service, StatusCode, mutation, query, service};
use hostler_vmm::{PortForward, Protocol, Vm, VmName};
use schemars::JsonSchema;
use serde::Deserialize;

use super::page::{Page, page};
use super::vms_errors::{
    CreateError, DeleteError, ForwardError, GetError, ListError, StartError, StopError,
};
use super::{VMS_READ, VMS_WRITE, request, while_wanted};
use crate::host::Host;

/// The longest that a guest is given to shut down. The schema of [`Stop`] says it too.
const MAX_STOP_SECS: u32 = 300;

pub(super) fn operations() -> Service<Host> {
    service("vms")
        .with(
            mutation("create", create)
                .requires(VMS_WRITE)
                .rest(Method::POST, "/v1/vms", StatusCode::CREATED)
                // Copies an image where the file system cannot share its blocks.
                .timeout(Duration::from_secs(120)),
        )
        .with(
            query("list", list)
                .requires(VMS_READ)
                .rest(Method::GET, "/v1/vms", StatusCode::OK),
        )
        .with(query("get", get).requires(VMS_READ).rest(
            Method::GET,
            "/v1/vms/{name}",
            StatusCode::OK,
        ))
        .with(
            mutation("delete", delete)
                .requires(VMS_WRITE)
                .rest(Method::DELETE, "/v1/vms/{name}", StatusCode::OK)
                .timeout(Duration::from_secs(60)),
        )
        .with(
            mutation("start", start)
                .requires(VMS_WRITE)
                .rest(Method::POST, "/v1/vms/{name}/start", StatusCode::OK)
                // A driver's process comes up in a second; on a starved machine it takes its time.
                .timeout(Duration::from_secs(120)),
        )
        .with(
            mutation("stop", stop)
                .requires(VMS_WRITE)
                .rest(Method::POST, "/v1/vms/{name}/stop", StatusCode::OK)
                // A process that has to be killed takes up to 35 s more.
                .timeout(Duration::from_secs(MAX_STOP_SECS as u64 + 60)),
        )
        .with(
            mutation("port-forward", port_forward)
                .requires(VMS_WRITE)
                .rest(Method::POST, "/v1/vms/{name}/port-forward", StatusCode::OK),
        )
}

request! {
    /// Creates a VM with its own disk. It does not run yet.
    Create(hostler_vmm::CreateVm)
}

async fn create(host: &Host, call: Call, input: Create) -> Result<Vm, CreateError> {
    if !host.takes_work() {
        return Err(CreateError::NoNewWork);
    }
    let created = host.machines().create(input.0);
    while_wanted(&call, CreateError::Left, created).await
}

request! {
    /// Lists the VMs of this host, by name.
    List(Page)
}

async fn list(host: &Host, call: Call, input: List) -> Result<Vec<Vm>, ListError> {
    let vms = host.machines().list().await;
    Ok(page(vms, |vm| vm.name.as_str(), input.0, &call))
}

/// Shows a VM.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Get {
    /// The VM's name.
    name: VmName,
}

async fn get(host: &Host, _: Call, input: Get) -> Result<Vm, GetError> {
    Ok(host.machines().get(input.name.as_str()).await?)
}

/// Deletes a VM, its disk, its snapshots and its port forwards, and answers what it was last.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Delete {
    /// The VM's name.
    name: VmName,
    /// Whether to delete it even if it runs.
    #[serde(default)]
    force: bool,
}

async fn delete(host: &Host, call: Call, input: Delete) -> Result<Vm, DeleteError> {
    let name = input.name.as_str();
    let deleted = host.machines().delete(name, input.force);
    while_wanted(&call, DeleteError::Left, deleted).await
}

/// Starts a VM. Answers as soon as its process runs; the guest is up when `ready_at` is set. A VM
/// that runs already is left as it is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Start {
    /// The VM's name.
    name: VmName,
}

async fn start(host: &Host, call: Call, input: Start) -> Result<Vm, StartError> {
    if !host.takes_work() {
        return Err(StartError::NoNewWork);
    }
    let started = host.machines().start(input.name.as_str());
    while_wanted(&call, StartError::Left, started).await
}

/// Stops a VM: asks its guest to shut down, waits, then ends its process. A VM that does not run
/// is left as it is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Stop {
    /// The VM's name.
    name: VmName,
    /// How long the guest may take to shut down, in seconds, 0 to 300; 10 unless said.
    #[serde(default = "default_stop_secs")]
    #[schemars(range(max = 300))]
    timeout_secs: u32,
}

fn default_stop_secs() -> u32 {
    10
}

async fn stop(host: &Host, call: Call, input: Stop) -> Result<Vm, StopError> {
    let timeout = Duration::from_secs(input.timeout_secs.min(MAX_STOP_SECS).into());
    let stopped = host.machines().stop(input.name.as_str(), timeout);
    while_wanted(&call, StopError::Left, stopped).await
}

/// Lets a port of the host lead into a VM, now if it runs and whenever it will. The same forward
/// again changes nothing.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Forward {
    /// The VM's name.
    name: VmName,
    /// The port on the host.
    host_port: NonZeroU16,
    /// The port in the guest.
    guest_port: NonZeroU16,
    /// What travels through it; `tcp` unless said.
    #[serde(default)]
    protocol: Protocol,
    /// The host's address to listen on; 127.0.0.1 unless said.
    #[serde(default = "default_bind")]
    bind: Ipv4Addr,
}

fn default_bind() -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}

async fn port_forward(host: &Host, call: Call, input: Forward) -> Result<Vm, ForwardError> {
    let forward = PortForward {
        host_port: input.host_port,
        guest_port: input.guest_port,
        protocol: input.protocol,
        bind: input.bind,
    };
    let name = input.name.as_str();
    let forwarded = host.machines().port_forward(name, forward);
    while_wanted(&call, ForwardError::Left, forwarded).await
}
