//! The conversation with one QEMU: what the house asks, in QMP's words, and what QEMU tells.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use async_trait::async_trait;
use serde_json::Value;

use super::qmp::{Qmp, QmpEvent};
use super::{hostfwd, memory};
use crate::driver::{Event, Link, LinkError, SaveError, cpuinfo};
use crate::lifecycle::{Condition, Ending};
use crate::model::PortForward;
use crate::process::Process;

/// The conversation with one QEMU.
pub(super) struct QemuLink {
    qmp: Qmp,
    pid: i32,
}

impl QemuLink {
    pub(super) fn new(qmp: Qmp, process: &Process) -> Self {
        let pid = process.birth.pid();
        Self { qmp, pid }
    }

    /// The first port of the host that this process may open (ip(7)).
    fn first_port(&self) -> u16 {
        const SETTING: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        if is_root(&status) {
            return 0;
        }
        let first = fs::read_to_string(SETTING).ok();
        first
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(1024)
    }
}

/// Reads `/proc/PID/status` (proc(5)): real and effective user, and others.
fn is_root(status: &str) -> bool {
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    users.is_some_and(|users| users.split_ascii_whitespace().nth(1) == Some("0"))
}

/// The release in the answer to `query-version`, as `--version` says it.
fn release(answer: &Value) -> Option<String> {
    let part = |name: &str| answer.pointer(&format!("/qemu/{name}"))?.as_u64();
    Some(format!(
        "{}.{}.{}",
        part("major")?,
        part("minor")?,
        part("micro")?
    ))
}

#[async_trait]
impl Link for QemuLink {
    async fn add_forward(&self, forward: &PortForward) -> Result<(), LinkError> {
        let answer = self.qmp.human(&hostfwd::add_command(forward)).await?;
        hostfwd::added(forward, &answer, self.first_port())
    }

    async fn remove_forward(&self, forward: &PortForward) -> Result<(), LinkError> {
        let answer = self.qmp.human(&hostfwd::remove_command(forward)).await?;
        hostfwd::removed(forward, &answer)
    }

    async fn forwards(&self) -> Result<Vec<PortForward>, LinkError> {
        hostfwd::listed(&self.qmp.human(hostfwd::list_command()).await?)
    }

    async fn pause(&self) -> Result<(), LinkError> {
        self.qmp.execute("stop", Value::Null).await.map(drop)
    }

    async fn resume(&self) -> Result<(), LinkError> {
        self.qmp.execute("cont", Value::Null).await.map(drop)
    }

    async fn condition(&self) -> Result<Condition, LinkError> {
        let answer = self.qmp.execute("query-status", Value::Null).await?;
        let status = answer.get("status").and_then(Value::as_str);
        Ok(condition(status.unwrap_or("nothing")))
    }

    async fn memory_form(&self) -> Result<BTreeMap<String, String>, LinkError> {
        const COMMAND: &str = "query-version";
        let answer = self.qmp.execute(COMMAND, Value::Null).await?;
        let version = release(&answer).ok_or_else(|| LinkError::Unknown {
            command: COMMAND,
            answer: answer.to_string(),
        })?;
        // What this process is, which another version of ours may have started.
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        Ok(memory::form(&version, line.split('\0'), &cpuinfo()))
    }

    async fn save(&self, directory: &Path) -> Result<(), SaveError> {
        memory::save(&self.qmp, directory).await
    }

    async fn event(&self) -> Option<Event> {
        loop {
            let event = understand(&self.qmp.event().await?);
            if event.is_some() {
                return event;
            }
        }
    }
}

/// QEMU stops a guest whose write to its disk found no space on the host's, instead of letting the
/// guest see an error that it could not mend.
const DISK_FULL: &str =
    "the host's disk is full; free some space, then start the VM to let it go on";

/// Reads QEMU's `RunState`.
fn condition(status: &str) -> Condition {
    match status {
        "running" => Condition::Running,
        "paused" | "prelaunch" | "postmigrate" | "finish-migrate" | "save-vm" => Condition::Halted,
        "inmigrate" => Condition::Loading,
        "io-error" => Condition::Stuck {
            reason: DISK_FULL.to_owned(),
        },
        status => Condition::Stuck {
            reason: format!("QEMU says {status}"),
        },
    }
}

fn understand(QmpEvent { event, data }: &QmpEvent) -> Option<Event> {
    let reason = data.get("reason").and_then(Value::as_str);
    match event.as_str() {
        "BLOCK_IO_ERROR" if data.get("nospace") == Some(&Value::Bool(true)) => {
            Some(Event::Paused {
                reason: DISK_FULL.to_owned(),
            })
        }
        "BLOCK_IO_ERROR" if data.get("action").and_then(Value::as_str) == Some("stop") => {
            Some(Event::Paused {
                reason: "the VM's disk gave an I/O error".to_owned(),
            })
        }
        "RESUME" => Some(Event::Resumed),
        "SHUTDOWN" if reason == Some("guest-shutdown") => {
            Some(Event::Ending(Ending::GuestShutdown))
        }
        "SHUTDOWN" if reason == Some("guest-reset") => Some(Event::Ending(Ending::GuestReset)),
        "SHUTDOWN" => {
            let reason = format!(
                "QEMU was told to end ({})",
                reason.unwrap_or("no reason given")
            );
            Some(Event::Ending(Ending::Unexpected { reason }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(event: &str, data: Value) -> Option<Event> {
        understand(&QmpEvent {
            event: event.to_owned(),
            data,
        })
    }

    #[test]
    fn a_guest_that_ends_itself_is_told_from_one_that_is_ended() {
        let shutdown = |reason: &str| event("SHUTDOWN", json!({ "guest": true, "reason": reason }));
        assert_eq!(
            shutdown("guest-shutdown"),
            Some(Event::Ending(Ending::GuestShutdown))
        );
        assert_eq!(
            shutdown("guest-reset"),
            Some(Event::Ending(Ending::GuestReset))
        );
        let unexpected = shutdown("host-signal");
        assert!(matches!(
            unexpected,
            Some(Event::Ending(Ending::Unexpected { .. }))
        ));
    }

    #[test]
    fn a_process_that_gave_up_root_is_not_taken_for_root() {
        assert!(is_root("Name:\tx\nUid:\t0\t0\t0\t0\n"));
        assert!(!is_root("Uid:\t966001\t966001\t966001\t966001\n"));
        assert!(!is_root(""));
    }

    #[test]
    fn a_full_disk_of_the_host_pauses_the_vm_and_says_so() {
        let data = json!({ "nospace": true, "action": "stop", "operation": "write" });
        let paused = event("BLOCK_IO_ERROR", data);
        assert_eq!(
            paused,
            Some(Event::Paused {
                reason: DISK_FULL.to_owned()
            })
        );
        assert_eq!(event("RESUME", Value::Null), Some(Event::Resumed));
        assert_eq!(event("NIC_RX_FILTER_CHANGED", Value::Null), None);
    }
}
