//! What a host can do, as operations: `vmm` for callers that are somewhere else.
//!
//! Each service has a file: what it offers, its inputs, and handlers that hand them to
//! [`Machines`](hostler_vmm::Machines) and its errors to the caller under the codes of the host
//! API. Rules about VMs are `vmm`'s; the limits in the schemas only say them beforehand.

mod codes;
mod guest;
mod host;
mod images;
mod kernels;
mod leaks;
mod metrics;
mod page;
mod snapshots;
mod storage;
mod vms;
mod vms_errors;

use std::sync::Arc;

use hostler_operations::{Call, RegistryBuilder, Scope};

use crate::host::Host;

const VMS_READ: Scope = Scope::new("vms:read");
const VMS_WRITE: Scope = Scope::new("vms:write");
const VMS_EXEC: Scope = Scope::new("vms:exec");
const IMAGES_READ: Scope = Scope::new("images:read");
const IMAGES_WRITE: Scope = Scope::new("images:write");
const HOSTS_READ: Scope = Scope::new("hosts:read");

/// Every scope that an operation of the host door asks for.
pub(crate) const SCOPES: [Scope; 6] = [
    VMS_READ,
    VMS_WRITE,
    VMS_EXEC,
    IMAGES_READ,
    IMAGES_WRITE,
    HOSTS_READ,
];

/// Adds the operations of a host to a registry.
pub fn mount(builder: RegistryBuilder, host: &Arc<Host>) -> RegistryBuilder {
    let vms = snapshots::of_vms(vms::operations());
    let vms = guest::files::operations(guest::operations(vms));
    builder
        .service(guest::logs::operations(vms), host)
        .service(snapshots::operations(), host)
        .service(images::operations(), host)
        .service(kernels::operations(), host)
        .service(host::operations(), host)
        .service(metrics::operations(), host)
}

/// Waits for a change of a VM as long as the caller does. One that has begun is carried to its end all
/// the same; one that still waits for the VM's turn is not made for nobody, perhaps long after the
/// caller was told that it took too long.
async fn while_wanted<T, E, F>(
    call: &Call,
    left: E,
    change: impl Future<Output = Result<T, F>>,
) -> Result<T, E>
where
    E: From<F>,
{
    tokio::select! {
        biased;
        changed = change => Ok(changed?),
        () = call.cancelled() => Err(left),
    }
}

/// A type that several operations or `vmm` know, as one operation's input, under the description
/// that the operation goes by.
macro_rules! request {
    ($(#[doc = $doc:literal])+ $name:ident($inner:ty)) => {
        $(#[doc = $doc])+
        #[derive(serde::Deserialize)]
        #[serde(transparent)]
        struct $name($inner);

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut schema = <$inner>::json_schema(generator);
                let description = [$($doc.trim()),+].join(" ");
                schema.insert("description".to_owned(), description.into());
                schema
            }
        }
    };
}
use request;
