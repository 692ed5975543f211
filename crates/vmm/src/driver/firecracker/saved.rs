//! A VM's memory in files and back: Firecracker's full snapshots.
//!
//! Two files: the guest's memory, as large as that is, and the state of everything else. A snapshot
//! names the files of its devices by the paths by which Firecracker saw them, so it is loaded only
//! where they are seen the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use serde_json::{Value, json};

use super::api::Ask;
use super::machine::Machine;
use crate::driver::LinkError;
use crate::files::{Context as _, StorageError};

pub(super) const MEMORY: &str = "memory";
pub(super) const STATE: &str = "state";

/// How long Firecracker may take to write or read gigabytes, and says nothing meanwhile.
pub(super) const LONG: Duration = Duration::from_secs(20 * 60);

pub(super) fn pause() -> Ask {
    Ask::patch("PATCH /vm Paused", "/vm", json!({ "state": "Paused" }))
}

/// What the files of a new snapshot are called in a jail. What the process itself was made of may
/// be there too, and it still reads its memory from that.
const NEW: &str = "new-";

/// Has both files written to a directory, by the path by which Firecracker sees it.
pub(super) fn create_in(directory: &str) -> Ask {
    create(&format!("{directory}/"))
}

/// Has both files written to the root of its jail.
pub(super) fn create_in_jail() -> Ask {
    create(&format!("/{NEW}"))
}

fn create(prefix: &str) -> Ask {
    let body = json!({
        "snapshot_type": "Full",
        "snapshot_path": format!("{prefix}{STATE}"),
        "mem_file_path": format!("{prefix}{MEMORY}"),
    });
    Ask::put("PUT /snapshot/create", "/snapshot/create", body)
}

/// Has them loaded into a process that is nothing yet.
pub(super) fn load(directory: &str) -> Ask {
    let body = json!({
        "snapshot_path": format!("{directory}/{STATE}"),
        "mem_backend": {
            "backend_type": "File",
            "backend_path": format!("{directory}/{MEMORY}"),
        },
        "resume_vm": false,
    });
    Ask::put("PUT /snapshot/load", "/snapshot/load", body)
}

/// What runs, and what its files are called.
pub(super) fn configuration() -> Ask {
    Ask::get("GET /vm/config", "/vm/config")
}

/// The program's version.
pub(super) fn version() -> Ask {
    Ask::get("GET /version", "/version")
}

/// Takes what a jailed process has written out of its jail: to its place, and out of its hands.
///
/// The process owns the directory there, and may have been taken over by its guest: what it has put
/// under these names is looked at before anything is done to it, and again where it has gone.
pub(super) fn take_out(jail: &Path, directory: &Path) -> Result<(), StorageError> {
    for name in [MEMORY, STATE] {
        let (inside, place) = (new_in(jail, name), directory.join(name));
        let owned = own_file(&inside).context("own", &inside)?;
        fs::rename(&inside, &place).context("move", &inside)?;
        let moved = fs::symlink_metadata(&place).context("read", &place)?;
        if (moved.dev(), moved.ino()) != owned {
            let changed = Err(io::Error::other("it was another file a moment ago"));
            return changed.context("move", &inside);
        }
    }
    Ok(())
}

/// Makes both files ours alone.
pub(super) fn own(directory: &Path) -> Result<(), StorageError> {
    for name in [MEMORY, STATE] {
        let path = directory.join(name);
        own_file(&path).context("own", &path)?;
    }
    Ok(())
}

/// Makes a file ours alone, and says which one it is. A link, a pipe, or a file that has another name
/// too is not touched.
fn own_file(path: &Path) -> io::Result<(u64, u64)> {
    // Of a pipe, not to wait for whoever writes to it.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.nlink() != 1 {
        return Err(io::Error::other("it is not a file of its own"));
    }
    let user = rustix::process::geteuid().as_raw();
    fchown(&file, Some(user), None)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes what a jailed process has begun to write.
pub(super) fn clear(jail: &Path) {
    for name in [MEMORY, STATE] {
        let _ = fs::remove_file(new_in(jail, name));
    }
}

fn new_in(jail: &Path, name: &str) -> PathBuf {
    jail.join(format!("{NEW}{name}"))
}

/// What a running Firecracker says it is.
pub(super) fn form_of_process(
    version: &Value,
    configuration: &Value,
    cpuinfo: &str,
) -> Result<BTreeMap<String, String>, LinkError> {
    let Some(version) = version.get("firecracker_version").and_then(Value::as_str) else {
        return Err(LinkError::Unknown {
            command: "GET /version",
            answer: version.to_string(),
        });
    };
    let text = |pointer: &str| {
        let value = configuration.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or("none").to_owned()
    };
    Ok(form(
        version,
        [
            text("/drives/0/path_on_host"),
            text("/vsock/uds_path"),
            text("/network-interfaces/0/host_dev_name"),
        ],
        cpuinfo,
    ))
}

/// What a new one would be.
pub(super) fn form_of_machine(
    version: &str,
    machine: &Machine,
    cpuinfo: &str,
) -> BTreeMap<String, String> {
    let tap = machine.network.as_ref().map(|(tap, _)| tap.clone());
    let devices = [
        machine.disk.clone(),
        machine.vsock.clone(),
        tap.unwrap_or_else(|| "none".to_owned()),
    ];
    form(version, devices, cpuinfo)
}

fn form(version: &str, [disk, vsock, tap]: [String; 3], cpuinfo: &str) -> BTreeMap<String, String> {
    let entries = [
        ("Firecracker snapshot format", format_of(version)),
        ("processor", super::super::processor(cpuinfo)),
        ("path of the disk", disk),
        ("path of the vsock", vsock),
        ("network device", tap),
    ];
    entries.map(|(what, value)| (what.to_owned(), value)).into()
}

/// The form of the snapshots that a version writes and reads. Of a version that is not known yet
/// only the version itself reads its own.
fn format_of(version: &str) -> String {
    let version = version.trim_start_matches('v');
    let mut parts = version.split('.').map(str::parse::<u32>);
    let known = match (parts.next(), parts.next()) {
        (Some(Ok(1)), Some(Ok(minor))) => match minor {
            7 => Some(1),
            8 => Some(2),
            9 | 10 => Some(3),
            11 => Some(5),
            12 => Some(6),
            13 | 14 => Some(8),
            15 => Some(9),
            16 => Some(10),
            _ => None,
        },
        _ => None,
    };
    match known {
        Some(format) => format.to_string(),
        None => format!("that of {version}"),
    }
}

/// The root of a VM's jail, if it sits in one.
pub(super) fn jail_of(vm: &Path) -> Option<PathBuf> {
    super::jail::root_in(vm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_file_of_its_own_is_taken_out_of_a_jail() {
        let dir = tempfile::tempdir().unwrap();
        let (jail, place) = (dir.path().join("jail"), dir.path().join("place"));
        for directory in [&jail, &place] {
            fs::create_dir(directory).unwrap();
        }
        let theirs = dir.path().join("theirs");
        fs::write(&theirs, "x").unwrap();
        fs::set_permissions(&theirs, fs::Permissions::from_mode(0o644)).unwrap();
        let memory = new_in(&jail, MEMORY);
        let state = new_in(&jail, STATE);
        fs::write(&state, "state").unwrap();
        let put: [&dyn Fn(); 3] = [
            &|| std::os::unix::fs::symlink(&theirs, &memory).unwrap(),
            &|| fs::hard_link(&theirs, &memory).unwrap(),
            &|| {
                let mode = rustix::fs::Mode::RWXU;
                let pipe = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(rustix::fs::CWD, &memory, pipe, mode, 0).unwrap();
            },
        ];
        for put in put {
            put();
            let error = take_out(&jail, &place).unwrap_err().to_string();
            assert!(error.contains("new-memory"), "{error}");
            fs::remove_file(&memory).unwrap();
            let mode = fs::metadata(&theirs).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644);
        }
        fs::write(&memory, "memory").unwrap();
        take_out(&jail, &place).unwrap();
        for name in [MEMORY, STATE] {
            let mode = fs::metadata(place.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn versions_share_a_format_as_their_makers_say() {
        assert_eq!(format_of("1.9.1"), format_of("v1.10.0"));
        assert_ne!(format_of("1.10.1"), format_of("1.11.0"));
        assert_eq!(format_of("1.14.0"), "8");
        assert_ne!(format_of("1.99.0"), format_of("1.99.1"));
        assert_eq!(format_of("nonsense"), "that of nonsense");
    }

    #[test]
    fn a_process_and_its_plan_are_of_the_same_form() {
        let machine = Machine {
            cpus: 1,
            memory_mb: 256,
            kernel: "/k".into(),
            initrd: "/i".into(),
            disk: "/d".into(),
            vsock: "/v".into(),
            network: Some(("tap1".into(), "02:00:00:00:00:01".into())),
        };
        let configuration = json!({
            "drives": [{ "drive_id": "root", "path_on_host": "/d" }],
            "network-interfaces": [{ "iface_id": "eth0", "host_dev_name": "tap1" }],
            "vsock": { "guest_cid": 3, "uds_path": "/v" },
        });
        let version = json!({ "firecracker_version": "1.13.1" });
        let process = form_of_process(&version, &configuration, "").unwrap();
        assert_eq!(process, form_of_machine("1.14.0", &machine, ""));
        let without = Machine {
            network: None,
            ..machine
        };
        assert_ne!(process, form_of_machine("1.14.0", &without, ""));
        assert!(form_of_process(&json!({}), &configuration, "").is_err());
    }
}
