//! What Firecracker is asked for, to be the machine that a VM needs: requests, without a socket.

use serde_json::{Value, json};

use super::api::Ask;

/// What the guest's kernel is told: speak on the serial console, only about trouble; skip what a
/// VM does not need; end by a reset through the keyboard controller, the one way that Firecracker
/// understands; and let a panic end the VM at once.
const KERNEL: &str = "console=ttyS0 quiet reboot=k panic=-1 pci=off nokaslr noreplace-smp \
                      cryptomgr.notests rdinit=/init";

/// The guest's address on its vsock. Each Firecracker has a vsock of its own, so all can have the
/// same; the first three are taken (vsock(7)).
const GUEST_CID: u32 = 3;

/// A machine, with paths as Firecracker sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) cpus: u32,
    pub(super) memory_mb: u64,
    pub(super) kernel: String,
    pub(super) initrd: String,
    pub(super) disk: String,
    pub(super) vsock: String,
    /// The tap device and the guest's Ethernet address; absent: no network.
    pub(super) network: Option<(String, String)>,
}

impl Machine {
    /// Everything that has to be said before the start.
    pub(super) fn requests(&self) -> Vec<Ask> {
        let mut requests = vec![
            Ask::put(
                "PUT /machine-config",
                "/machine-config",
                json!({ "vcpu_count": self.cpus, "mem_size_mib": self.memory_mb }),
            ),
            Ask::put(
                "PUT /boot-source",
                "/boot-source",
                json!({
                    "kernel_image_path": self.kernel,
                    "initrd_path": self.initrd,
                    "boot_args": KERNEL,
                }),
            ),
            Ask::put(
                "PUT /drives",
                "/drives/root",
                json!({
                    "drive_id": "root",
                    "path_on_host": self.disk,
                    "is_root_device": true,
                    "is_read_only": false,
                    // The guest's flushes reach the disk, so that what it wrote survives the host.
                    "cache_type": "Writeback",
                }),
            ),
            Ask::put(
                "PUT /vsock",
                "/vsock",
                json!({ "guest_cid": GUEST_CID, "uds_path": self.vsock }),
            ),
        ];
        if let Some((tap, mac)) = &self.network {
            requests.push(Ask::put(
                "PUT /network-interfaces",
                "/network-interfaces/eth0",
                json!({ "iface_id": "eth0", "guest_mac": mac, "host_dev_name": tap }),
            ));
        }
        requests
    }
}

/// Lets the machine run for the first time.
pub(super) fn start() -> Ask {
    let body = json!({ "action_type": "InstanceStart" });
    Ask::put("PUT /actions InstanceStart", "/actions", body)
}

pub(super) fn resume() -> Ask {
    let body = json!({ "state": "Resumed" });
    Ask::patch("PATCH /vm Resumed", "/vm", body)
}

/// Who it is and how it does.
pub(super) fn describe() -> Ask {
    Ask::get("GET /", "/")
}

/// The answer to [`describe`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) state: State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    NotStarted,
    Running,
    Paused,
    /// A word that we do not know.
    Other(String),
}

impl Instance {
    /// Reads the answer; `None` when it is none.
    pub(super) fn read(answer: &Value) -> Option<Self> {
        let text = |key| answer.get(key).and_then(Value::as_str);
        Some(Self {
            id: text("id")?.to_owned(),
            state: match text("state")? {
                "Not started" => State::NotStarted,
                "Running" => State::Running,
                "Paused" => State::Paused,
                other => State::Other(other.to_owned()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            cpus: 2,
            memory_mb: 256,
            kernel: "/k".into(),
            initrd: "/i".into(),
            disk: "/d".into(),
            vsock: "/v".into(),
            network: Some(("hbt1".into(), "02:00:00:00:00:01".into())),
        }
    }

    #[test]
    fn ids_in_paths_and_bodies_are_the_same_and_have_no_hyphen() {
        for request in machine().requests() {
            let body = request.body.unwrap();
            let id = body.get("drive_id").or_else(|| body.get("iface_id"));
            let Some(id) = id.and_then(Value::as_str) else {
                continue;
            };
            assert!(
                request.path.ends_with(&format!("/{id}")),
                "{}",
                request.path
            );
            assert!(id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
        }
    }

    #[test]
    fn a_machine_without_a_tap_device_has_no_network() {
        let with = machine().requests().len();
        let without = Machine {
            network: None,
            ..machine()
        };
        assert_eq!(without.requests().len(), with - 1);
    }

    #[test]
    fn an_instance_is_read_and_nonsense_is_none() {
        let answer = json!({
            "id": "a-1", "state": "Not started", "vmm_version": "1.13.0", "app_name": "Firecracker"
        });
        let instance = Instance::read(&answer).unwrap();
        assert_eq!(
            (instance.id.as_str(), instance.state),
            ("a-1", State::NotStarted)
        );
        for nonsense in [
            json!([]),
            json!({ "id": 7, "state": "Running" }),
            json!({ "id": "x" }),
        ] {
            assert_eq!(Instance::read(&nonsense), None, "{nonsense}");
        }
    }
}
