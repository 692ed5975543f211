//! VMs on Firecracker: the real one where `HOSTLER_FIRECRACKER_BIN` says where it is, else a strict
//! stand-in. What only the stand-in can show is skipped on the real one, and said so.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostler_vmm::{
    Config, CreateError, CreateVm, DriverChoice, DriverKind, ImportKernel, Machines, Mount,
    OpenError, StartError, VmState,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Host, PATIENCE, eventually, forward, free_port, processes_of, small};

/// The program to test with, and whether it is the real one.
pub(crate) fn program() -> (PathBuf, bool) {
    match std::env::var_os("HOSTLER_FIRECRACKER_BIN") {
        Some(real) => (real.into(), true),
        None => (env!("CARGO_BIN_EXE_firecracker-standin").into(), false),
    }
}

/// Says that a test has nothing to show with the real Firecracker.
pub(crate) fn skipped(why: &str) {
    eprintln!("skipped with the real Firecracker: {why}");
}

/// A host with Firecracker.
pub(crate) struct Site {
    pub(crate) host: Host,
    faults: PathBuf,
}

impl Site {
    /// With the default image and kernel.
    pub(crate) async fn new() -> Self {
        let site = Self::with(|_| {}).await;
        site.host.machines.images().pull(&|_| {}).await.unwrap();
        site
    }

    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A name of its own, so that what goes wrong on purpose goes wrong for this test alone.
        let link = dir.path().join("firecracker");
        symlink(program().0, &link).unwrap();
        let mut config = Config::new(dir.path().join("data"));
        config.import_allow = vec![std::env::temp_dir()];
        config.driver = DriverChoice::Firecracker;
        config.firecracker_binary = link;
        change(&mut config);
        let faults = dir.path().join("firecracker.faults");
        Self {
            host: Host::with(dir, config).await,
            faults,
        }
    }

    /// Lets things go wrong on purpose from now on.
    pub(crate) fn go_wrong(&self, faults: &str) {
        fs::write(&self.faults, faults).unwrap();
    }

    /// The same for one VM alone.
    pub(crate) fn go_wrong_in(&self, name: &str, faults: &str) {
        fs::write(self.faults_in(name), faults).unwrap();
    }

    pub(crate) fn faults_in(&self, name: &str) -> PathBuf {
        let directory = self.host.data_dir().join("vms").join(name);
        directory.join("vmm.log.faults")
    }

    pub(crate) async fn start(&self, name: &str) -> Result<(), StartError> {
        self.host.machines.start(name).await.map(drop)
    }

    /// Nothing of the VM is left but what a stopped VM has, as soon as it was cleared up.
    pub(crate) async fn assert_at_rest(&self, name: &str) {
        let data_dir = self.host.data_dir();
        let directory = data_dir.join("vms").join(name);
        eventually("no process of the VM", || {
            processes_of(&data_dir).is_empty()
        })
        .await;
        for leftover in ["control.sock", "guest.sock", "jail", "cgroup"] {
            let path = directory.join(leftover);
            let gone = || fs::symlink_metadata(&path).is_err();
            eventually(&format!("{} is gone", path.display()), gone).await;
        }
    }
}

fn kill_all(directory: &Path) {
    for pid in processes_of(directory) {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
}

#[tokio::test]
async fn a_vm_starts_gets_ready_and_stops_cleanly_on_firecracker() {
    let site = Site::new().await;
    let machines = &site.host.machines;
    let created = machines.create(small("web-1")).await.unwrap();
    assert_eq!(created.driver, DriverKind::Firecracker);
    let started = machines.start("web-1").await.unwrap();
    assert_eq!(started.state, VmState::Running);
    let again = machines.start("web-1").await.unwrap();
    assert_eq!(again.started_at, started.started_at);
    let processes = processes_of(&site.host.data_dir());
    assert_eq!(processes.len(), 1, "{processes:?}");
    let environment = fs::read(format!("/proc/{}/environ", processes[0])).unwrap();
    assert!(
        environment.starts_with(b"PATH="),
        "it knows of our environment"
    );

    let ready = site.host.until_ready("web-1").await;
    assert!(ready.ready_at > ready.started_at);
    let stopped = machines.stop("web-1", PATIENCE).await.unwrap();
    assert_eq!(
        (stopped.state, stopped.state_reason),
        (VmState::Stopped, None)
    );
    site.assert_at_rest("web-1").await;

    // And again, over what the first process has left.
    machines.start("web-1").await.unwrap();
    site.host.until_ready("web-1").await;
    machines.delete("web-1", true).await.unwrap();
    site.host.clear().await;
}

#[tokio::test]
async fn a_vm_outlives_its_daemon_on_firecracker_whether_it_was_ready_or_not() {
    let site = Site::new().await;
    site.host.machines.create(small("web-1")).await.unwrap();
    let started = site.host.machines.start("web-1").await.unwrap();
    let process = processes_of(&site.host.data_dir());
    let Site { host, faults } = site;
    let host = host.restart().await;
    let adopted = host.until_ready("web-1").await;
    assert_eq!(
        (adopted.id, adopted.started_at),
        (started.id, started.started_at)
    );
    let host = host.restart().await;
    assert_eq!(
        processes_of(&host.data_dir()),
        process,
        "it was started again"
    );
    let again = host.machines.get("web-1").await.unwrap();
    assert_eq!(again.ready_at, adopted.ready_at);
    let stopped = host.machines.stop("web-1", PATIENCE).await.unwrap();
    assert_eq!(stopped.state, VmState::Stopped);
    Site { host, faults }.assert_at_rest("web-1").await;
}

#[tokio::test]
async fn a_start_that_nobody_could_write_down_is_taken_over_on_firecracker() {
    let site = Site::new().await;
    site.host.machines.create(small("web-1")).await.unwrap();
    let record = site.host.data_dir().join("vms/web-1/vm.json");
    let before = fs::read(&record).unwrap();
    site.start("web-1").await.unwrap();
    let host = site
        .host
        .restart_after(|| fs::write(&record, &before).unwrap());
    let host = host.await;
    assert_eq!(host.until_ready("web-1").await.state, VmState::Running);
    host.clear().await;
}

#[tokio::test]
async fn a_firecracker_that_is_killed_leaves_an_error_and_can_be_started_again() {
    let site = Site::new().await;
    let host = &site.host;
    host.machines.create(small("web-1")).await.unwrap();
    site.start("web-1").await.unwrap();
    host.until_ready("web-1").await;
    kill_all(&host.data_dir());
    let failed = host.until("web-1", |vm| vm.state == VmState::Error).await;
    assert!(failed.state_reason.unwrap().contains("killed"));
    site.assert_at_rest("web-1").await;
    site.start("web-1").await.unwrap();
    host.until_ready("web-1").await;
    site.host.clear().await;
}

#[tokio::test]
async fn what_died_with_its_daemon_is_found_stopped_on_firecracker() {
    let site = Site::new().await;
    site.host.machines.create(small("web-1")).await.unwrap();
    site.start("web-1").await.unwrap();
    let data_dir = site.host.data_dir();
    let host = site.host.restart_after(|| kill_all(&data_dir)).await;
    let vm = host.machines.get("web-1").await.unwrap();
    assert_eq!(vm.state, VmState::Stopped);
    // The dead process's sockets are in nobody's way.
    host.machines.start("web-1").await.unwrap();
    host.until_ready("web-1").await;
    host.clear().await;
}

#[tokio::test]
async fn what_firecracker_cannot_do_is_declared_and_refused() {
    let site = Site::new().await;
    let machines = &site.host.machines;
    let status = machines.status().await.unwrap();
    let firecracker = &status.drivers[0];
    assert_eq!(
        (firecracker.kind, firecracker.selected),
        (DriverKind::Firecracker, true)
    );
    let can = firecracker.capabilities.unwrap();
    assert!(!can.port_forwards && !can.user_network && can.hardware_acceleration);
    assert!(
        firecracker.reason.contains("VMs are not jailed"),
        "{}",
        firecracker.reason
    );

    let with_port = CreateVm {
        port_forwards: vec![forward(free_port(), 80)],
        ..small("web-1")
    };
    let mount = Mount {
        host_path: "/tmp".into(),
        guest_tag: "tmp".into(),
        read_only: true,
    };
    let with_mount = CreateVm {
        mounts: vec![mount],
        ..small("web-1")
    };
    for request in [with_port, with_mount] {
        let error = machines.create(request).await.unwrap_err();
        assert!(matches!(error, CreateError::Unsupported(_)), "{error}");
    }
    // A kernel that unpacks itself is none for Firecracker.
    let outside = tempfile::tempdir().unwrap();
    let kernel = outside.path().join("bzimage");
    fs::write(&kernel, packed_kernel()).unwrap();
    let import = ImportKernel {
        source: kernel,
        name: "packed".parse().unwrap(),
    };
    machines.kernels().import(import).await.unwrap();
    let request = CreateVm {
        kernel: Some("packed".parse().unwrap()),
        ..small("web-1")
    };
    let error = machines.create(request).await.unwrap_err();
    assert!(matches!(error, CreateError::Unsupported(_)), "{error}");
    assert!(error.to_string().contains("bzimage"), "{error}");
    site.host.clear().await;
}

/// As much of a bzImage as is looked at, packed in a way that nobody knows.
fn packed_kernel() -> Vec<u8> {
    let mut file = vec![0; 4096];
    file[0x1f1] = 1;
    file[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    file[0x202..0x206].copy_from_slice(b"HdrS");
    file[0x24c] = 64;
    file
}

#[tokio::test]
async fn asked_for_by_name_a_firecracker_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::new(dir.path().join("data"));
    config.driver = DriverChoice::Firecracker;
    config.firecracker_binary = "firecracker-that-nobody-has".into();
    let error = Machines::open(config.clone()).await.err().unwrap();
    assert!(matches!(error, OpenError::Driver { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("firecracker-that-nobody-has is not installed"),
        "{text}"
    );

    // Left to choose, the host takes what is there, and says why not the other.
    config.driver = DriverChoice::Auto;
    // Not the same place: other tests make processes, which hold its lock until they are others.
    config.data_dir = dir.path().join("other");
    let machines = Machines::open(config).await.unwrap();
    let status = machines.status().await.unwrap();
    assert!(!status.drivers[0].selected && status.drivers[1].selected);
    assert!(status.drivers[0].reason.contains("not installed"));
}

#[tokio::test]
async fn left_to_choose_a_host_takes_firecracker_and_keeps_qemu_for_the_vms_that_have_it() {
    let site = Site::with(|config| config.driver = DriverChoice::Qemu).await;
    site.host.machines.images().pull(&|_| {}).await.unwrap();
    site.host.machines.create(small("old")).await.unwrap();
    let Site { host, .. } = site;
    let mut config = host.machines.config().clone();
    config.driver = DriverChoice::Auto;
    let host = host.restart_as(config).await;
    let status = host.machines.status().await.unwrap();
    assert!(status.drivers[0].selected, "{:?}", status.drivers);
    assert!(status.drivers[1].capabilities.is_some());
    let new = host.machines.create(small("new")).await.unwrap();
    assert_eq!(new.driver, DriverKind::Firecracker);
    // What was made for QEMU still starts on it.
    let old = host.machines.start("old").await.unwrap();
    assert_eq!(
        (old.driver, old.state),
        (DriverKind::Qemu, VmState::Running)
    );
    host.machines.stop("old", Duration::ZERO).await.unwrap();
    host.clear().await;
}
