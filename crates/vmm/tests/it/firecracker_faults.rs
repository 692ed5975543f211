//! A Firecracker that goes wrong in every way that it can: only the stand-in does so on purpose.

use std::fs;
use std::time::{Duration, Instant};

use hostler_vmm::{LaunchError, StartError, VmState};

use crate::firecracker::{Site, program, skipped};
use crate::support::{PATIENCE, processes_of, small};

/// A host with a VM that has never run, whose Firecracker can be made to fail; none with the real
/// one.
async fn site() -> Option<Site> {
    if program().1 {
        skipped("it does not go wrong on purpose");
        return None;
    }
    let site = Site::new().await;
    site.host.machines.create(small("web-1")).await.unwrap();
    Some(site)
}

#[tokio::test]
async fn a_refusal_reaches_the_caller_in_firecrackers_words_and_leaves_nothing() {
    let Some(site) = site().await else { return };
    for request in [
        "PUT /machine-config",
        "PUT /boot-source",
        "PUT /drives/root",
        "PUT /vsock",
        "PUT /actions",
    ] {
        site.go_wrong(&format!("refuse {request}"));
        let error = site.start("web-1").await.unwrap_err();
        assert!(
            matches!(error, StartError::Launch(LaunchError::Refused { .. })),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .contains(&format!("{request} is refused on purpose.")),
            "{error}"
        );
        let vm = site.host.machines.get("web-1").await.unwrap();
        assert_eq!(vm.state, VmState::Created);
        site.assert_at_rest("web-1").await;
    }
    site.go_wrong("");
    site.start("web-1").await.unwrap();
    site.host.until_ready("web-1").await;
    site.host.clear().await;
}

#[tokio::test]
async fn garbage_nonsense_silence_and_death_in_the_middle_are_errors_that_leave_nothing() {
    let Some(site) = site().await else { return };
    for (fault, words) in [
        ("garbage GET /", "unknown answer to GET /"),
        ("nonsense GET /", "unknown answer to GET /"),
        ("garbage PUT /actions", "unknown answer to PUT /actions"),
        ("die PUT /drives/root", "cannot talk to the VM's process"),
        ("hang PUT /actions", "gave no answer within 10 s"),
        (
            "exit 148",
            "exit code 148: it made a system call that its seccomp filter forbids",
        ),
        ("exit 152", "its configuration is wrong"),
        ("exit 153", "its arguments are wrong"),
    ] {
        site.go_wrong(fault);
        let error = site.start("web-1").await.unwrap_err().to_string();
        assert!(error.contains(words), "{fault}: {error}");
        site.assert_at_rest("web-1").await;
    }
    site.go_wrong("");
    site.start("web-1").await.unwrap();
    site.host.until_ready("web-1").await;
    site.host.clear().await;
}

#[tokio::test]
async fn a_guest_that_ends_itself_is_stopped_and_not_an_error_even_under_a_later_daemon() {
    let Some(site) = site().await else { return };
    site.start("web-1").await.unwrap();
    site.host.until_ready("web-1").await;
    site.go_wrong_in("web-1", "guest-quits");
    let ended = site
        .host
        .until("web-1", |vm| vm.state != VmState::Running)
        .await;
    assert_eq!(ended.state, VmState::Stopped, "{ended:?}");
    // The next daemon did not make the process, so it has no exit code of it.
    site.go_wrong_in("web-1", "");
    site.start("web-1").await.unwrap();
    site.host.until_ready("web-1").await;
    let faults = site.faults_in("web-1");
    let host = site.host.restart().await;
    assert_eq!(
        host.machines.get("web-1").await.unwrap().state,
        VmState::Running
    );
    fs::write(faults, "guest-quits").unwrap();
    let ended = host.until("web-1", |vm| vm.state != VmState::Running).await;
    assert_eq!(ended.state, VmState::Stopped, "{ended:?}");
    host.clear().await;
}

#[tokio::test]
async fn a_guest_that_finds_no_init_is_an_error_and_one_that_never_answers_can_be_stopped() {
    let Some(site) = site().await else { return };
    site.go_wrong("guest-panics");
    site.start("web-1").await.unwrap();
    let failed = site
        .host
        .until("web-1", |vm| vm.state == VmState::Error)
        .await;
    assert!(failed.state_reason.unwrap().contains("before it was up"));

    site.go_wrong("guest-silent");
    site.start("web-1").await.unwrap();
    let begun = Instant::now();
    let patience = Duration::from_secs(1);
    let stopped = site.host.machines.stop("web-1", patience).await.unwrap();
    assert_eq!((stopped.state, stopped.ready_at), (VmState::Stopped, None));
    assert!(begun.elapsed() < PATIENCE);
    site.assert_at_rest("web-1").await;
    site.host.clear().await;
}

#[tokio::test]
async fn an_adopted_firecracker_that_does_not_answer_is_said_to_be_so_and_can_be_ended() {
    let Some(site) = site().await else { return };
    site.start("web-1").await.unwrap();
    site.host.until_ready("web-1").await;
    site.go_wrong_in("web-1", "nonsense GET /");
    let host = site.host.restart().await;
    let vm = host.machines.get("web-1").await.unwrap();
    assert_eq!(vm.state, VmState::Error);
    assert!(vm.state_reason.unwrap().contains("unknown answer"));
    host.machines.stop("web-1", Duration::ZERO).await.unwrap();
    assert!(processes_of(&host.data_dir()).is_empty());
    host.clear().await;
}

#[tokio::test]
async fn a_guest_that_floods_its_console_does_not_fill_the_disk() {
    const LIMIT: u64 = 1024 * 1024;
    let Some(site) = site().await else { return };
    site.go_wrong("guest-floods");
    let console = site.host.data_dir().join("vms/web-1/console.log");
    site.start("web-1").await.unwrap();
    let length = || fs::metadata(&console).map_or(0, |metadata| metadata.len());
    let deadline = Instant::now() + PATIENCE;
    let (mut largest, mut was_cut) = (0, false);
    while !was_cut {
        let now = length();
        was_cut = largest > LIMIT && now < largest;
        largest = largest.max(now);
        assert!(
            Instant::now() < deadline,
            "it was never cut: {largest} bytes"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    site.host.clear().await;
}
