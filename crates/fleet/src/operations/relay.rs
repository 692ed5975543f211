//! `images/*`, `kernels/*`, `host/*`: operations of one host, passed on to it as they come. Its
//! answer is passed back; what is in it is the host's affair.

mod changes;

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use hostler_operations::{
    Call, Method, NOT_FOUND, Outputs, Service, StatusCode, internal, mutation, query, service,
    subscription,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::changes::change;
use super::errors::read_errors;
use super::hosts::visible;
use super::page::Page;
use crate::connector::{Ask, OrHost};
use crate::fleet::Fleet;
use crate::ids::HostId;
use crate::model::Host;
use crate::scopes::{HOSTS_READ, IMAGES_READ, IMAGES_WRITE};

/// How long a host may take to say or remove something.
const SHORT: Duration = Duration::from_secs(10);
/// How long it may take to fetch or convert gigabytes: a little longer than hosts allow themselves.
const LONG: Duration = Duration::from_secs(30 * 60 + 10);
/// What passing on takes beside the host.
const MARGIN: Duration = Duration::from_secs(10);

pub(super) fn images() -> Service<Fleet> {
    service("images")
        .with(query("list", list_images).requires(IMAGES_READ).rest(
            Method::GET,
            "/v1/hosts/{host}/images",
            StatusCode::OK,
        ))
        .with(
            mutation("pull", change::<PullImages>)
                .requires(IMAGES_WRITE)
                .timeout(LONG + MARGIN)
                .rest(Method::POST, "/v1/hosts/{host}/images/pull", StatusCode::OK),
        )
        .with(
            mutation("import", change::<ImportImage>)
                .requires(IMAGES_WRITE)
                .timeout(LONG + MARGIN)
                .rest(
                    Method::POST,
                    "/v1/hosts/{host}/images/import",
                    StatusCode::CREATED,
                ),
        )
        .with(
            subscription("import-progress", follow::<ImportProgress>)
                .requires(IMAGES_READ)
                .rest(
                    Method::GET,
                    "/v1/hosts/{host}/images/import-progress",
                    StatusCode::OK,
                ),
        )
        .with(
            mutation("delete", change::<DeleteImage>)
                .requires(IMAGES_WRITE)
                .rest(
                    Method::DELETE,
                    "/v1/hosts/{host}/images/{name}",
                    StatusCode::OK,
                ),
        )
}

pub(super) fn kernels() -> Service<Fleet> {
    service("kernels")
        .with(query("list", list_kernels).requires(IMAGES_READ).rest(
            Method::GET,
            "/v1/hosts/{host}/kernels",
            StatusCode::OK,
        ))
        .with(
            mutation("import", change::<ImportKernel>)
                .requires(IMAGES_WRITE)
                .timeout(LONG + MARGIN)
                .rest(
                    Method::POST,
                    "/v1/hosts/{host}/kernels/import",
                    StatusCode::CREATED,
                ),
        )
        .with(
            mutation("delete", change::<DeleteKernel>)
                .requires(IMAGES_WRITE)
                .rest(
                    Method::DELETE,
                    "/v1/hosts/{host}/kernels/{name}",
                    StatusCode::OK,
                ),
        )
}

pub(super) fn host() -> Service<Fleet> {
    service("host")
        .with(
            query("status", pass_on::<HostStatus>)
                .requires(HOSTS_READ)
                .rest(Method::GET, "/v1/hosts/{host}/host/status", StatusCode::OK),
        )
        .with(
            query("config", pass_on::<HostConfig>)
                .requires(HOSTS_READ)
                .rest(Method::GET, "/v1/hosts/{host}/host/config", StatusCode::OK),
        )
        .with(
            query("health", pass_on::<HostHealth>)
                .requires(HOSTS_READ)
                .rest(Method::GET, "/v1/hosts/{host}/health", StatusCode::OK),
        )
        .with(
            query("leaks", pass_on::<HostLeaks>)
                .requires(HOSTS_READ)
                .rest(Method::GET, "/v1/hosts/{host}/host/leaks", StatusCode::OK),
        )
}

pub(super) fn metrics() -> Service<Fleet> {
    service("metrics").with(
        query("export", export_metrics)
            .requires(HOSTS_READ)
            .rest_text(Method::GET, "/v1/hosts/{host}/metrics", EXPOSITION),
    )
}

/// Prometheus' text form, as hosts write it.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An input that is passed on to a host: everything in it but the host's id.
trait ForHost: Serialize + Send + 'static {
    /// Which host.
    fn host(&self) -> &HostId;
    /// How long the host may take.
    const TIMEOUT: Duration = SHORT;
    /// Whether the host gives it up when nobody waits for it any more.
    const GIVEN_UP: bool = false;
}

macro_rules! for_host {
    ($($input:ident $(within $timeout:expr)?),* $(,)?) => {
        $(impl ForHost for $input {
            fn host(&self) -> &HostId {
                &self.host
            }

            $(const TIMEOUT: Duration = $timeout;)?
        })*
    };
}

for_host!(
    Everything,
    PullImages within LONG,
    ImportProgress,
    DeleteImage,
    ImportKernel within LONG,
    DeleteKernel,
    HostStatus,
    HostConfig,
    HostHealth,
    HostLeaks,
    ExportMetrics,
);

impl ForHost for ImportImage {
    fn host(&self) -> &HostId {
        &self.host
    }

    const TIMEOUT: Duration = LONG;
    const GIVEN_UP: bool = true;
}

read_errors! {
    /// Why nothing was passed on to a host.
    enum RelayError {
        /// There is no such host, or not for this caller.
        NoSuchHost { id: HostId } = NOT_FOUND,
            "there is no host {id}; hosts/list shows those there are";
    }
}

async fn pass_on<I: ForHost>(
    fleet: &Fleet,
    call: Call,
    input: I,
) -> Result<Value, OrHost<RelayError>> {
    relay(fleet, call, input).await
}

async fn relay<I: ForHost, O: DeserializeOwned>(
    fleet: &Fleet,
    call: Call,
    input: I,
) -> Result<O, OrHost<RelayError>> {
    let host = host_for(fleet, &call, input.host()).await?;
    let ask = Ask {
        operation: call.operation().as_str(),
        input: without_host(&input)?,
        request_id: call.request_id(),
        timeout: I::TIMEOUT,
    };
    let left = async {
        match I::GIVEN_UP {
            true => call.cancelled().await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        answer = fleet.connector.ask(&host, ask) => Ok(answer?),
        // Nobody reads this. That we leave too is what the host notices.
        () = left => Err(OrHost::Own(internal("its caller left").into())),
    }
}

/// Passes a subscription on: `subscription("import-progress", follow::<ImportProgress>)`.
async fn follow<I: ForHost>(
    fleet: &Fleet,
    call: Call,
    input: I,
) -> Result<Outputs<Value, OrHost<RelayError>>, OrHost<RelayError>> {
    let host = host_for(fleet, &call, input.host()).await?;
    let ask = Ask {
        operation: call.operation().as_str(),
        input: without_host(&input)?,
        request_id: call.request_id(),
        timeout: I::TIMEOUT,
    };
    let outputs = fleet.connector.subscribe(&host, ask).await?;
    Ok(outputs.map_err(OrHost::Host).boxed())
}

async fn host_for(fleet: &Fleet, call: &Call, id: &HostId) -> Result<Host, OrHost<RelayError>> {
    let unreadable = |error| OrHost::Own(RelayError::from(error));
    // Only for the look: the host may take its time, and others need the connection meanwhile.
    let mut db = fleet.store.read().await.map_err(unreadable)?;
    let found = visible(&mut db, call, id).await.map_err(unreadable)?;
    found.ok_or_else(|| OrHost::Own(RelayError::NoSuchHost { id: id.clone() }))
}

fn without_host<I: ForHost>(input: &I) -> Result<Value, OrHost<RelayError>> {
    let mut passed = serde_json::to_value(input).map_err(|e| OrHost::Own(internal(e).into()))?;
    if let Some(fields) = passed.as_object_mut() {
        fields.remove("host");
    }
    Ok(passed)
}

/// A list of things on a host, asked for as a whole: a host has few of them, and its pages are not
/// ours.
#[derive(Debug, Serialize)]
struct Everything {
    host: HostId,
    limit: u32,
}

async fn list(
    fleet: &Fleet,
    call: Call,
    host: HostId,
    page: Page,
) -> Result<Vec<Value>, OrHost<RelayError>> {
    let everything = Everything { host, limit: 1000 };
    let mut found: Vec<Value> = relay(fleet, call.clone(), everything).await?;
    found.retain(|one| name_of(one) > page.after());
    found.truncate(page.fetch() as usize);
    Ok(page.cut(&call, found, name_of))
}

fn name_of(one: &Value) -> &str {
    one["name"].as_str().unwrap_or_default()
}

/// Lists the images on a host, by name.
#[derive(Debug, Deserialize, JsonSchema)]
struct ListImages {
    /// The host's id.
    host: HostId,
    #[serde(flatten)]
    page: Page,
}

async fn list_images(
    fleet: &Fleet,
    call: Call,
    input: ListImages,
) -> Result<Vec<Value>, OrHost<RelayError>> {
    list(fleet, call, input.host, input.page).await
}

/// Makes the default image and kernel present on a host.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PullImages {
    /// The host's id.
    host: HostId,
}

/// Makes an image on a host from a registry, or from something that lies on the host: an OCI
/// layout, an archive of layers, or a root file system's tar archive.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ImportImage {
    /// The host's id.
    host: HostId,
    /// An image in a registry (`HOST[:PORT]/NAME[:TAG]`), or an absolute path on the host, in a
    /// directory that it allows imports from.
    #[schemars(length(min = 1, max = 4096))]
    source: String,
    /// What the image is to be called.
    #[schemars(length(min = 1, max = 64))]
    name: String,
    /// Its size in MiB; absent: what is in it, and some room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size_mb: Option<u64>,
    /// Who asks the registry; absent: nobody in particular.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credentials: Option<Credentials>,
}

/// Who asks a registry. It is passed on to the host and kept nowhere.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Credentials {
    /// The user's name.
    #[schemars(length(min = 1, max = 256))]
    username: String,
    /// The password, or a token that is used as one.
    #[schemars(length(min = 1, max = 8192), extend("writeOnly" = true))]
    password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
}

/// Watches how far imports on a host are: those that run, and every change from now on. With a
/// name, the stream ends when an import of that name is over.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ImportProgress {
    /// The host's id.
    host: HostId,
    /// Only imports of images of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    name: Option<String>,
}

/// Deletes an image from a host. One that a VM uses stays.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteImage {
    /// The host's id.
    host: HostId,
    /// The image's name.
    name: String,
}

/// Lists the kernels on a host, by name.
#[derive(Debug, Deserialize, JsonSchema)]
struct ListKernels {
    /// The host's id.
    host: HostId,
    #[serde(flatten)]
    page: Page,
}

async fn list_kernels(
    fleet: &Fleet,
    call: Call,
    input: ListKernels,
) -> Result<Vec<Value>, OrHost<RelayError>> {
    list(fleet, call, input.host, input.page).await
}

/// Takes a kernel into a host from a file that the host can read.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ImportKernel {
    /// The host's id.
    host: HostId,
    /// A path on the host, in a directory that it allows imports from.
    #[schemars(length(min = 1, max = 4096))]
    source: String,
    /// What the kernel is to be called.
    #[schemars(length(min = 1, max = 64))]
    name: String,
}

/// Deletes a kernel from a host. One that a VM uses stays.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteKernel {
    /// The host's id.
    host: HostId,
    /// The kernel's name.
    name: String,
}

/// Shows how a host is: its drivers, what is used and what is free.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HostStatus {
    /// The host's id.
    host: HostId,
}

/// Shows how a host is configured.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HostConfig {
    /// The host's id.
    host: HostId,
}

/// Shows whether a host is healthy, and if not, why.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HostHealth {
    /// The host's id.
    host: HostId,
}

/// Lists what is on a host and belongs to no VM. It is empty for a healthy host.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HostLeaks {
    /// The host's id.
    host: HostId,
}

/// Exports what a host and each of its VMs use, as Prometheus text.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExportMetrics {
    /// The host's id.
    host: HostId,
}

async fn export_metrics(
    fleet: &Fleet,
    call: Call,
    input: ExportMetrics,
) -> Result<String, OrHost<RelayError>> {
    relay(fleet, call, input).await
}
