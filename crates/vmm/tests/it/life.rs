//! The life of a VM that nothing goes wrong with.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hostler_vmm::{CreateVm, ImportImage, VmState};

use crate::support::{Host, PATIENCE, forward, free_port, page, processes_of, small};

#[tokio::test]
async fn a_vm_boots_answers_and_stops_cleanly() {
    let host = Host::new().await;
    let port = free_port();
    let request = CreateVm {
        port_forwards: vec![forward(port, 80)],
        ..small("web-1")
    };
    let created = host.machines.create(request).await.unwrap();
    assert_eq!(created.state, VmState::Created);
    assert!(created.started_at.is_none() && created.ready_at.is_none());

    let started = host.machines.start("web-1").await.unwrap();
    assert_eq!(started.state, VmState::Running);
    let again = host.machines.start("web-1").await.unwrap();
    assert_eq!(
        again.started_at, started.started_at,
        "a second start started it again"
    );
    let processes = processes_of(&host.data_dir());
    assert_eq!(processes.len(), 1);
    assert_eq!(
        niceness_of_threads(processes[0]),
        BTreeSet::from([5]),
        "the rest of the host goes first"
    );

    let ready = host.until_ready("web-1").await;
    assert!(ready.ready_at > ready.started_at);
    assert!(page(port).await.contains("Hello from web-1"));

    let stopped = host.machines.stop("web-1", PATIENCE).await.unwrap();
    assert_eq!(
        (stopped.state, stopped.state_reason),
        (VmState::Stopped, None)
    );
    assert!(stopped.started_at.is_none());
    assert!(processes_of(&host.data_dir()).is_empty());
    let disk = host.data_dir().join("vms/web-1/disk.ext4");
    let checked = Command::new("/usr/sbin/dumpe2fs")
        .arg("-h")
        .arg(&disk)
        .output()
        .unwrap();
    let features = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(features.contains("has_journal"), "{features}");
    assert!(
        !features.contains("needs_recovery"),
        "the disk was not closed"
    );
    host.machines.stop("web-1", PATIENCE).await.unwrap();

    // What was on the disk is still there, and it boots from it again.
    host.machines.start("web-1").await.unwrap();
    assert!(page(port).await.contains("Hello from web-1"));
    host.clear().await;
}

/// Field 19 of `/proc/PID/task/TID/stat` (proc(5)).
fn niceness_of_threads(pid: i32) -> BTreeSet<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stats = threads.filter_map(|it| fs::read_to_string(it.unwrap().path().join("stat")).ok());
    let niceness = |stat: String| {
        let (_, fields) = stat.rsplit_once(')').unwrap();
        fields.split_whitespace().nth(16).unwrap().parse().unwrap()
    };
    stats.map(niceness).collect()
}

#[tokio::test]
async fn the_given_key_and_no_other_opens_ssh_and_the_disk_has_its_size() {
    let host = Host::new().await;
    let keys = tempfile::tempdir().unwrap();
    let make_key = |name: &str| {
        let path = keys.path().join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-C", "test key", "-f"])
            .arg(&path)
            .status();
        assert!(made.unwrap().success());
        path
    };
    let (key, other) = (make_key("key"), make_key("other"));
    let port = free_port();
    let request = CreateVm {
        ssh_public_key: Some(fs::read_to_string(key.with_extension("pub")).unwrap()),
        port_forwards: vec![forward(port, 22)],
        cpus: 2,
        disk_size_mb: 700,
        dns_servers: vec!["9.9.9.9".parse().unwrap()],
        ..small("web-2")
    };
    host.machines.create(request).await.unwrap();
    host.machines.start("web-2").await.unwrap();
    host.until_ready("web-2").await;

    let ssh = |identity: std::path::PathBuf, command: &'static str| {
        tokio::task::spawn_blocking(move || {
            Command::new("ssh")
                .args([
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
                .args(["-o", "ConnectTimeout=20", "-o", "LogLevel=ERROR"])
                .arg("-i")
                .arg(identity)
                .args(["-p", &port.to_string(), "root@127.0.0.1", command])
                .stdin(Stdio::null())
                .output()
                .unwrap()
        })
    };
    let command = "hostname; nproc; cat /etc/resolv.conf; df -m / | tail -1; date +%s";
    let deadline = Instant::now() + PATIENCE;
    let answer = loop {
        let output = ssh(key.clone(), command).await.unwrap();
        if output.status.success() {
            break String::from_utf8(output.stdout).unwrap();
        }
        // The port is open before the guest's server is.
        assert!(Instant::now() < deadline, "{output:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let lines: Vec<&str> = answer.lines().collect();
    assert_eq!(lines[..3], ["web-2", "2", "nameserver 9.9.9.9"]);
    let size: u64 = lines[3].split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((600..=700).contains(&size), "{answer}");
    let clock: i64 = lines[4].parse().unwrap();
    assert!(
        (clock - jiff::Timestamp::now().as_second()).abs() < 120,
        "the clock is wrong"
    );

    assert!(
        !ssh(other, "true").await.unwrap().status.success(),
        "another key got in"
    );
    host.clear().await;
}

#[tokio::test]
async fn a_port_can_be_forwarded_while_the_vm_runs_and_it_stays() {
    let host = Host::new().await;
    host.machines.create(small("web-3")).await.unwrap();
    host.machines.start("web-3").await.unwrap();
    let port = free_port();
    let vm = host
        .machines
        .port_forward("web-3", forward(port, 80))
        .await
        .unwrap();
    assert_eq!(vm.port_forwards, [forward(port, 80)]);
    let again = host
        .machines
        .port_forward("web-3", forward(port, 80))
        .await
        .unwrap();
    assert_eq!(
        again.port_forwards, vm.port_forwards,
        "the same forward was added twice"
    );
    assert!(page(port).await.contains("Hello from web-3"));

    host.machines.stop("web-3", PATIENCE).await.unwrap();
    host.machines.start("web-3").await.unwrap();
    assert!(page(port).await.contains("Hello from web-3"));
    host.clear().await;
}

#[tokio::test]
async fn everything_about_a_vm_is_private_to_its_owner() {
    let host = Host::new().await;
    host.machines.create(small("web-4")).await.unwrap();
    host.machines.start("web-4").await.unwrap();
    let dir = host.data_dir().join("vms/web-4");
    for path in [host.data_dir(), host.data_dir().join("vms"), dir.clone()] {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", path.display());
    }
    for file in ["vm.json", "disk.ext4", "initrd"] {
        let mode = fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }
    host.clear().await;
}

#[tokio::test]
async fn the_host_counts_what_vms_reserve_and_says_why_it_runs_them_as_it_does() {
    let host = Host::new().await;
    let before = host.machines.status().await.unwrap();
    host.machines.create(small("web-5")).await.unwrap();
    let after = host.machines.status().await.unwrap();
    assert_eq!((after.total_vms, after.running_vms), (1, 0));
    assert_eq!(
        (after.used.cpus, after.used.memory_mb, after.used.disk_mb),
        (1, 192, 256)
    );
    assert_eq!(after.available.memory_mb, before.available.memory_mb - 192);
    let driver = after.drivers.iter().find(|driver| driver.selected).unwrap();
    assert!(!driver.reason.is_empty() && driver.capabilities.is_some());

    let begun = Instant::now();
    assert_eq!(host.machines.health(), hostler_vmm::Health::Healthy);
    assert!(begun.elapsed() < Duration::from_secs(1));
    host.clear().await;
}

#[tokio::test]
async fn the_bare_command_boots_the_same_vm() {
    let host = Host::new().await;
    let port = free_port();
    let request = CreateVm {
        port_forwards: vec![forward(port, 80)],
        ..small("web-6")
    };
    host.machines.create(request).await.unwrap();
    let command = host.machines.boot_command("web-6").await.unwrap();
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .spawn()
        .unwrap();
    assert!(page(port).await.contains("Hello from web-6"));
    child.kill().unwrap();
    child.wait().unwrap();
    host.clear().await;
}

#[tokio::test]
async fn an_imported_root_file_system_boots() {
    let host = Host::new().await;
    // The default image, taken apart and packed as somebody else would pack theirs.
    let work = tempfile::tempdir().unwrap();
    let tree = work.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let image = host.data_dir().join("images/debian-minimal/root.ext4");
    let dump = format!("rdump / {}", tree.display());
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    run(Command::new("/usr/sbin/debugfs")
        .args(["-R", &dump])
        .arg(&image)
        .stderr(Stdio::null()));
    let archive = work.path().join("root.tar");
    run(Command::new("tar")
        .arg("-cf")
        .arg(&archive)
        .arg("-C")
        .arg(&tree)
        .arg("."));

    let request = ImportImage {
        source: archive.to_str().unwrap().to_owned(),
        name: "mine".parse().unwrap(),
        size_mb: None,
        credentials: None,
    };
    let imported = host
        .machines
        .images()
        .import(request, &|_| {})
        .await
        .unwrap();
    assert!(imported.size_mb < 256);
    let port = free_port();
    let request = CreateVm {
        image: Some("mine".parse().unwrap()),
        port_forwards: vec![forward(port, 80)],
        ..small("web-7")
    };
    host.machines.create(request).await.unwrap();
    host.machines.start("web-7").await.unwrap();
    assert!(page(port).await.contains("Hello from web-7"));
    host.clear().await;
}

#[tokio::test]
async fn a_data_directory_too_deep_for_sockets_works_all_the_same() {
    let host = Host::in_directory(&"a-rather-long-name/".repeat(6)).await;
    host.machines.images().pull(&|_| {}).await.unwrap();
    host.machines.create(small("web-8")).await.unwrap();
    host.machines.start("web-8").await.unwrap();
    host.until_ready("web-8").await;
    let host = host.restart().await;
    host.until_ready("web-8").await;
    host.machines.stop("web-8", PATIENCE).await.unwrap();
    host.clear().await;
}
