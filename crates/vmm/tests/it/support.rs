//! A host for a test: a data directory with the default image, and no VM left at the end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use hostler_vmm::{
    Config, CreateVm, Machines, NetworkChoice, OpenError, PortForward, Protocol, Vm, VmState,
};

/// How long anything may take. Guests are emulated, and the machine may be busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) struct Host {
    pub(crate) machines: Machines,
    site: Site,
}

/// The configuration of a host to which tests import what they made.
fn usual(data_dir: PathBuf) -> Config {
    let mut config = Config::new(data_dir);
    config.import_allow = vec![std::env::temp_dir()];
    config
}

/// Opens a data directory, perhaps again. A program that another test is about to start has a copy
/// of our lock for a moment, which a daemon of its own process never meets.
async fn open(config: Config) -> Machines {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Machines::open(config.clone()).await {
            Err(OpenError::InUse { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

/// Waits until something holds, and says what does not when it never does.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to be: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The directory, which goes away with every process that belongs to it.
pub(crate) struct Site {
    data_dir: PathBuf,
    _dir: tempfile::TempDir,
}

impl Host {
    /// A host without an image: enough for what is refused before one is needed.
    pub(crate) async fn bare() -> Self {
        Self::in_directory("data").await
    }

    /// The same, with its data in this place of a temporary directory.
    pub(crate) async fn in_directory(place: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = usual(dir.path().join(place));
        Self::with(dir, config).await
    }

    /// A host as it is configured, with its data somewhere in this directory.
    pub(crate) async fn with(dir: tempfile::TempDir, config: Config) -> Self {
        let data_dir = config.data_dir.clone();
        let machines = open(config).await;
        Self {
            machines,
            site: Site {
                data_dir,
                _dir: dir,
            },
        }
    }

    /// A host that is configured in another way than usual.
    pub(crate) async fn configured(configure: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = usual(dir.path().join("data"));
        configure(&mut config);
        Self::with(dir, config).await
    }

    /// A host with the default image and kernel whose VMs are on a bridge of this range.
    pub(crate) async fn bridged(range: &str) -> Self {
        let host = Self::configured(|config| {
            config.network = NetworkChoice::Bridge;
            config.bridge_range = range.parse().unwrap();
        });
        let host = host.await;
        host.machines.images().pull(&|_| {}).await.unwrap();
        host
    }

    /// A host with the default image and kernel.
    pub(crate) async fn new() -> Self {
        let host = Self::bare().await;
        host.machines.images().pull(&|_| {}).await.unwrap();
        host
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.site.data_dir.clone()
    }

    /// Forgets everything without stopping anything, as a killed daemon does, and opens again.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|| {}).await
    }

    /// The same, with another configuration for the same data.
    pub(crate) async fn restart_as(self, config: Config) -> Self {
        let Self { machines, site } = self;
        drop(machines);
        let machines = open(config).await;
        Self { machines, site }
    }

    /// The same, and something happens while no daemon is there.
    pub(crate) async fn restart_after(self, meanwhile: impl FnOnce()) -> Self {
        let Self { machines, site } = self;
        let config = machines.config().clone();
        drop(machines);
        meanwhile();
        let machines = open(config).await;
        Self { machines, site }
    }

    /// Closes the host and keeps its directory.
    pub(crate) fn close(self) -> (Site, Config) {
        let Self { machines, site } = self;
        (site, machines.config().clone())
    }

    /// Opens a host again that was closed.
    pub(crate) async fn reopen(site: Site, config: Config) -> Self {
        let machines = open(config).await;
        Self { machines, site }
    }

    /// Waits until a VM satisfies a condition.
    pub(crate) async fn until(&self, name: &str, condition: impl Fn(&Vm) -> bool) -> Vm {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let vm = self.machines.get(name).await.unwrap();
            if condition(&vm) {
                return vm;
            }
            assert!(Instant::now() < deadline, "it never came to be: {vm:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn until_ready(&self, name: &str) -> Vm {
        self.until(name, |vm| {
            assert_eq!(vm.state, VmState::Running, "{vm:#?}");
            vm.ready_at.is_some()
        })
        .await
    }

    /// Deletes all VMs, and checks that nothing of them is left.
    pub(crate) async fn clear(self) {
        for vm in self.machines.list().await {
            self.machines.delete(vm.name.as_str(), true).await.unwrap();
        }
        let left: Vec<_> = std::fs::read_dir(self.data_dir().join("vms"))
            .unwrap()
            .collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(processes_of(&self.data_dir()).is_empty());
    }
}

impl Drop for Site {
    /// A failed test leaves no process behind either.
    fn drop(&mut self) {
        for pid in processes_of(&self.data_dir) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// The processes that have a path in this directory among their arguments.
pub(crate) fn processes_of(directory: &std::path::Path) -> Vec<i32> {
    let marker = directory
        .join("vms")
        .into_os_string()
        .into_string()
        .unwrap();
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        String::from_utf8_lossy(&line)
            .contains(&marker)
            .then_some(pid)
    });
    pids.collect()
}

/// A request for a small VM.
pub(crate) fn small(name: &str) -> CreateVm {
    CreateVm {
        memory_mb: 192,
        disk_size_mb: 256,
        ..CreateVm::named(name.parse().unwrap())
    }
}

/// A port of this host that is free now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

pub(crate) fn forward(host_port: u16, guest_port: u16) -> PortForward {
    PortForward {
        host_port: host_port.try_into().unwrap(),
        guest_port: guest_port.try_into().unwrap(),
        protocol: Protocol::Tcp,
        bind: Ipv4Addr::LOCALHOST,
    }
}

/// What the guest serves behind a port; waits until it does.
pub(crate) async fn page(port: u16) -> String {
    tokio::task::spawn_blocking(move || {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match try_page(port) {
                Ok(page) if page.contains("Hello") => return page,
                other => assert!(Instant::now() < deadline, "no page: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })
    .await
    .unwrap()
}

fn try_page(port: u16) -> std::io::Result<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// A file system of its own, for as long as this lives.
pub(crate) struct Filesystem(PathBuf);

impl Filesystem {
    /// None for a user that may not mount.
    pub(crate) fn mount(at: &Path, options: &str) -> Option<Self> {
        let options = std::ffi::CString::new(options).unwrap();
        match mount(
            "none",
            at,
            "tmpfs",
            MountFlags::empty(),
            Some(options.as_c_str()),
        ) {
            Ok(()) => Some(Self(at.to_owned())),
            Err(rustix::io::Errno::PERM) => {
                eprintln!("skipped: this user may not mount a file system to fill");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for Filesystem {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}
