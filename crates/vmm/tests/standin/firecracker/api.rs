//! The routes (Firecracker's `src/firecracker/src/api_server/parsed_request.rs`): who is asked what,
//! whether the words are right, and then whether it is the time for it.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::VERSION;
use crate::config::{
    Action, ActionType, Balloon, BootSource, Drive, DriveUpdate, Entropy, Logger, MachineConfig,
    Metrics, MmdsConfig, NetworkInterface, SnapshotCreate, SnapshotLoad, Vm, Vsock,
};
use crate::http::{Answer, Request};
use crate::vmm::{Fault, Vmm};

/// The most bytes of metadata.
const MMDS_LIMIT: usize = 51_200;

pub(crate) fn answer(request: &Request, vmm: &Vmm) -> Answer {
    match route(request, vmm) {
        Ok(None) => Answer::nothing(),
        Ok(Some(body)) => Answer::ok(body),
        Err(Fault { status, message }) => {
            vmm.log(&format!(
                "Received Error. Status code: {status}. Message: {message}"
            ));
            Answer::fault(status, message)
        }
    }
}

fn route(request: &Request, vmm: &Vmm) -> Result<Option<Value>, Fault> {
    let path = request.path.trim_start_matches('/');
    let mut tokens = path.split_terminator('/');
    let first = tokens.next().unwrap_or("");
    let second = tokens.next();
    let body = request.body.as_deref();
    let done = |outcome: Result<(), Fault>| outcome.map(|()| None);
    match (request.method.as_str(), first, body) {
        ("GET", _, Some(_)) => Err(Fault::new("GET request cannot have a body.")),
        ("GET", "", None) => Ok(Some(vmm.describe())),
        ("GET", "version", None) => Ok(Some(json!({ "firecracker_version": VERSION }))),
        ("GET", "vm", None) if second == Some("config") => Ok(Some(vmm.full_config())),
        ("GET", "machine-config", None) => Ok(Some(vmm.machine_config())),
        ("GET", "mmds", None) => Ok(Some(vmm.mmds())),
        ("PUT", "actions", Some(body)) => {
            let Action { action_type } = read(body)?;
            done(match action_type {
                ActionType::InstanceStart => vmm.start(),
                ActionType::SendCtrlAltDel => vmm.ctrl_alt_del(),
                ActionType::FlushMetrics => vmm.flush_metrics(),
            })
        }
        ("PUT", "boot-source", Some(body)) => done(vmm.boot_source(read::<BootSource>(body)?)),
        ("PUT", "machine-config", Some(body)) => {
            done(vmm.set_machine_config(read::<MachineConfig>(body)?))
        }
        ("PUT", "drives", Some(body)) => {
            let id = checked_id(second)?;
            let drive: Drive = read(body)?;
            same_id(id, &drive.drive_id)?;
            done(vmm.insert_drive(drive))
        }
        ("PATCH", "drives", Some(body)) => {
            let id = checked_id(second)?;
            let update: DriveUpdate = read(body)?;
            same_id(id, &update.drive_id)?;
            done(vmm.update_drive(&update))
        }
        ("PUT", "network-interfaces", Some(body)) => {
            let id = checked_id(second)?;
            let interface: NetworkInterface = read(body)?;
            same_id(id, &interface.iface_id)?;
            done(vmm.insert_interface(interface))
        }
        ("PUT", "vsock", Some(body)) => done(vmm.set_vsock(read::<Vsock>(body)?)),
        ("PUT", "entropy", Some(body)) => {
            let Entropy { .. } = read(body)?;
            done(vmm.before_start())
        }
        ("PUT", "balloon", Some(body)) => {
            let Balloon { .. } = read(body)?;
            done(vmm.before_start())
        }
        ("PUT", "logger", Some(body)) => done(vmm.set_logger(&read::<Logger>(body)?)),
        ("PUT", "metrics", Some(body)) => done(vmm.set_metrics(&read::<Metrics>(body)?)),
        ("PUT", "mmds", Some(body)) if second == Some("config") => {
            let config: MmdsConfig = read(body)?;
            done(vmm.mmds_config(&config.network_interfaces))
        }
        ("PUT", "mmds", Some(body)) if second.is_none() => {
            let value: Value = read(body)?;
            if value.to_string().len() > MMDS_LIMIT {
                return Err(Fault {
                    status: 413,
                    message: "MMDS limit exceeded error: The MMDS patch request doesn't fit."
                        .into(),
                });
            }
            done(vmm.set_mmds(value))
        }
        ("PUT", "snapshot", Some(body)) => match second {
            Some("create") => done(vmm.snapshot(&read::<SnapshotCreate>(body)?)),
            Some("load") => done(vmm.load(&read::<SnapshotLoad>(body)?)),
            other => Err(unknown_path("PUT", other.unwrap_or("snapshot"))),
        },
        ("PATCH", "vm", Some(body)) => done(vmm.set_state(read::<Vm>(body)?.state)),
        ("PUT", _, None) => Err(Fault::new("Empty PUT request.")),
        ("PATCH", _, None) => Err(Fault::new("Empty PATCH request.")),
        (method, path, _) => Err(unknown_path(method, path)),
    }
}

fn unknown_path(method: &str, path: &str) -> Fault {
    Fault::new(format!(
        "Invalid request method and/or path: {method} {path}."
    ))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(body).map_err(|error| {
        Fault::new(format!(
            "An error occurred when deserializing the json body of a request: {error}."
        ))
    })
}

fn checked_id(id: Option<&str>) -> Result<&str, Fault> {
    let id = id.ok_or_else(|| Fault::new("The ID cannot be empty."))?;
    if !id.chars().all(|c| c == '_' || c.is_alphanumeric()) {
        return Err(Fault::new(
            "API Resource IDs can only contain alphanumeric characters and underscores.",
        ));
    }
    Ok(id)
}

fn same_id(path: &str, body: &str) -> Result<(), Fault> {
    if path == body {
        return Ok(());
    }
    Err(Fault::new(format!(
        "The id from the path [{path}] does not match the id from the body [{body}]!"
    )))
}
