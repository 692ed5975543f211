//! Callers that leave, and VMs that leave their callers. All of them with a VM `web` that is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use hostler_operations::{Grants, Identity, Request};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::desk::Desk;
use crate::support::PATIENCE;

fn request(input: Value) -> Request {
    Request {
        input,
        identity: Some(Identity::new("the control plane", Grants::All)),
        ..Request::default()
    }
}

/// A change that waits for the VM's turn is given up with its caller, and not made afterwards.
pub(super) async fn what_nobody_waits_for_any_more_is_not_done(desk: &Arc<Desk>) {
    let web = json!({ "name": "web" });
    let starting = tokio::spawn({
        let (desk, web) = (Arc::clone(desk), web.clone());
        async move { desk.call("vms/start", web).await }
    });
    let since = Instant::now();
    while desk.call("vms/get", web.clone()).await.unwrap()["state"] != "starting" {
        assert!(
            since.elapsed() < PATIENCE && !starting.is_finished(),
            "it never was starting"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let request = request(json!({ "name": "web", "force": true }));
    request.cancelled.cancel();
    let left = desk
        .registry
        .invoke("vms/delete", request)
        .await
        .unwrap_err();
    assert_eq!(left.code().as_str(), "INVALID_STATE", "{left:?}");
    assert!(left.message().contains("the caller left"), "{left:?}");
    assert_eq!(starting.await.unwrap().unwrap()["state"], "running");
    // One more change has had its turn by now.
    desk.call("vms/pause", web.clone()).await.unwrap();
    let resumed = desk.call("vms/resume", web).await.unwrap();
    assert_eq!(resumed["state"], "running", "it was deleted for nobody");
}

/// The stream of a console ends when its VM does, however that is.
pub(super) async fn a_crash_ends_what_follows_the_console(desk: &Desk) {
    let following = request(json!({ "name": "web", "lines": 5 }));
    let following = desk.registry.subscribe("vms/follow-logs", following).await;
    let mut following = std::pin::pin!(following.unwrap());
    let first = tokio::time::timeout(PATIENCE, following.next()).await;
    assert!(first.expect("it shows what is there").unwrap().unwrap()["text"].is_string());
    let data = desk.host.machines().config().data_dir.join("vms/web");
    let pids = processes_of(data.to_str().unwrap());
    assert!(!pids.is_empty());
    for pid in pids {
        kill_process(pid, Signal::KILL).unwrap();
    }
    let ended = async {
        while let Some(shown) = following.next().await {
            shown.expect("a crash is no error of whoever reads the console");
        }
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await;
    ended.expect("it is followed for ever");
    let vm = desk
        .call("vms/get", json!({ "name": "web" }))
        .await
        .unwrap();
    assert_eq!(vm["state"], "error", "{vm}");
}

/// The processes that have this path among their arguments.
fn processes_of(path: &str) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(path)
    };
    pids.filter(ours).filter_map(Pid::from_raw).collect()
}
