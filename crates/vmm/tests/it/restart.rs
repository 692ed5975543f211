//! What becomes of VMs when their daemon dies.

use std::fs;
use std::time::Duration;

use hostler_vmm::{
    Config, CreateError, CreateVm, DeleteError, Health, LeakKind, Machines, OpenError,
    RestartPolicy, Vm, VmState,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Host, PATIENCE, eventually, forward, free_port, page, processes_of, small};

#[tokio::test]
async fn a_vm_outlives_its_daemon_and_is_adopted_by_the_next() {
    let host = Host::new().await;
    let (port, later) = (free_port(), free_port());
    let request = CreateVm {
        port_forwards: vec![forward(port, 80)],
        ..small("web-1")
    };
    host.machines.create(request).await.unwrap();
    let started = host.machines.start("web-1").await.unwrap();
    let process = processes_of(&host.data_dir());
    for pid in &process {
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        let names: Vec<_> = environment
            .split_terminator('\0')
            .filter_map(|variable| variable.split_once('='))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(
            names,
            ["PATH"],
            "a guest's process knows of our environment"
        );
    }

    // Before the guest is up: the next daemon hears that it is.
    let host = host.restart().await;
    let adopted = host.until_ready("web-1").await;
    assert_eq!(
        (adopted.id, adopted.started_at),
        (started.id, started.started_at)
    );
    assert_eq!(
        processes_of(&host.data_dir()),
        process,
        "it was started again"
    );
    page(port).await;

    // And after: it can be worked with as before.
    let host = host.restart().await;
    let adopted_again = host.machines.get("web-1").await.unwrap();
    assert_eq!(adopted_again.ready_at, adopted.ready_at);
    host.machines
        .port_forward("web-1", forward(later, 80))
        .await
        .unwrap();
    page(later).await;
    let stopped = host.machines.stop("web-1", PATIENCE).await.unwrap();
    assert_eq!(stopped.state, VmState::Stopped);
    host.clear().await;
}

#[tokio::test]
async fn a_vm_that_died_with_its_daemon_is_found_stopped_and_starts_by_itself_if_it_should() {
    let host = Host::new().await;
    host.machines.create(small("plain")).await.unwrap();
    host.machines
        .create(CreateVm {
            auto_start: true,
            ..small("eager")
        })
        .await
        .unwrap();
    host.machines.start("plain").await.unwrap();
    host.machines.start("eager").await.unwrap();
    let processes = processes_of(&host.data_dir());
    assert_eq!(processes.len(), 2);
    let data_dir = host.data_dir();
    // The keepers must not see the end, as when the whole host lost its power.
    let host = host.restart_after(|| kill_all(&processes)).await;
    assert_eq!(
        host.machines.get("plain").await.unwrap().state,
        VmState::Stopped
    );
    host.until("eager", |vm| vm.state == VmState::Running).await;
    assert_eq!(processes_of(&data_dir).len(), 1);

    // Somebody stopped it: then it stays stopped.
    host.machines.stop("eager", Duration::ZERO).await.unwrap();
    let host = host.restart().await;
    assert_eq!(
        host.machines.get("eager").await.unwrap().state,
        VmState::Stopped
    );
    host.clear().await;
}

#[tokio::test]
async fn a_process_that_is_killed_leaves_an_error_with_a_reason_and_can_be_started_again() {
    let host = Host::new().await;
    host.machines.create(small("web-1")).await.unwrap();
    host.machines.start("web-1").await.unwrap();
    kill_all(&processes_of(&host.data_dir()));
    let failed = host.until("web-1", |vm| vm.state == VmState::Error).await;
    assert!(failed.state_reason.unwrap().contains("killed"));
    host.machines.start("web-1").await.unwrap();
    host.until_ready("web-1").await;
    host.clear().await;
}

#[tokio::test]
async fn a_start_that_nobody_could_write_down_is_taken_over() {
    let host = Host::new().await;
    host.machines.create(small("web-1")).await.unwrap();
    let record = host.data_dir().join("vms/web-1/vm.json");
    let before = fs::read(&record).unwrap();
    host.machines.start("web-1").await.unwrap();
    // As if the daemon had died between the launch and its record: first the record is put back,
    // while nobody is there to change it.
    let host = host
        .restart_after(|| fs::write(&record, &before).unwrap())
        .await;
    let vm = host.machines.get("web-1").await.unwrap();
    assert_eq!(vm.state, VmState::Running);
    host.until_ready("web-1").await;
    host.clear().await;
}

#[tokio::test]
async fn a_second_daemon_is_refused() {
    let host = Host::bare().await;
    let second = Machines::open(Config::new(host.data_dir())).await;
    let error = second.err().unwrap();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("another daemon"), "{error}");
}

#[tokio::test]
async fn a_damaged_record_costs_its_vm_and_not_the_others() {
    let host = Host::new().await;
    host.machines.create(small("good")).await.unwrap();
    host.machines.create(small("bad")).await.unwrap();
    let record = host.data_dir().join("vms/bad/vm.json");
    let half = fs::read(&record).unwrap();
    let host = host
        .restart_after(|| fs::write(&record, &half[..half.len() / 2]).unwrap())
        .await;
    let names: Vec<_> = host
        .machines
        .list()
        .await
        .into_iter()
        .map(|vm| vm.name)
        .collect();
    assert_eq!(
        names.iter().map(|name| name.as_str()).collect::<Vec<_>>(),
        ["good"]
    );
    let Health::Degraded { reasons } = host.machines.health() else {
        panic!("it says all is well")
    };
    assert!(reasons[0].contains("bad/vm.json is damaged"), "{reasons:?}");
    // Perhaps it runs; nobody is told that it is gone.
    let error = host.machines.delete("bad", true).await.unwrap_err();
    assert!(matches!(error, DeleteError::Damaged { .. }), "{error}");
    // Nor does another take its place, and what is left of it.
    let error = host.machines.create(small("bad")).await.unwrap_err();
    assert!(matches!(error, CreateError::Exists { .. }), "{error}");
    assert!(error.to_string().contains("bad"), "{error}");
    assert_eq!(fs::read(&record).unwrap(), half[..half.len() / 2]);
}

#[tokio::test]
async fn a_pipe_in_the_place_of_a_record_costs_its_vm_and_blocks_nobody() {
    let host = Host::new().await;
    host.machines.create(small("good")).await.unwrap();
    host.machines.create(small("bad")).await.unwrap();
    let record = host.data_dir().join("vms/bad/vm.json");
    let restarting = host.restart_after(|| {
        fs::remove_file(&record).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&record).status();
        assert!(made.unwrap().success());
    });
    let host = tokio::time::timeout(PATIENCE, restarting).await.unwrap();
    assert_eq!(host.machines.list().await.len(), 1);
    let Health::Degraded { reasons } = host.machines.health() else {
        panic!("it says all is well")
    };
    assert!(reasons[0].contains("not a regular file"), "{reasons:?}");
    assert!(host.machines.leaks().await.is_empty());
}

#[tokio::test]
async fn a_vm_that_is_killed_comes_back_if_it_should_and_is_given_up_after_its_limit() {
    let host = Host::new().await;
    let request = CreateVm {
        restart_policy: RestartPolicy::OnFailure,
        restart_limit: 1,
        ..small("web-1")
    };
    host.machines.create(request).await.unwrap();
    let first = host.machines.start("web-1").await.unwrap();
    kill_all(&processes_of(&host.data_dir()));
    let again = |vm: &Vm| vm.state == VmState::Running && vm.started_at != first.started_at;
    let back = host.until("web-1", again).await;
    assert_eq!((back.restarts, back.next_restart_at), (1, None));
    // The keepers do not see the end; the next daemon decides by the same rule.
    let processes = processes_of(&host.data_dir());
    let host = host.restart_after(|| kill_all(&processes)).await;
    let given_up = host.until("web-1", |vm| vm.state == VmState::Error).await;
    let reason = given_up.state_reason.unwrap();
    assert!(reason.contains("given up"), "{reason}");
    // Whoever starts it by hand begins anew.
    let started = host.machines.start("web-1").await.unwrap();
    assert_eq!((started.state, started.restarts), (VmState::Running, 0));
    host.machines.stop("web-1", Duration::ZERO).await.unwrap();
    assert!(host.machines.leaks().await.is_empty());
    host.clear().await;
}

#[tokio::test]
async fn a_restart_that_was_decided_outlives_its_daemon_and_a_stop_takes_it_back() {
    let host = Host::new().await;
    for name in ["comes", "stays"] {
        let request = CreateVm {
            restart_policy: RestartPolicy::Always,
            ..small(name)
        };
        host.machines.create(request).await.unwrap();
        host.machines.start(name).await.unwrap();
    }
    kill_all(&processes_of(&host.data_dir()));
    for name in ["comes", "stays"] {
        host.until(name, |vm| vm.next_restart_at.is_some() || vm.restarts > 0)
            .await;
    }
    host.machines.stop("stays", Duration::ZERO).await.unwrap();
    let host = host.restart().await;
    host.until("comes", |vm| vm.state == VmState::Running).await;
    let stays = host.machines.get("stays").await.unwrap();
    assert_eq!(
        (stays.state, stays.next_restart_at),
        (VmState::Stopped, None)
    );
    host.clear().await;
}

#[tokio::test]
async fn a_restored_vm_is_not_started_again_for_what_it_was_before() {
    let host = Host::new().await;
    let request = CreateVm {
        restart_policy: RestartPolicy::Always,
        ..small("web-1")
    };
    host.machines.create(request).await.unwrap();
    host.machines.start("web-1").await.unwrap();
    host.until_ready("web-1").await;
    let name = Some("good".parse().unwrap());
    host.machines.snapshot("web-1", name).await.unwrap();
    kill_all(&processes_of(&host.data_dir()));
    let again = |vm: &Vm| vm.state == VmState::Running && vm.restarts == 1;
    host.until("web-1", again).await;
    kill_all(&processes_of(&host.data_dir()));
    host.until("web-1", |vm| vm.next_restart_at.is_some()).await;
    let restored = host.machines.restore("web-1", "good", true).await.unwrap();
    assert_eq!((restored.restarts, restored.next_restart_at), (0, None));
    host.machines.stop("web-1", Duration::ZERO).await.unwrap();
    host.clear().await;
}

#[tokio::test]
async fn a_process_whose_vm_is_gone_is_a_leak_and_ended_by_the_next_daemon() {
    let host = Host::new().await;
    host.machines.create(small("web-1")).await.unwrap();
    host.machines.start("web-1").await.unwrap();
    let process = processes_of(&host.data_dir());
    let place = host.data_dir().join("vms/web-1");
    // As if the directory had been removed by hand while no daemon was there.
    let aside = host.data_dir().join("aside");
    let host = host
        .restart_after(|| fs::rename(&place, &aside).unwrap())
        .await;
    assert!(host.machines.list().await.is_empty());
    let gone = || processes_of(&host.data_dir()).is_empty();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !gone() {
        assert!(std::time::Instant::now() < deadline, "{process:?} runs on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(host.machines.leaks().await.is_empty());
}

#[tokio::test]
async fn what_interrupted_work_left_is_swept_away() {
    let host = Host::bare().await;
    let leftover = host.data_dir().join("vms/.draft-1");
    fs::create_dir(&leftover).unwrap();
    fs::write(leftover.join("vm.json"), "{").unwrap();
    let host = host.restart().await;
    assert!(!leftover.exists());
    assert!(host.machines.list().await.is_empty());
}

#[tokio::test]
async fn what_interrupted_work_left_in_a_shared_cache_is_swept_once_its_maker_is_gone() {
    let cache = tempfile::tempdir().unwrap();
    let draft = cache.path().join("builds/.draft-1");
    fs::create_dir_all(draft.join("linux-image")).unwrap();
    // Another daemon on the same cache, at work.
    let mut maker = std::process::Command::new("flock")
        .arg("--no-fork")
        .arg(&draft)
        .args(["sleep", "600"])
        .spawn()
        .unwrap();
    let locks = || fs::File::open(&draft).unwrap().try_lock().is_ok();
    eventually("the maker is at work", || !locks()).await;
    let configure = |config: &mut Config| config.cache_dir = cache.path().to_owned();
    let host = Host::configured(configure).await;
    assert!(draft.exists(), "it was taken from its maker");
    maker.kill().unwrap();
    maker.wait().unwrap();
    let _host = host.restart().await;
    assert!(!draft.exists());
}

#[tokio::test]
async fn sockets_of_a_start_that_was_interrupted_are_leaks_and_removed_by_the_next_daemon() {
    let host = Host::new().await;
    host.machines.create(small("web-1")).await.unwrap();
    let socket = host.data_dir().join("vms/web-1/share0.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let leaks = host.machines.leaks().await;
    let [leak] = &leaks[..] else {
        panic!("{leaks:?}");
    };
    assert_eq!(leak.kind, LeakKind::Socket);
    let host = host.restart().await;
    assert!(!socket.exists());
    assert!(host.machines.leaks().await.is_empty());
    host.clear().await;
}

fn kill_all(pids: &[i32]) {
    for pid in pids {
        kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
    }
}
