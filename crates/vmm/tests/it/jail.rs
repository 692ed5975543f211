//! VMs in jails: with the real jailer beside the real Firecracker (`HOSTLER_JAILER`), else a strict
//! stand-in. Jails need root; elsewhere there is nothing to show, and that is said.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use hostler_vmm::{Config, DriverChoice, JailConfig, LeakKind, Machines, VmState};

use crate::firecracker::{Site, program};
use crate::support::{PATIENCE, processes_of, small};

const FIRST: u32 = 910_000;

pub(crate) fn jailer() -> Option<PathBuf> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: jails need root");
        return None;
    }
    match (program().1, std::env::var_os("HOSTLER_JAILER")) {
        (false, _) => Some(env!("CARGO_BIN_EXE_jailer-standin").into()),
        (true, Some(real)) => Some(real.into()),
        (true, None) => {
            eprintln!("skipped: HOSTLER_JAILER does not say where the real jailer is");
            None
        }
    }
}

pub(crate) fn confine(config: &mut Config, jailer: PathBuf) {
    let mut jail = JailConfig::new(jailer);
    (jail.first_id, jail.last_id) = (FIRST, FIRST + 9);
    config.jail = Some(jail);
}

#[tokio::test]
async fn each_vm_runs_as_a_user_of_its_own_in_a_root_of_its_own_and_leaves_neither() {
    let Some(jailer) = jailer() else { return };
    let site = Site::with(|config| confine(config, jailer)).await;
    let machines = &site.host.machines;
    machines.images().pull(&|_| {}).await.unwrap();
    let reason = machines.status().await.unwrap().drivers[0].reason.clone();
    assert!(
        reason.contains("in a jail") && reason.contains("910000"),
        "{reason}"
    );

    for name in ["one", "two"] {
        machines.create(small(name)).await.unwrap();
        machines.start(name).await.unwrap();
    }
    for name in ["one", "two"] {
        site.host.until_ready(name).await;
    }
    let pids = processes_of(&site.host.data_dir());
    assert_eq!(pids.len(), 2, "{pids:?}");
    let mut users = Vec::new();
    for pid in &pids {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = |key: &str| status.lines().find(|line| line.starts_with(key)).unwrap();
        assert!(line("NSpid:").ends_with("\t1"), "{}", line("NSpid:"));
        let ids: Vec<u32> = ["Uid:", "Gid:"]
            .iter()
            .flat_map(|key| line(key).split_whitespace().skip(1))
            .map(|id| id.parse().unwrap())
            .collect();
        assert!(
            ids.iter().all(|id| *id == ids[0] && *id >= FIRST),
            "{ids:?}"
        );
        users.push(ids[0]);
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let open_files = limits
            .lines()
            .find(|line| line.starts_with("Max open files"));
        assert!(open_files.unwrap().contains(" 1024 "), "{limits}");
        // Its root has the VM's files and nothing of the host's.
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        assert!(root.join("kernel").exists() && root.join("dev/kvm").exists());
        assert!(!root.join("etc").exists() && !root.join("proc").exists());
        assert_eq!(fs::metadata(root.join("disk")).unwrap().uid(), ids[0]);
        assert_eq!(
            fs::metadata(root.join("kernel")).unwrap().mode() & 0o777,
            0o444
        );
    }
    assert_ne!(users[0], users[1], "two VMs share a user");

    // The daemon goes and comes; the VM ends cleanly, and quickly, though SIGTERM says nothing to it.
    let data_dir = site.host.data_dir();
    let host = site.host.restart().await;
    assert_eq!(processes_of(&data_dir), pids);
    let stopped = host.machines.stop("one", PATIENCE).await.unwrap();
    assert_eq!(
        (stopped.state, stopped.state_reason),
        (VmState::Stopped, None)
    );
    host.machines.stop("two", Duration::ZERO).await.unwrap();
    assert!(processes_of(&data_dir).is_empty());
    let jails = data_dir.join("jail/firecracker-standin");
    let left = fs::read_dir(&jails).map_or(0, Iterator::count);
    assert_eq!(left, 0, "jails are left in {}", jails.display());
    host.machines.start("one").await.unwrap();
    host.until_ready("one").await;
    host.clear().await;
}

#[tokio::test]
async fn jails_whose_vm_is_gone_are_swept_away_at_the_next_start() {
    let Some(jailer) = jailer() else { return };
    let site = Site::with(|config| confine(config, jailer)).await;
    let data_dir = site.host.data_dir();
    site.host.machines.images().pull(&|_| {}).await.unwrap();
    site.host.machines.create(small("alive")).await.unwrap();
    site.start("alive").await.unwrap();
    site.host.until_ready("alive").await;
    let orphan = data_dir.join("jail/firecracker-1.0/0196f000-0000-7000-8000-000000000000/root");
    fs::create_dir_all(orphan.join("dev")).unwrap();
    let leaks = site.host.machines.leaks().await;
    assert_eq!(leaks.len(), 1, "{leaks:?}");
    assert_eq!(leaks[0].kind, LeakKind::Jail);
    let host = site.host.restart().await;
    assert!(!orphan.parent().unwrap().exists());
    host.until_ready("alive").await;
    assert!(host.machines.leaks().await.is_empty());
    host.clear().await;
}

#[tokio::test]
async fn a_jail_that_cannot_be_is_an_error_and_no_vm_runs_without_it() {
    let Some(jailer) = jailer() else { return };
    let dir = tempfile::tempdir().unwrap();
    let config = |place: &str, change: &dyn Fn(&mut JailConfig)| {
        let mut config = Config::new(dir.path().join(place));
        config.driver = DriverChoice::Firecracker;
        config.firecracker_binary = program().0;
        let mut jail = JailConfig::new(&jailer);
        change(&mut jail);
        config.jail = Some(jail);
        config
    };
    type Change<'a> = &'a dyn Fn(&mut JailConfig);
    let cases: [(Change<'_>, &str); 4] = [
        (
            &|jail| jail.jailer_binary = "/nowhere/jailer".into(),
            "is not there",
        ),
        (&|jail| jail.first_id = 0, "must not hold root"),
        (
            &|jail| jail.base_dir = Some("/proc".into()),
            "cannot create",
        ),
        (
            &|jail| jail.netns = Some("/nowhere/netns".into()),
            "namespace is not there",
        ),
    ];
    for (change, words) in cases {
        let error = Machines::open(config(words, change))
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(words), "{error}");
    }
}
