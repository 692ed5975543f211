//! QEMU: runs VMs everywhere, fast where KVM works and emulated elsewhere.
//!
//! A VM is one QEMU process in a session of its own, so that neither the daemon's death nor a
//! closed terminal ends it. It is spoken to over QMP ([`link`], [`qmp`]), boots the machine that
//! suits the host ([`machine`]), can be written to a file and read back ([`memory`]), and has a
//! network of its own in user mode, which needs no privilege and no interface on the host
//! ([`hostfwd`]), or is on the host's bridge. Directories of the host come in by [`shares`].

mod command;
pub(crate) mod hostfwd;
mod link;
mod machine;
mod memory;
pub(crate) mod probe;
pub(crate) mod qmp;
pub(crate) mod shares;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::process::Child;
use tokio::time::Instant;

use self::link::QemuLink;
use self::machine::Accelerator;
pub(crate) use self::machine::has_virtualization;
use self::probe::Found;
use self::qmp::Qmp;
use self::shares::Servers;
use super::{
    Blueprint, Bus, Capabilities, Driver, GuestEndpoint, LaunchError, Launched, Link, LinkError,
    Prepared, SaveError, cpuinfo,
};
use crate::fault;
use crate::files;
use crate::kernel_file::KernelFormat;
use crate::model::{DriverKind, VmId};
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

/// A QEMU that waits for its memory.
struct Waiting {
    qemu: Arc<Qemu>,
    vm: Blueprint,
    born: Born,
}

#[async_trait]
impl Prepared for Waiting {
    async fn load(&mut self, saved: &Path) -> Result<(), LaunchError> {
        self.qemu.load(&self.vm, &mut self.born, saved).await
    }

    async fn complete(self: Box<Self>, _saved: &Path) -> Result<Launched, LaunchError> {
        Ok(self.born.launched())
    }

    async fn give_up(mut self: Box<Self>) {
        // It may have ended already; what counts is that it has when we return.
        let _ = self.born.child.kill().await;
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
            .args(command::control_arguments(&self.found, vm))
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
        line.extend(command::control_arguments(&self.found, vm));
        let line = line.iter().map(|argument| argument.to_str().unwrap_or("?"));
        Ok(memory::form(&self.found.version, line, &cpuinfo()))
    }

    async fn prepare(
        self: Arc<Self>,
        vm: Blueprint,
        disk: &Path,
    ) -> Result<Box<dyn Prepared>, LaunchError> {
        // QEMU opens it now, and does not mind that it gets another name and is still being written. All
        // that it reads before the processors run is the first sector, for a table of partitions that
        // would name a geometry; our disks have none.
        let vm = Blueprint {
            disk: disk.to_owned(),
            ..vm
        };
        let born = self.begin(&vm, WITH_SAVED_MEMORY).await?;
        Ok(Box::new(Waiting {
            qemu: self,
            vm,
            born,
        }))
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
