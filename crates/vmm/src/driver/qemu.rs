//! QEMU: runs VMs everywhere, fast where KVM works and emulated elsewhere.
//!
//! A VM is one QEMU process in a session of its own, so that neither the daemon's death nor a
//! closed terminal ends it. It is spoken to over QMP ([`qmp`]), boots the machine that suits the
//! host ([`machine`]), can be written to a file and read back ([`memory`]), and has a network of its own in user mode, which needs no privilege and
//! no interface on the host ([`hostfwd`]).

mod command;
mod hostfwd;
mod machine;
mod memory;
pub(crate) mod probe;
mod qmp;
pub(crate) mod shares;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::process::Child;
use tokio::time::Instant;

use self::machine::Accelerator;
pub(crate) use self::machine::has_virtualization;
use self::probe::Found;
use self::qmp::{Qmp, QmpEvent};
use self::shares::Servers;
use super::{
    Blueprint, Bus, Capabilities, Driver, Event, GuestEndpoint, LaunchError, Launched, Link,
    LinkError, SaveError, cpuinfo,
};
use crate::fault;
use crate::files;
use crate::kernel_file::KernelFormat;
use crate::lifecycle::{Condition, Ending};
use crate::model::{DriverKind, PortForward, VmId};
use crate::ports;
use crate::process::{Birth, Process};
use crate::tool;

/// How long QEMU may take to come up. It takes a tenth of a second on an idle host.
const COME_UP: Duration = Duration::from_secs(60);

/// How long a QEMU that we knew before may take to answer again.
const RECONNECT: Duration = Duration::from_secs(5);

/// How long a QEMU that broke off the conversation may take to end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What a QEMU begins with that is to be given its memory: it waits for it, and then for the word
/// to go.
const WITH_SAVED_MEMORY: &[&str] = &["-incoming", "defer", "-S"];

/// A QEMU that has just come up.
struct Born {
    child: Child,
    qmp: Qmp,
    process: Process,
    log: PathBuf,
    servers: Servers,
}

impl Born {
    fn launched(self) -> Launched {
        self.servers.let_go();
        Launched {
            link: Box::new(QemuLink::new(self.qmp, &self.process)),
            process: self.process,
        }
    }
}

/// QEMU, as it works on this host.
pub(crate) struct Qemu {
    found: Found,
}

impl Qemu {
    pub(crate) fn new(found: Found) -> Self {
        Self { found }
    }

    /// Starts the process in a session of its own.
    fn spawn(&self, vm: &Blueprint, begin: &[&str], log: File) -> Result<Child, LaunchError> {
        // `setsid` becomes QEMU: the child that we spawn leads no group yet, so it need not fork.
        tool::secluded("setsid")
            .arg(&self.found.program)
            .args(command::machine_arguments(self.found.machine, vm))
            .args(command::control_arguments(self.found.machine, vm))
            .args(begin)
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|source| LaunchError::Spawn {
                program: "setsid".into(),
                source,
            })
    }

    /// Makes a process that begins in this way.
    async fn begin(&self, vm: &Blueprint, begin: &[&str]) -> Result<Born, LaunchError> {
        for forward in vm.network.listens_on() {
            ports::probe(forward)?;
        }
        // A socket of a process that was killed is still there, and looks as if it answered.
        for stale in [&vm.control_socket, &vm.guest_socket] {
            let _ = fs::remove_file(stale);
        }
        let log = vm.pid_file.with_extension("log");
        let _ = fs::remove_file(&log);
        let log_file = files::create_private(&log)?;
        let workplace = log.parent().unwrap_or(Path::new("/"));
        let servers = Servers::start(&vm.shares, workplace)?;
        let mut child = self.spawn(vm, begin, log_file)?;
        fault::point("start.spawned");
        match self.come_up(vm, &mut child, &log).await {
            Ok((qmp, process)) => Ok(Born {
                child,
                qmp,
                process,
                log,
                servers,
            }),
            Err(error) => {
                // It may have ended already; what counts is that it has when we return.
                let _ = child.kill().await;
                Err(error)
            }
        }
    }

    /// Loads a saved memory; when QEMU ends over it, what it said is the reason.
    async fn load(&self, vm: &Blueprint, born: &mut Born, saved: &Path) -> Result<(), LaunchError> {
        let loaded = tokio::select! {
            loaded = memory::load(&born.qmp, saved) => loaded,
            _ = born.child.wait() => return Err(self.refusal(vm, &born.log)),
        };
        match loaded {
            Ok(()) => Ok(()),
            Err(SaveError::Storage(error)) => Err(error.into()),
            // A conversation that breaks is how the end of a process is heard of first.
            Err(SaveError::Link(error)) => {
                match tokio::time::timeout(LAST_WORDS, born.child.wait()).await {
                    Ok(_) => Err(self.refusal(vm, &born.log)),
                    Err(_) => Err(error.into()),
                }
            }
        }
    }

    /// Waits until QEMU answers, or has ended.
    async fn come_up(
        &self,
        vm: &Blueprint,
        child: &mut Child,
        log: &Path,
    ) -> Result<(Qmp, Process), LaunchError> {
        let program = || self.found.program.clone();
        let deadline = Instant::now() + COME_UP;
        let qmp = loop {
            tokio::select! {
                _ = child.wait() => return Err(self.refusal(vm, log)),
                () = tokio::time::sleep(Duration::from_millis(2)) => {}
            }
            // Until its socket is there, QEMU has not got to it; once it is, it answers as soon as
            // the machine stands.
            if let Ok(qmp) = Qmp::connect(&vm.control_socket, deadline - Instant::now()).await {
                break qmp;
            }
            if Instant::now() >= deadline {
                return Err(LaunchError::Slow {
                    program: program(),
                    limit: COME_UP,
                });
            }
        };
        let pid = child.id().and_then(|pid| pid.try_into().ok());
        let birth = pid
            .and_then(Birth::of)
            .ok_or_else(|| self.refusal(vm, log))?;
        let process = Process {
            birth,
            control_socket: vm.control_socket.clone(),
            guest: self.guest(vm.guest_socket.clone()),
        };
        Ok((qmp, process))
    }

    /// Why QEMU ended at once: a port that somebody took in the meantime, or what it said.
    fn refusal(&self, vm: &Blueprint, log: &Path) -> LaunchError {
        if let Some(taken) = vm
            .network
            .listens_on()
            .iter()
            .find_map(|port| ports::probe(port).err())
        {
            return taken.into();
        }
        let said = fs::read_to_string(log).unwrap_or_default();
        let said = said.trim();
        LaunchError::Refused {
            program: self.found.program.clone(),
            message: if said.is_empty() {
                "it ended without a word"
            } else {
                said
            }
            .to_owned(),
        }
    }
}

#[async_trait]
impl Driver for Qemu {
    fn kind(&self) -> DriverKind {
        DriverKind::Qemu
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            user_network: true,
            port_forwards: true,
            mounts: shares::program().is_some(),
            snapshots: true,
            hardware_acceleration: self.found.machine.accelerator() == Accelerator::Kvm,
        }
    }

    fn bus(&self) -> Bus {
        self.found.machine.bus()
    }

    fn guest(&self, socket: PathBuf) -> GuestEndpoint {
        GuestEndpoint::Socket(socket)
    }

    fn boots(&self, format: KernelFormat) -> bool {
        matches!(format, KernelFormat::Elf | KernelFormat::BzImage)
    }

    fn files(&self) -> Vec<PathBuf> {
        let firmware = Path::new("/usr/share/qemu");
        let roms = [
            "bios-microvm.bin",
            "qboot.rom",
            "linuxboot_dma.bin",
            "pvh.bin",
        ];
        let roms = roms
            .iter()
            .map(|rom| firmware.join(rom))
            .filter(|path| path.is_file());
        roms.chain([self.found.program.clone()]).collect()
    }

    fn bare_command(&self, blueprint: &Blueprint) -> Vec<OsString> {
        let mut line = vec![self.found.program.clone().into_os_string()];
        line.extend(command::machine_arguments(self.found.machine, blueprint));
        line
    }

    async fn launch(&self, vm: &Blueprint) -> Result<Launched, LaunchError> {
        Ok(self.begin(vm, &[]).await?.launched())
    }

    fn memory_form(&self, vm: &Blueprint) -> Result<BTreeMap<String, String>, LaunchError> {
        let mut line = command::machine_arguments(self.found.machine, vm);
        line.extend(command::control_arguments(self.found.machine, vm));
        let line = line.iter().map(|argument| argument.to_str().unwrap_or("?"));
        Ok(memory::form(&self.found.version, line, &cpuinfo()))
    }

    async fn launch_saved(&self, vm: &Blueprint, saved: &Path) -> Result<Launched, LaunchError> {
        let mut born = self.begin(vm, WITH_SAVED_MEMORY).await?;
        match self.load(vm, &mut born, saved).await {
            Ok(()) => Ok(born.launched()),
            Err(error) => {
                let _ = born.child.kill().await;
                Err(error)
            }
        }
    }

    async fn reconnect(&self, id: VmId, process: &Process) -> Result<Box<dyn Link>, LinkError> {
        let qmp = Qmp::connect(&process.control_socket, RECONNECT).await?;
        let answer = qmp.execute("query-uuid", Value::Null).await?;
        match answer.get("UUID").and_then(Value::as_str) {
            Some(found) if found == id.to_string() => {
                memory::settle(&qmp).await?;
                Ok(Box::new(QemuLink::new(qmp, process)))
            }
            found => Err(LinkError::Stranger {
                socket: process.control_socket.clone(),
                found: found.unwrap_or("unnamed").to_owned(),
            }),
        }
    }
}

/// The conversation with one QEMU.
struct QemuLink {
    qmp: Qmp,
    pid: i32,
}

impl QemuLink {
    fn new(qmp: Qmp, process: &Process) -> Self {
        let pid = process.birth.pid();
        Self { qmp, pid }
    }
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
        hostfwd::added(&self.qmp.human(&hostfwd::add_command(forward)).await?)
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
