//! Pausing VMs and their snapshots, from the desk to the host and back.

use serde_json::json;

use crate::desk::{Desk, text};
use crate::standin::StandIn;

#[tokio::test]
async fn a_vm_is_paused_saved_and_restored_on_its_host_under_its_owners_name() {
    let desk = Desk::open().await;
    let host = StandIn::enrol(&desk).await;
    let vm = desk.call("vms/create", json!({"name": "web"})).await;
    let id = text(&vm["id"]);
    let web = json!({"name": "web"});
    desk.call("vms/start", web.clone()).await;
    let paused = desk.call("vms/pause", web.clone()).await;
    assert_eq!(
        (&paused["state"], &paused["name"]),
        (&json!("paused"), &json!("web"))
    );
    let listed = desk.call("vms/list", json!({})).await;
    assert_eq!(listed[0]["state"], "paused", "the books do not know of it");
    let resumed = desk.call("vms/resume", web.clone()).await;
    assert_eq!(resumed["state"], "running");

    let of_web = |snapshot: &str| json!({"name": "web", "snapshot": snapshot});
    let taken = desk.call("vms/snapshot", of_web("b")).await;
    assert_eq!((&taken["name"], &taken["vm"]), (&json!("b"), &json!("web")));
    assert_eq!(host.inside().snapshots[0]["vm"], json!(id));
    desk.call("vms/snapshot", of_web("c")).await;
    let page = json!({"name": "web", "limit": 1, "cursor": "b"});
    let rest = desk.call("snapshots/list", page).await;
    assert_eq!(
        (&rest[0]["name"], &rest[0]["vm"]),
        (&json!("c"), &json!("web"))
    );
    assert_eq!(rest.as_array().map(Vec::len), Some(1));

    let refused = desk.refusal("vms/restore", of_web("b")).await;
    let expected = "VM web is running; stop it first, or restore it with force";
    assert_eq!(refused.message(), expected);
    let forced = json!({"name": "web", "snapshot": "b", "force": true});
    assert_eq!(desk.call("vms/restore", forced).await["state"], "running");
    let gone = desk.call("snapshots/delete", of_web("b")).await;
    assert_eq!(gone, of_web("b"));
    assert_eq!(host.inside().snapshots.len(), 1);

    for operation in ["vms/pause", "vms/resume", "vms/snapshot", "snapshots/list"] {
        let refused = desk.refusal(operation, json!({"name": "other"})).await;
        assert_eq!(refused.code().as_str(), "NOT_FOUND", "{operation}");
    }
}
