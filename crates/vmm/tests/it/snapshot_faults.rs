//! Daemons that die while they take a snapshot, or restore one.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use hostler_vmm::{Config, Machines, RestartPolicy, VmState};

use crate::snapshots::World;
use crate::support::{PATIENCE, page, processes_of};

const DIRECTORY: &str = "HOSTLER_TEST_DIRECTORY";
const WORK: &str = "HOSTLER_TEST_WORK";

#[tokio::test]
#[ignore = "it is run by the next test, in a process that is to die"]
async fn a_daemon_that_reaches_a_fault_point() {
    let (Ok(directory), Ok(work)) = (std::env::var(DIRECTORY), std::env::var(WORK)) else {
        panic!("{DIRECTORY} and {WORK} say where and what it is to do");
    };
    let machines = Machines::open(Config::new(directory)).await.unwrap();
    if work == "snapshot" {
        let name = Some("new".parse().unwrap());
        let taken = machines.snapshot("web-1", name).await;
        panic!("it lived on: {taken:?}");
    }
    let restored = machines.restore("web-1", "old", true).await;
    panic!("it lived on: {restored:?}");
}

/// Lets another daemon do this work and die at this point, then comes back.
async fn after_dying(world: World, work: &'static str, point: &'static str) -> World {
    let data_dir = world.host.data_dir();
    let name = "snapshot_faults::a_daemon_that_reaches_a_fault_point";
    let die = move || {
        let died = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--ignored"])
            .env("HOSTLER_FAULT_POINT", point)
            .env(DIRECTORY, data_dir)
            .env(WORK, work)
            .output()
            .unwrap();
        assert_eq!(died.status.signal(), Some(6), "{point}: {died:?}");
    };
    let host = world.host.restart_after(die).await;
    World { host, ..world }
}

// The closed conversations of the earlier daemon go away while this thread waits for the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_dies_at_any_step_leaves_a_whole_vm_and_no_half_snapshot() {
    let mut world = World::new().await;
    world
        .run("mkdir -p /m && mount -t tmpfs none /m && echo old >/m/value")
        .await;
    world.snapshot("old").await.unwrap();
    for point in [
        "snapshot.paused",
        "snapshot.copied",
        "snapshot.described",
        "snapshot.appeared",
    ] {
        world = after_dying(world, "snapshot", point).await;
        assert_eq!(world.vm().await.state, VmState::Running, "{point}");
        let appeared = point == "snapshot.appeared";
        assert_eq!(
            world.names().await.len(),
            1 + usize::from(appeared),
            "{point}"
        );
        assert!(world.drafts().is_empty(), "{point}: {:?}", world.drafts());
        page(world.http).await;
    }
    // Over a VM that runs.
    for (point, state) in [
        ("restore.copied", VmState::Running),
        ("restore.ended", VmState::Error),
        ("restore.loaded", VmState::Error),
        ("restore.exchanged", VmState::Error),
        ("restore.completed", VmState::Error),
        ("restore.recorded", VmState::Running),
    ] {
        world = after_dying(world, "restore", point).await;
        let vm = world.vm().await;
        assert_eq!(vm.state, state, "{point}");
        let told = vm.state_reason.is_some_and(|why| why.contains("restored"));
        assert_eq!(told, state == VmState::Error, "{point}");
        assert!(world.drafts().is_empty(), "{point}: {:?}", world.drafts());
        let running = usize::from(state == VmState::Running);
        assert_eq!(
            processes_of(&world.host.data_dir()).len(),
            running,
            "{point}"
        );
        if state == VmState::Error {
            world
                .host
                .machines
                .restore("web-1", "new", false)
                .await
                .unwrap();
        }
        page(world.http).await;
        assert_eq!(world.run("cat /m/value").await, "old", "{point}");
    }
    // Over one that does not: its process is there before its disk is.
    world.host.machines.stop("web-1", PATIENCE).await.unwrap();
    let disk = |world: &World| fs::read(world.dir().join("disk.ext4")).unwrap();
    let before = disk(&world);
    for (point, restored) in [
        ("start.plugged", false),
        ("start.spawned", false),
        ("restore.loaded", false),
        ("restore.copied", false),
        ("restore.exchanged", true),
        ("restore.completed", true),
    ] {
        world = after_dying(world, "restore", point).await;
        assert_eq!(world.vm().await.state, VmState::Stopped, "{point}");
        assert!(world.drafts().is_empty(), "{point}: {:?}", world.drafts());
        assert!(processes_of(&world.host.data_dir()).is_empty(), "{point}");
        assert_eq!(disk(&world) != before, restored, "{point}");
    }
    world.host.clear().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_is_always_to_run_does_after_a_daemon_that_died_restoring_it() {
    let mut world = World::with(RestartPolicy::Always).await;
    world.snapshot("old").await.unwrap();
    for point in [
        "stop.intended",
        "stop.ended",
        "restore.ended",
        "restore.loaded",
        "restore.exchanged",
        "restore.completed",
        "restore.recorded",
    ] {
        world = after_dying(world, "restore", point).await;
        page(world.http).await;
        assert_eq!(world.vm().await.state, VmState::Running, "{point}");
        assert_eq!(processes_of(&world.host.data_dir()).len(), 1, "{point}");
        assert!(world.drafts().is_empty(), "{point}: {:?}", world.drafts());
    }
    world.host.clear().await;
}
