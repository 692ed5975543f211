//! The machine monitor: what may be said when (Firecracker's `src/vmm/src/rpc_interface.rs`), and
//! what it then checks.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::VERSION;
use crate::config::{
    BackendType, BootSource, Drive, DriveUpdate, Logger, Machine, MachineConfig, Metrics,
    NetworkInterface, SNAPSHOT_VERSION, SnapshotCreate, SnapshotLoad, SnapshotType, VmState, Vsock,
};
use crate::guest::{self, Guest, Memory};
use crate::log::Log;

/// Why a request is refused.
pub(crate) struct Fault {
    pub(crate) status: u16,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            status: 400,
            message: message.into(),
        }
    }
}

const TOO_LATE: &str = "The requested operation is not supported after starting the microVM.";
const TOO_EARLY: &str = "The requested operation is not supported before starting the microVM.";

/// What a file of a machine's memory begins with here.
const MEMORY_MARK: &[u8] = b"standin memory\n";

enum Phase {
    NotStarted,
    Started { guest: Arc<Guest>, paused: bool },
}

struct State {
    machine: Machine,
    phase: Phase,
    /// Whether anything was said that only makes sense for a boot.
    boots: bool,
    metrics: Option<String>,
    mmds: Option<Value>,
    listener: Option<UnixListener>,
}

/// The file that a snapshot leaves beside that of the memory.
#[derive(Serialize, Deserialize)]
struct Saved {
    version: String,
    machine: Machine,
    memory: Memory,
}

pub(crate) struct Vmm {
    id: String,
    log: Arc<Log>,
    doomed: AtomicBool,
    state: Mutex<State>,
}

impl Vmm {
    pub(crate) fn new(id: String, log: Log) -> Self {
        Self {
            id,
            log: Arc::new(log),
            doomed: AtomicBool::new(false),
            state: Mutex::new(State {
                machine: Machine::default(),
                phase: Phase::NotStarted,
                boots: false,
                metrics: None,
                mmds: None,
                listener: None,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn log(&self, text: &str) {
        self.log.line(text);
    }

    /// Whether the process has to end because of what it just refused.
    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed)
    }

    pub(crate) fn end(&self, code: i32) -> ! {
        guest::end(&self.log, code)
    }

    pub(crate) fn describe(&self) -> Value {
        let state = match self.lock().phase {
            Phase::NotStarted => "Not started",
            Phase::Started { paused: false, .. } => "Running",
            Phase::Started { paused: true, .. } => "Paused",
        };
        json!({
            "id": self.id, "state": state, "vmm_version": VERSION, "app_name": "Firecracker"
        })
    }

    pub(crate) fn full_config(&self) -> Value {
        let state = self.lock();
        let machine = &state.machine;
        json!({
            "boot-source": machine.boot_source, "machine-config": machine.machine_config,
            "drives": machine.drives, "network-interfaces": machine.network_interfaces,
            "vsock": machine.vsock,
        })
    }

    pub(crate) fn machine_config(&self) -> Value {
        json!(self.lock().machine.machine_config)
    }

    pub(crate) fn mmds(&self) -> Value {
        self.lock().mmds.clone().unwrap_or_else(|| json!({}))
    }

    /// The state, if nothing has started yet.
    fn fresh(&self) -> Result<MutexGuard<'_, State>, Fault> {
        let state = self.lock();
        match state.phase {
            Phase::NotStarted => Ok(state),
            Phase::Started { .. } => Err(Fault::new(TOO_LATE)),
        }
    }

    /// The same, for what is said of a machine that will boot.
    fn booting(&self) -> Result<MutexGuard<'_, State>, Fault> {
        let mut state = self.fresh()?;
        state.boots = true;
        Ok(state)
    }

    pub(crate) fn before_start(&self) -> Result<(), Fault> {
        self.booting().map(drop)
    }

    pub(crate) fn boot_source(&self, source: BootSource) -> Result<(), Fault> {
        let mut state = self.booting()?;
        File::open(&source.kernel_image_path).map_err(|error| {
            Fault::new(format!(
                "Boot source error: The kernel file cannot be opened: {error}"
            ))
        })?;
        if let Some(initrd) = &source.initrd_path {
            File::open(initrd).map_err(|error| {
                Fault::new(format!(
                    "Boot source error: The initrd file cannot be opened due to invalid path or \
                     invalid permissions. {error}"
                ))
            })?;
        }
        state.machine.boot_source = Some(source);
        Ok(())
    }

    pub(crate) fn set_machine_config(&self, config: MachineConfig) -> Result<(), Fault> {
        let mut state = self.booting()?;
        let cpus = config.vcpu_count;
        if cpus == 0 || cpus > 32 || (config.smt && cpus > 1 && cpus % 2 == 1) {
            return Err(Fault::new(
                "Machine config error: The vCPU number is invalid! The vCPU number can only be 1 \
                 or an even number when SMT is enabled.",
            ));
        }
        if config.mem_size_mib == 0 {
            return Err(Fault::new(
                "Machine config error: The memory size (MiB) is invalid.",
            ));
        }
        state.machine.machine_config = config;
        Ok(())
    }

    pub(crate) fn insert_drive(&self, drive: Drive) -> Result<(), Fault> {
        let mut state = self.booting()?;
        open_drive(&drive)?;
        let drives = &mut state.machine.drives;
        let other_root = drives
            .iter()
            .any(|other| other.is_root_device && other.drive_id != drive.drive_id);
        if drive.is_root_device && other_root {
            return Err(Fault::new(
                "Drive config error: A root block device already exists!",
            ));
        }
        drives.retain(|other| other.drive_id != drive.drive_id);
        drives.push(drive);
        Ok(())
    }

    pub(crate) fn update_drive(&self, update: &DriveUpdate) -> Result<(), Fault> {
        let mut state = self.lock();
        if matches!(state.phase, Phase::NotStarted) {
            return Err(Fault::new(TOO_EARLY));
        }
        let mut drives = state.machine.drives.iter_mut();
        let drive = drives.find(|drive| drive.drive_id == update.drive_id);
        let drive = drive.ok_or_else(|| Fault::new("Drive config error: Invalid device ID!"))?;
        if let Some(path) = &update.path_on_host {
            let mut next = drive.clone();
            next.path_on_host.clone_from(path);
            open_drive(&next)?;
            *drive = next;
        }
        Ok(())
    }

    pub(crate) fn insert_interface(&self, interface: NetworkInterface) -> Result<(), Fault> {
        let mut state = self.booting()?;
        open_tap(&interface.host_dev_name)?;
        if let Some(mac) = &interface.guest_mac {
            let parts: Vec<&str> = mac.split(':').collect();
            let sane = |part: &&str| part.len() == 2 && u8::from_str_radix(part, 16).is_ok();
            if parts.len() != 6 || !parts.iter().all(sane) {
                return Err(Fault::new(format!(
                    "Network config error: Invalid MAC: {mac}"
                )));
            }
        }
        let others = &mut state.machine.network_interfaces;
        others.retain(|other| other.iface_id != interface.iface_id);
        let macs: BTreeSet<_> = others
            .iter()
            .filter_map(|it| it.guest_mac.as_ref())
            .collect();
        if let Some(mac) = interface
            .guest_mac
            .as_ref()
            .filter(|mac| macs.contains(mac))
        {
            return Err(Fault::new(format!(
                "Network config error: The MAC address is already in use: {mac}"
            )));
        }
        others.push(interface);
        Ok(())
    }

    pub(crate) fn set_vsock(&self, vsock: Vsock) -> Result<(), Fault> {
        let mut state = self.booting()?;
        if vsock.guest_cid < 3 {
            return Err(Fault::new(
                "Vsock config error: The guest CID must be at least 3.",
            ));
        }
        // The device that was said before goes away with its socket's listener, not with its path.
        state.listener = None;
        state.listener = Some(bind_vsock(&vsock)?);
        state.machine.vsock = Some(vsock);
        Ok(())
    }

    pub(crate) fn set_logger(&self, logger: &Logger) -> Result<(), Fault> {
        drop(self.fresh()?);
        let Some(path) = &logger.log_path else {
            return Ok(());
        };
        let moved = self.log.move_to(path);
        moved.map_err(|error| {
            Fault::new(format!("Logger error: Failed to open target file: {error}"))
        })
    }

    pub(crate) fn set_metrics(&self, metrics: &Metrics) -> Result<(), Fault> {
        let mut state = self.fresh()?;
        if state.metrics.is_some() {
            return Err(Fault::new(
                "Metrics error: Reinitialization of metrics not allowed.",
            ));
        }
        let opened = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&metrics.metrics_path);
        opened.map_err(|error| Fault::new(format!("Metrics error: {error}")))?;
        state.metrics = Some(metrics.metrics_path.clone());
        Ok(())
    }

    pub(crate) fn flush_metrics(&self) -> Result<(), Fault> {
        let state = self.lock();
        if matches!(state.phase, Phase::NotStarted) {
            return Err(Fault::new(TOO_EARLY));
        }
        let path = state.metrics.as_ref();
        let path = path.ok_or_else(|| Fault::new("Internal VMM error: Metrics are not set."))?;
        let file = OpenOptions::new().append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(b"{\"utc_timestamp_ms\":0}\n"));
        written.map_err(|error| Fault::new(format!("Internal VMM error: {error}")))
    }

    pub(crate) fn mmds_config(&self, interfaces: &[String]) -> Result<(), Fault> {
        let state = self.booting()?;
        let known = |id: &String| {
            let mut all = state.machine.network_interfaces.iter();
            all.any(|interface| interface.iface_id == *id)
        };
        if interfaces.is_empty() || !interfaces.iter().all(known) {
            return Err(Fault::new(
                "MMDS config error: The list of network interface IDs that was provided contains \
                 at least one ID that does not correspond to any existing network interface.",
            ));
        }
        Ok(())
    }

    pub(crate) fn set_mmds(&self, value: Value) -> Result<(), Fault> {
        self.lock().mmds = Some(value);
        Ok(())
    }

    pub(crate) fn start(&self) -> Result<(), Fault> {
        let mut state = self.fresh()?;
        let source = state.machine.boot_source.clone().ok_or_else(|| {
            Fault::new("Start microvm error: Cannot start microvm without kernel configuration.")
        })?;
        let kernel = guest::load_kernel(Path::new(&source.kernel_image_path)).map_err(|problem| {
            Fault::new(format!(
                "Start microvm error: Cannot load kernel due to invalid memory configuration or \
                 invalid kernel image: {problem}"
            ))
        })?;
        let initrd = source.initrd_path.as_ref().map(fs::read).transpose();
        let initrd = initrd.map_err(|error| {
            Fault::new(format!("Start microvm error: Cannot load initrd: {error}"))
        })?;
        let arguments = source.boot_args.clone().unwrap_or_default();
        let has_disk = state
            .machine
            .drives
            .iter()
            .any(|drive| drive.is_root_device);
        let memory = Memory::at_boot(kernel, &arguments, initrd.as_deref(), has_disk);
        let guest = Guest::run(memory, Arc::clone(&self.log), state.listener.take());
        state.phase = Phase::Started {
            guest,
            paused: false,
        };
        Ok(())
    }

    pub(crate) fn ctrl_alt_del(&self) -> Result<(), Fault> {
        match &self.lock().phase {
            Phase::NotStarted => Err(Fault::new(TOO_EARLY)),
            Phase::Started { guest, .. } => {
                guest.ctrl_alt_del();
                Ok(())
            }
        }
    }

    /// Pauses or resumes; the same again changes nothing.
    pub(crate) fn set_state(&self, wanted: VmState) -> Result<(), Fault> {
        match &mut self.lock().phase {
            Phase::NotStarted => Err(Fault::new(TOO_EARLY)),
            Phase::Started { guest, paused } => {
                *paused = wanted == VmState::Paused;
                guest.set_paused(*paused);
                Ok(())
            }
        }
    }

    pub(crate) fn snapshot(&self, wanted: &SnapshotCreate) -> Result<(), Fault> {
        let state = self.lock();
        let Phase::Started { guest, paused } = &state.phase else {
            return Err(Fault::new(TOO_EARLY));
        };
        if !paused {
            return Err(Fault::new(
                "Create snapshot error: Cannot save the microVM state: Operation not allowed: \
                 save/restore unavailable while running",
            ));
        }
        if wanted.snapshot_type == SnapshotType::Diff
            && !state.machine.machine_config.track_dirty_pages
        {
            return Err(Fault::new(
                "Create snapshot error: Diff snapshots are not allowed on uVMs with dirty page \
                 tracking disabled.",
            ));
        }
        let saved = Saved {
            version: SNAPSHOT_VERSION.to_owned(),
            machine: state.machine.clone(),
            memory: guest.memory(),
        };
        let problem = |error| {
            Fault::new(format!(
                "Create snapshot error: Cannot perform {{}} on the memory backing file: {error}"
            ))
        };
        let mut memory = File::create(&wanted.mem_file_path).map_err(problem)?;
        memory.write_all(MEMORY_MARK).map_err(problem)?;
        let size = saved.machine.machine_config.mem_size_mib << 20;
        memory.set_len(size).map_err(problem)?;
        let bytes = serde_json::to_vec(&saved).unwrap_or_default();
        fs::write(&wanted.snapshot_path, bytes).map_err(problem)
    }

    /// Loads a snapshot into this process, which is good for nothing else if that fails.
    pub(crate) fn load(&self, wanted: &SnapshotLoad) -> Result<(), Fault> {
        let mut state = self.fresh()?;
        if state.boots {
            return Err(Fault::new(
                "Load snapshot error: Loading a microVM snapshot not allowed after configuring \
                 boot-specific resources.",
            ));
        }
        let memory = match (&wanted.mem_backend, &wanted.mem_file_path) {
            (Some(backend), None) => {
                if backend.backend_type == BackendType::Uffd {
                    return Err(Fault::new("This stand-in has no userfaultfd."));
                }
                backend.backend_path.clone()
            }
            (None, Some(path)) => path.clone(),
            (None, None) => {
                return Err(Fault::new(
                    "missing field: either `mem_backend` or `mem_file_path` is required",
                ));
            }
            (Some(_), Some(_)) => {
                return Err(Fault::new(
                    "too many fields: either `mem_backend` or `mem_file_path` exclusively is \
                     required",
                ));
            }
        };
        let restored = restore(wanted, &memory);
        let (saved, listener) = restored.map_err(|problem| {
            self.doomed.store(true, Ordering::Relaxed);
            Fault::new(format!(
                "Load snapshot error: Failed to restore from snapshot: {problem}"
            ))
        })?;
        let guest = Guest::go_on(saved.memory, Arc::clone(&self.log), listener);
        guest.set_paused(!wanted.resume_vm);
        state.machine = saved.machine;
        state.phase = Phase::Started {
            guest,
            paused: !wanted.resume_vm,
        };
        Ok(())
    }
}

/// Reads and checks what a snapshot needs, and binds its vsock.
fn restore(wanted: &SnapshotLoad, memory: &str) -> Result<(Saved, Option<UnixListener>), String> {
    let bytes = fs::read(&wanted.snapshot_path)
        .map_err(|error| format!("Failed to get snapshot state from file: {error}"))?;
    let mut saved: Saved = serde_json::from_slice(&bytes)
        .map_err(|error| format!("Failed to get snapshot state from file: {error}"))?;
    if saved.version != SNAPSHOT_VERSION {
        return Err(format!(
            "Failed to get snapshot state from file: Invalid data version: {}",
            saved.version
        ));
    }
    let mut file = File::open(memory).map_err(|error| {
        format!("Failed to load guest memory: Cannot open the memory file: {error}")
    })?;
    let mut mark = [0; MEMORY_MARK.len()];
    let is_memory = file.read_exact(&mut mark).is_ok() && mark == MEMORY_MARK;
    let size = file.metadata().map(|metadata| metadata.len()).unwrap_or(0);
    if !is_memory || size != saved.machine.machine_config.mem_size_mib << 20 {
        return Err("Failed to load guest memory: the file does not fit the state".to_owned());
    }
    for drive in &saved.machine.drives {
        open_drive(drive).map_err(|fault| fault.message)?;
    }
    for change in &wanted.network_overrides {
        let mut interfaces = saved.machine.network_interfaces.iter_mut();
        let interface = interfaces.find(|it| it.iface_id == change.iface_id);
        let interface = interface.ok_or("Unknown Network Device.")?;
        interface.host_dev_name.clone_from(&change.host_dev_name);
    }
    for interface in &saved.machine.network_interfaces {
        open_tap(&interface.host_dev_name).map_err(|fault| fault.message)?;
    }
    let vsock = saved.machine.vsock.as_ref();
    let listener = vsock.map(bind_vsock).transpose();
    let listener = listener.map_err(|fault| fault.message)?;
    Ok((saved, listener))
}

fn open_drive(drive: &Drive) -> Result<(), Fault> {
    let opened = OpenOptions::new()
        .read(true)
        .write(!drive.is_read_only)
        .open(&drive.path_on_host);
    opened.map(drop).map_err(|error| {
        Fault::new(format!(
            "Drive config error: Unable to create the virtio block device: Virtio backend error: \
             Error manipulating the backing file: {error} {}",
            drive.path_on_host
        ))
    })
}

fn open_tap(name: &str) -> Result<(), Fault> {
    // The real one would make a device that is not there, given the right; ours is always there.
    // (Not /sys: that shows the devices of the namespace that it was mounted in.)
    let Ok(devices) = fs::read_to_string("/proc/self/net/dev") else {
        // In a jail there is nothing that could be looked at.
        return Ok(());
    };
    let mut names = devices.lines().filter_map(|line| line.split_once(':'));
    if names.any(|(device, _)| device.trim() == name) {
        return Ok(());
    }
    Err(Fault::new(format!(
        "Network config error: Could not create the network device: Open tap device failed: Error \
         while creating ifreq structure: no device {name}"
    )))
}

fn bind_vsock(vsock: &Vsock) -> Result<UnixListener, Fault> {
    UnixListener::bind(&vsock.uds_path).map_err(|error| {
        Fault::new(format!(
            "Vsock config error: Cannot create backend for vsock device: Error binding to the \
             host-side Unix socket: {error}"
        ))
    })
}
