//! A VMM that hangs, one that talks nonsense, and a guest that never gets ready.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use hostler_vmm::{Config, CreateError, Machines, StartError, Vm, VmState};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Host, PATIENCE, forward, free_port, processes_of, small};

/// Starts a VM, and says which process runs it.
async fn started(host: &Host) -> i32 {
    host.machines.create(small("web-1")).await.unwrap();
    host.machines.start("web-1").await.unwrap();
    let [pid] = processes_of(&host.data_dir())[..] else {
        panic!("one process runs a VM")
    };
    pid
}

#[tokio::test]
async fn a_vmm_that_hangs_keeps_nobody_waiting_and_can_be_ended() {
    let host = Host::new().await;
    let pid = started(&host).await;
    let signal = |signal| kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    // Before its guest can be up, so that it never gets ready either.
    signal(Signal::STOP);
    let vm = host.machines.get("web-1").await.unwrap();
    assert_eq!((vm.state, vm.ready_at), (VmState::Running, None));

    let asked = host
        .machines
        .port_forward("web-1", forward(free_port(), 80));
    let refused = tokio::time::timeout(PATIENCE, asked).await.unwrap();
    assert!(refused.is_err(), "a process that hangs did something");
    let vm = host.machines.get("web-1").await.unwrap();
    assert!(
        vm.port_forwards.is_empty(),
        "what does not work was written down"
    );

    // The next daemon finds it and says so.
    let host = host.restart().await;
    let vm = host.machines.get("web-1").await.unwrap();
    assert_eq!(vm.state, VmState::Error);
    assert!(vm.state_reason.unwrap().contains("gave no answer"));
    assert!(
        host.machines.leaks().await.is_empty(),
        "it is a VM's all the same"
    );

    let stopped = host.machines.stop("web-1", Duration::from_secs(1)).await;
    assert_eq!(stopped.unwrap().state, VmState::Stopped);
    assert!(processes_of(&host.data_dir()).is_empty());
    assert!(host.machines.leaks().await.is_empty());
    host.machines.start("web-1").await.unwrap();
    host.until_ready("web-1").await;
    host.clear().await;
}

#[tokio::test]
async fn a_vmm_that_was_silent_when_its_daemon_came_back_is_heard_when_it_speaks_again() {
    let host = Host::new().await;
    let pid = started(&host).await;
    let signal = |signal| kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    signal(Signal::STOP);
    let host = host.restart().await;
    let vm = host.machines.get("web-1").await.unwrap();
    assert_eq!(vm.state, VmState::Error);
    signal(Signal::CONT);
    let ready = |vm: &Vm| vm.ready_at.is_some() && vm.state == VmState::Running;
    let vm = host.until("web-1", ready).await;
    assert_eq!(vm.state_reason, None);
    host.machines.pause("web-1").await.unwrap();
    assert_eq!(processes_of(&host.data_dir()), [pid]);
    host.clear().await;
}

#[tokio::test]
async fn whoever_leaves_before_it_is_a_vms_turn_has_changed_nothing() {
    let host = Host::new().await;
    let machines = &host.machines;
    let pid = started(&host).await;
    // A guest that hangs, so that to stop it takes as long as it may.
    kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    let mut stop = Box::pin(machines.stop("web-1", Duration::from_secs(3)));
    assert!(futures::poll!(stop.as_mut()).is_pending());
    let mut delete = Box::pin(machines.delete("web-1", true));
    assert!(futures::poll!(delete.as_mut()).is_pending());
    drop(delete);
    assert_eq!(stop.await.unwrap().state, VmState::Stopped);
    machines.start("web-1").await.unwrap();

    let mut create = Box::pin(machines.create(small("web-2")));
    assert!(futures::poll!(create.as_mut()).is_pending());
    drop(create);
    let begun = Instant::now();
    // Its name is taken for as long as nobody has noticed.
    while let Err(error) = machines.create(small("web-2")).await {
        assert!(matches!(error, CreateError::Exists { .. }), "{error}");
        assert!(
            begun.elapsed() < PATIENCE,
            "a VM appeared that nobody waited for"
        );
    }
    host.clear().await;
}

/// A QEMU that is asked what it can do, and then talks nonsense instead of running a VM.
const NONSENSE: &str = r#"#!/usr/bin/env python3
import os, socket, sys, time

def argument(name):
    return sys.argv[sys.argv.index(name) + 1]

if "-qmp" not in sys.argv:
    os.execvp("qemu-system-x86_64", ["qemu-system-x86_64"] + sys.argv[1:])
with open(argument("-pidfile"), "w") as file:
    file.write(str(os.getpid()))
door = socket.socket(socket.AF_UNIX)
door.bind(argument("-qmp").removeprefix("unix:").split(",")[0])
door.listen()
while True:
    link, _ = door.accept()
    for word in [WORDS]:
        try:
            link.sendall(word)
        except OSError:
            break
    time.sleep(0.05)
    link.close()
    if ONCE:
        sys.exit(3)
"#;

#[tokio::test]
async fn a_vmm_that_talks_nonsense_is_given_up_in_time_and_leaves_nothing() {
    let host = Host::new().await;
    host.machines.create(small("web-1")).await.unwrap();
    let program = host.data_dir().join("qemu");
    let config = host.machines.config().clone();
    let greeting = r#"b'{"QMP": {"version": {}, "capabilities": []}}\n'"#;
    let mut host = host;
    for words in [
        "b'\\x00\\xff\\xfe' * 100 + b'\\n'",
        "b'x' * 1000000",
        "b'[]\\n{}\\nnull\\n{\"return\": 7, \"id\": \"a\"}\\n'",
        greeting,
    ] {
        let text = NONSENSE.replace("WORDS", words).replace("ONCE", "True");
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        let (site, _) = host.close();
        let mut strange = config.clone();
        strange.qemu_binary.clone_from(&program);
        let machines = Machines::open(strange).await.unwrap();
        let begun = Instant::now();
        let refused = machines.start("web-1").await.unwrap_err();
        assert!(
            matches!(refused, StartError::Launch(_)),
            "{words}: {refused}"
        );
        assert!(begun.elapsed() < PATIENCE, "{words}");
        let vm = machines.get("web-1").await.unwrap();
        assert_eq!(vm.state, VmState::Created, "{words}");
        assert!(machines.leaks().await.is_empty(), "{words}");
        drop(machines);
        host = Host::reopen(site, config.clone()).await;
        assert!(processes_of(&host.data_dir()).is_empty(), "{words}");
    }
    host.machines.start("web-1").await.unwrap();
    host.until_ready("web-1").await;
    host.clear().await;
}

#[tokio::test]
async fn a_data_directory_of_another_daemon_is_not_touched() {
    let one = Host::new().await;
    one.machines.create(small("web-1")).await.unwrap();
    one.machines.start("web-1").await.unwrap();
    let running = processes_of(&one.data_dir());
    // Another host on the same machine sweeps what is its own, and that is nothing.
    let other = Host::bare().await;
    assert!(other.machines.leaks().await.is_empty());
    let other = other.restart().await;
    assert_eq!(processes_of(&one.data_dir()), running);
    other.clear().await;
    let second = Machines::open(Config::new(one.data_dir())).await;
    assert!(second.is_err(), "two daemons use one directory");
    one.clear().await;
}
