//! Pausing VMs, and letting them be again what they were.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hostler_vmm::{
    CreateVm, PauseError, RestartPolicy, RestoreError, Snapshot, SnapshotError, Vm, VmState,
};

use crate::support::{Filesystem, Host, PATIENCE, forward, free_port, page, processes_of, small};

/// A host with a VM that runs, and a shell in it.
pub(crate) struct World {
    pub(crate) host: Host,
    pub(crate) http: u16,
    pub(crate) ssh: u16,
    pub(crate) keys: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(RestartPolicy::Never).await
    }

    pub(crate) async fn with(restart_policy: RestartPolicy) -> Self {
        let keys = tempfile::tempdir().unwrap();
        let key = keys.path().join("key");
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .status();
        assert!(made.unwrap().success());
        let (http, ssh) = (free_port(), free_port());
        let host = Host::new().await;
        let request = CreateVm {
            ssh_public_key: Some(fs::read_to_string(key.with_extension("pub")).unwrap()),
            port_forwards: vec![forward(http, 80), forward(ssh, 22)],
            restart_policy,
            ..small("web-1")
        };
        host.machines.create(request).await.unwrap();
        host.machines.start("web-1").await.unwrap();
        host.until_ready("web-1").await;
        Self {
            host,
            http,
            ssh,
            keys,
        }
    }

    /// What a command in the guest prints.
    pub(crate) async fn run(&self, command: &str) -> String {
        let mut ssh = tokio::process::Command::new("ssh");
        ssh.args([
            "-F",
            "/dev/null",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "BatchMode=yes",
        ])
        .args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ])
        .args(["-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR", "-i"])
        .arg(self.keys.path().join("key"))
        .args(["-p", &self.ssh.to_string(), "root@127.0.0.1", command])
        .stdin(Stdio::null());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = ssh.output().await.unwrap();
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap().trim().to_owned();
            }
            // The forward accepts before the guest listens.
            assert!(Instant::now() < deadline, "{command:?}: {output:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A restored guest's clock is behind by the age of its memory until it is told the time.
    async fn until_the_clock_is_right(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = jiff::Timestamp::now().as_second();
            let guest: i64 = self.run("date +%s").await.parse().unwrap();
            let after = jiff::Timestamp::now().as_second();
            if (before - 1..=after + 1).contains(&guest) {
                return;
            }
            assert!(Instant::now() < deadline, "{guest} at {before} to {after}");
        }
    }

    pub(crate) async fn snapshot(&self, name: &str) -> Result<Snapshot, SnapshotError> {
        let name = Some(name.parse().unwrap());
        self.host.machines.snapshot("web-1", name).await
    }

    pub(crate) async fn vm(&self) -> Vm {
        self.host.machines.get("web-1").await.unwrap()
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        let snapshots = self.host.machines.snapshots("web-1").await.unwrap();
        snapshots.into_iter().map(|s| s.name.into()).collect()
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.host.data_dir().join("vms/web-1")
    }

    /// Everything under the VM's directory that interrupted work could have left.
    pub(crate) fn drafts(&self) -> Vec<PathBuf> {
        let both = [self.dir(), self.dir().join("snapshots")];
        let entries = both
            .iter()
            .filter_map(|dir| fs::read_dir(dir).ok())
            .flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_draft = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with('.')
        };
        paths.filter(is_draft).collect()
    }

    async fn restart(self) -> Self {
        let host = self.host.restart().await;
        Self { host, ..self }
    }
}

#[tokio::test]
async fn a_restored_vm_has_the_memory_and_the_disk_of_its_snapshot_and_runs_on() {
    let world = World::new().await;
    let machines = &world.host.machines;
    let count = "mkdir -p /m && mount -t tmpfs none /m && echo one >/m/memory && echo one >/disk \
        && (while :; do echo x >>/m/ticks; sleep 0.1; done >/dev/null 2>&1 &)";
    world.run(count).await;
    let taken = world.snapshot("first").await.unwrap();
    assert!(taken.memory && taken.size_mb > 0, "{taken:?}");
    assert_eq!(world.vm().await.state, VmState::Running);
    let reserved = machines.status().await.unwrap().used.disk_mb;
    assert_eq!(reserved, 256 + taken.size_mb, "it is not accounted for");
    world
        .run("echo two >/m/memory; echo two >/disk; sync")
        .await;
    let again = world.snapshot("first").await.unwrap_err();
    assert!(matches!(again, SnapshotError::Exists { .. }), "{again}");

    let process = processes_of(&world.host.data_dir());
    let error = machines.restore("web-1", "first", false).await.unwrap_err();
    assert!(matches!(error, RestoreError::Running { .. }), "{error}");
    let error = machines.restore("web-1", "second", true).await.unwrap_err();
    assert!(matches!(error, RestoreError::NoSuchSnapshot(_)), "{error}");
    assert_eq!(processes_of(&world.host.data_dir()), process);

    let before = world.vm().await;
    let restored = machines.restore("web-1", "first", true).await.unwrap();
    assert_eq!(restored.state, VmState::Running);
    assert_eq!(restored.id, before.id);
    assert!(restored.started_at > before.started_at);
    let process_now = processes_of(&world.host.data_dir());
    assert!(process_now.len() == 1 && process_now != process);
    world.host.until_ready("web-1").await;
    assert!(page(world.http).await.contains("Hello from web-1"));
    assert_eq!(world.run("cat /m/memory /disk").await, "one\none");
    world.until_the_clock_is_right().await;
    let ticks = "wc -l </m/ticks";
    let first: u32 = world.run(ticks).await.parse().unwrap();
    let second: u32 = world
        .run(&format!("sleep 0.5; {ticks}"))
        .await
        .parse()
        .unwrap();
    assert!(second > first, "what ran in it does not run on");

    // The next daemon knows it and the snapshot, and the guest ends cleanly.
    let world = world.restart().await;
    world.host.until_ready("web-1").await;
    assert_eq!(world.names().await, ["first"]);
    let used = world.host.machines.status().await.unwrap().used.disk_mb;
    assert_eq!(used, reserved);
    let stopped = world.host.machines.stop("web-1", PATIENCE).await.unwrap();
    assert_eq!(stopped.state, VmState::Stopped);

    // A VM that does not run has a disk to take, and comes back as it was: not running.
    let disk = world.dir().join("disk.ext4");
    let content = fs::read(&disk).unwrap();
    let taken = world.snapshot("disk-only").await.unwrap();
    assert!(!taken.memory);
    fs::write(&disk, vec![7; content.len()]).unwrap();
    let machines = &world.host.machines;
    let restored = machines.restore("web-1", "disk-only", false).await.unwrap();
    assert_eq!(restored.state, VmState::Stopped);
    assert!(fs::read(&disk).unwrap() == content);
    // And a running moment comes back to it without force, because nothing is lost by it.
    let restored = machines.restore("web-1", "first", false).await.unwrap();
    assert_eq!(restored.state, VmState::Running);
    assert_eq!(world.run("cat /m/memory").await, "one");

    machines.delete_snapshot("web-1", "first").await.unwrap();
    assert!(machines.delete_snapshot("web-1", "first").await.is_err());
    assert_eq!(world.names().await, ["disk-only"]);
    assert!(world.drafts().is_empty(), "{:?}", world.drafts());
    world.host.clear().await;
}

#[tokio::test]
async fn a_paused_vm_stands_still_through_a_restart_and_a_snapshot_until_it_is_told_to_go_on() {
    let world = World::new().await;
    let machines = &world.host.machines;
    world
        .run("(while :; do echo x >>/ticks; sleep 0.1; done >/dev/null 2>&1 &)")
        .await;
    let paused = machines.pause("web-1").await.unwrap();
    assert_eq!(
        (paused.state, &paused.state_reason),
        (VmState::Paused, &None)
    );
    assert_eq!(
        machines.pause("web-1").await.unwrap().state,
        VmState::Paused
    );
    let error = machines.restore("web-1", "x", false).await.unwrap_err();
    assert!(matches!(error, RestoreError::NoSuchSnapshot(_)), "{error}");

    let world = world.restart().await;
    assert_eq!(world.vm().await.state, VmState::Paused);
    world.snapshot("one").await.unwrap();
    assert_eq!(world.vm().await.state, VmState::Paused);
    // A second one in a row, which QEMU by itself refuses.
    world.snapshot("two").await.unwrap();
    let world = world.restart().await;
    let machines = &world.host.machines;
    assert_eq!(world.vm().await.state, VmState::Paused);
    assert_eq!(
        machines.resume("web-1").await.unwrap().state,
        VmState::Running
    );
    assert_eq!(
        machines.resume("web-1").await.unwrap().state,
        VmState::Running
    );
    page(world.http).await;

    machines.pause("web-1").await.unwrap();
    assert_eq!(
        machines.start("web-1").await.unwrap().state,
        VmState::Running
    );
    page(world.http).await;
    machines.restore("web-1", "two", true).await.unwrap();
    page(world.http).await;

    // To shut down, a paused guest has to run once more: its disk is closed.
    machines.pause("web-1").await.unwrap();
    let stopped = machines.stop("web-1", PATIENCE).await.unwrap();
    assert_eq!(stopped.state, VmState::Stopped);
    let checked = Command::new("/usr/sbin/dumpe2fs")
        .arg("-h")
        .arg(world.dir().join("disk.ext4"))
        .output()
        .unwrap();
    let features = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(features.contains("has_journal"), "{features}");
    assert!(
        !features.contains("needs_recovery"),
        "the disk was not closed"
    );
    for refused in [
        machines.pause("web-1").await,
        machines.resume("web-1").await,
    ] {
        let error = refused.unwrap_err();
        assert!(matches!(error, PauseError::NotRunning { .. }), "{error}");
    }
    world.host.clear().await;
}

#[tokio::test]
async fn a_snapshot_that_does_not_fit_or_is_damaged_is_refused_before_anything_is_touched() {
    let world = World::new().await;
    let machines = &world.host.machines;
    world.snapshot("good").await.unwrap();
    let process = processes_of(&world.host.data_dir());
    let place = world.dir().join("snapshots");
    let copy = |name: &str| {
        let to = place.join(name);
        fs::create_dir(&to).unwrap();
        for entry in fs::read_dir(place.join("good")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
        let manifest = to.join("snapshot.json");
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replace("\"good\"", &format!("\"{name}\""))).unwrap();
        to
    };
    let rewrite = |at: &Path, from: &str, to: &str| {
        let path = at.join("snapshot.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    };

    let flipped = copy("flipped");
    let mut memory = fs::read(flipped.join("memory")).unwrap();
    let middle = memory.len() / 2;
    memory[middle] ^= 1;
    fs::write(flipped.join("memory"), &memory).unwrap();
    let error = machines
        .restore("web-1", "flipped", true)
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::Damaged(_)), "{error}");
    assert!(error.to_string().contains("memory has changed"), "{error}");

    let version = "\"QEMU\": \"";
    for (from, to, what) in [
        ("\"cpus\": 1", "\"cpus\": 2", "number of CPUs"),
        ("\"memory_mb\": 192", "\"memory_mb\": 256", "memory"),
        (
            "\"disk_size_mb\": 256",
            "\"disk_size_mb\": 257",
            "disk size",
        ),
        ("\"kernel_sha256\": \"", "\"kernel_sha256\": \"0", "kernel"),
        (version, "\"QEMU\": \"1", "QEMU"),
        ("\"machine\": \"", "\"machine\": \"x", "machine"),
        ("\"devices\": \"", "\"devices\": \"virtio-rng ", "devices"),
    ] {
        let other = copy("other");
        rewrite(&other, from, to);
        let error = machines.restore("web-1", "other", true).await.unwrap_err();
        assert!(matches!(error, RestoreError::Incompatible(_)), "{error}");
        assert!(error.to_string().contains(what), "{what}: {error}");
        fs::remove_dir_all(other).unwrap();
    }
    assert_eq!(
        processes_of(&world.host.data_dir()),
        process,
        "it was touched"
    );
    assert_eq!(world.vm().await.state, VmState::Running);
    assert!(world.drafts().is_empty());

    // What only QEMU can notice costs the process that had to make room, and no more.
    let cut = copy("cut");
    let half = &fs::read(cut.join("memory")).unwrap()[..middle];
    fs::write(cut.join("memory"), half).unwrap();
    let manifest = cut.join("snapshot.json");
    let mut described: serde_json::Value =
        serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let files = described["files"].as_array_mut().unwrap();
    files.retain(|file| file["name"] != "memory");
    fs::write(&manifest, described.to_string()).unwrap();
    let error = machines.restore("web-1", "cut", true).await.unwrap_err();
    assert!(matches!(error, RestoreError::Start { .. }), "{error}");
    assert_eq!(world.vm().await.state, VmState::Stopped);
    assert!(processes_of(&world.host.data_dir()).is_empty());
    assert!(world.drafts().is_empty());

    // A VM that stands still is given a process while its snapshot is read, which may be in vain.
    let disk = fs::read(world.dir().join("disk.ext4")).unwrap();
    let error = machines
        .restore("web-1", "flipped", false)
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::Damaged(_)), "{error}");
    assert_eq!(world.vm().await.state, VmState::Stopped);
    assert!(processes_of(&world.host.data_dir()).is_empty());
    assert!(world.drafts().is_empty());
    assert!(disk == fs::read(world.dir().join("disk.ext4")).unwrap());
    machines.restore("web-1", "good", false).await.unwrap();
    page(world.http).await;
    world.host.clear().await;
}

#[tokio::test]
async fn a_disk_that_fills_up_leaves_no_snapshot_and_a_vm_that_runs_on() {
    let world = World::new().await;
    let place = world.dir().join("snapshots");
    fs::create_dir(&place).unwrap();
    // What the host says is free is elsewhere, as when another program takes it meanwhile.
    let Some(small) = Filesystem::mount(&place, "size=24m") else {
        return;
    };
    let error = world.snapshot("big").await.unwrap_err();
    let SnapshotError::Storage(storage) = &error else {
        panic!("{error}")
    };
    assert_eq!(storage.kind(), std::io::ErrorKind::StorageFull, "{error}");
    assert_eq!(world.vm().await.state, VmState::Running);
    assert!(world.drafts().is_empty() && world.names().await.is_empty());
    let used = world.host.machines.status().await.unwrap().used.disk_mb;
    assert_eq!(used, 256, "what was not taken is accounted for");
    page(world.http).await;
    drop(small);
    world.snapshot("small").await.unwrap();
    world.host.clear().await;
}

#[tokio::test]
async fn a_vm_has_no_more_snapshots_than_it_may_and_takes_all_of_them_with_it() {
    let host = Host::new().await;
    let machines = &host.machines;
    machines.create(small("web-1")).await.unwrap();
    for _ in 0..32 {
        machines.snapshot("web-1", None).await.unwrap();
    }
    let error = machines.snapshot("web-1", None).await.unwrap_err();
    assert!(matches!(error, SnapshotError::TooMany { .. }), "{error}");
    let snapshots = machines.snapshots("web-1").await.unwrap();
    assert_eq!(snapshots.len(), 32);
    assert!(snapshots.is_sorted_by_key(|snapshot| snapshot.created_at));
    let oldest = snapshots[0].name.as_str();
    machines.delete_snapshot("web-1", oldest).await.unwrap();
    let name = "again".parse().unwrap();
    machines.snapshot("web-1", Some(name)).await.unwrap();
    machines.delete("web-1", false).await.unwrap();
    assert_eq!(machines.status().await.unwrap().used.disk_mb, 0);
    host.clear().await;
}
