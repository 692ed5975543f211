//! What the operations of a host promise, whichever VMs it has.

use std::time::{Duration, Instant};

use hostler_operations::Request;
use serde_json::{Value, json};

use crate::desk::{Desk, free_port};

#[tokio::test]
async fn the_rest_routes_are_those_of_the_host_api() {
    let desk = Desk::open().await;
    let mut routes: Vec<String> = desk
        .registry
        .external()
        .filter(|operation| !operation.name().as_str().starts_with("services/"))
        .flat_map(|operation| {
            operation.rest().iter().map(|rest| {
                let status = rest.success.as_u16();
                format!(
                    "{} {} {status} {}",
                    rest.method,
                    rest.path,
                    operation.name()
                )
            })
        })
        .collect();
    routes.sort();
    assert_eq!(
        routes,
        [
            "DELETE /v1/images/{name} 200 images/delete",
            "DELETE /v1/kernels/{name} 200 kernels/delete",
            "DELETE /v1/vms/{name} 200 vms/delete",
            "DELETE /v1/vms/{name}/snapshots/{snapshot} 200 snapshots/delete",
            "GET /v1/health 200 host/health",
            "GET /v1/host/config 200 host/config",
            "GET /v1/host/leaks 200 host/leaks",
            "GET /v1/host/status 200 host/status",
            "GET /v1/images 200 images/list",
            "GET /v1/kernels 200 kernels/list",
            "GET /v1/metrics 200 metrics/export",
            "GET /v1/vms 200 vms/list",
            "GET /v1/vms/{name} 200 vms/get",
            "GET /v1/vms/{name}/file 200 vms/read-file",
            "GET /v1/vms/{name}/logs 200 vms/logs",
            "GET /v1/vms/{name}/logs/follow 200 vms/follow-logs",
            "GET /v1/vms/{name}/snapshots 200 snapshots/list",
            "POST /v1/images/import 201 images/import",
            "POST /v1/images/pull 200 images/pull",
            "POST /v1/kernels/import 201 kernels/import",
            "POST /v1/vms 201 vms/create",
            "POST /v1/vms/{name}/exec 200 vms/exec",
            "POST /v1/vms/{name}/exec/{id}/input 200 vms/exec-input",
            "POST /v1/vms/{name}/exec/{id}/resize 200 vms/exec-resize",
            "POST /v1/vms/{name}/pause 200 vms/pause",
            "POST /v1/vms/{name}/port-forward 200 vms/port-forward",
            "POST /v1/vms/{name}/restore 200 vms/restore",
            "POST /v1/vms/{name}/resume 200 vms/resume",
            "POST /v1/vms/{name}/run 200 vms/run",
            "POST /v1/vms/{name}/snapshot 201 vms/snapshot",
            "POST /v1/vms/{name}/start 200 vms/start",
            "POST /v1/vms/{name}/stop 200 vms/stop",
            "PUT /v1/vms/{name}/file 200 vms/write-file",
        ]
    );
}

#[tokio::test]
async fn no_operation_is_open_to_strangers() {
    let desk = Desk::open().await;
    let ours = [
        "vms/",
        "images/",
        "kernels/",
        "host/",
        "metrics/",
        "snapshots/",
    ];
    let operations = desk
        .registry
        .external()
        .map(|operation| operation.name().to_string());
    let operations = operations.filter(|name| ours.iter().any(|ours| name.starts_with(ours)));
    for operation in operations {
        let refused = desk
            .registry
            .invoke(&operation, Request::default())
            .await
            .unwrap_err();
        assert_eq!(refused.message(), "authentication required", "{operation}");
    }
}

#[tokio::test]
async fn an_unknown_vm_image_or_kernel_is_not_found() {
    let desk = Desk::open().await;
    let name = json!({ "name": "web-1" });
    for operation in [
        "vms/get",
        "vms/delete",
        "vms/start",
        "vms/stop",
        "vms/pause",
        "vms/resume",
        "vms/snapshot",
        "snapshots/list",
        "images/delete",
        "kernels/delete",
    ] {
        assert_eq!(
            desk.code(operation, name.clone()).await,
            "NOT_FOUND",
            "{operation}"
        );
    }
    let forward = json!({ "name": "web-1", "host_port": free_port(), "guest_port": 80 });
    assert_eq!(desk.code("vms/port-forward", forward).await, "NOT_FOUND");
    for operation in ["vms/restore", "snapshots/delete"] {
        let snapshot = json!({ "name": "web-1", "snapshot": "a" });
        assert_eq!(desk.code(operation, snapshot).await, "NOT_FOUND");
        let elsewhere = json!({ "name": "web-1", "snapshot": "../a" });
        assert_eq!(desk.code(operation, elsewhere).await, "INVALID_INPUT");
    }
}

#[tokio::test]
async fn impossible_requests_are_refused_before_a_vm_sees_them() {
    let desk = Desk::open().await;
    for wrong in [
        json!({ "name": "Web" }),
        json!({ "name": "../etc" }),
        json!({ "name": "web", "cpus": 0 }),
        json!({ "name": "web", "cpus": 33 }),
        json!({ "name": "web", "memory_mb": 127 }),
        json!({ "name": "web", "memory_mb": 65_537 }),
        json!({ "name": "web", "disk_size_mb": 255 }),
        json!({ "name": "web", "disk_size_mb": 1_048_577 }),
        json!({ "name": "web", "dns_servers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"] }),
        json!({ "name": "web", "port_forwards": [{ "host_port": 0, "guest_port": 80 }] }),
        json!({ "name": "web", "ssh_public_key": "not a key" }),
        json!({ "name": "web", "image": "no-such-image" }),
        json!({ "name": "web", "kernel": "no-such-kernel" }),
        json!({ "name": "web", "colour": "blue" }),
        json!({}),
    ] {
        assert_eq!(
            desk.code("vms/create", wrong.clone()).await,
            "INVALID_INPUT",
            "{wrong}"
        );
    }
    for (operation, wrong) in [
        ("vms/stop", json!({ "name": "web", "timeout_secs": 301 })),
        ("vms/stop", json!({ "name": "web", "timeout_secs": -1 })),
        (
            "vms/port-forward",
            json!({ "name": "web", "host_port": 65_536, "guest_port": 80 }),
        ),
        ("vms/list", json!({ "limit": 0 })),
        ("vms/list", json!({ "limit": 1001 })),
        (
            "images/import",
            json!({ "name": "mine", "source": "/nowhere/root.tar" }),
        ),
        (
            "kernels/import",
            json!({ "name": "mine", "source": "/etc/hostname" }),
        ),
        (
            "kernels/import",
            json!({ "name": "mine", "source": "/nowhere/vmlinux" }),
        ),
    ] {
        assert_eq!(
            desk.code(operation, wrong.clone()).await,
            "INVALID_INPUT",
            "{wrong}"
        );
    }
    assert!(desk.names().await.is_empty());
}

#[tokio::test]
async fn a_host_tells_what_it_is_and_how_it_is() {
    let desk = Desk::open().await;
    let status = desk.call("host/status", json!({})).await.unwrap();
    assert!(status["total"]["cpus"].as_u64() > Some(0), "{status}");
    assert_eq!(status["total_vms"], 0);
    let chosen = |driver: &Value| driver["selected"] == true && !driver["reason"].is_null();
    assert!(
        status["drivers"].as_array().unwrap().iter().any(chosen),
        "{status}"
    );
    let config = desk.call("host/config", json!({})).await.unwrap();
    let data_dir = &desk.host.machines().config().data_dir;
    assert_eq!(config["data_dir"], json!(data_dir));
    let health = desk.call("host/health", json!({})).await.unwrap();
    assert_eq!(health, json!({ "status": "healthy" }));
}

#[tokio::test]
async fn a_healthy_host_has_no_leaks_and_tells_what_it_uses() {
    let desk = Desk::open().await;
    assert_eq!(desk.call("host/leaks", json!({})).await.unwrap(), json!([]));
    let text = desk.call("metrics/export", json!({})).await.unwrap();
    let text = text.as_str().unwrap();
    let value = |name: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}in {text}"))
            .parse()
            .unwrap()
    };
    assert!(value("hostler_host_memory_bytes ") > 1e8);
    assert!(value("hostler_daemon_memory_bytes ") > 1e6);
    assert!(value("hostler_host_cpu_seconds_total ") > 0.0);
    assert!(value("hostler_host_vms{state=\"running\"} ") == 0.0);
}

#[tokio::test]
async fn health_is_quick() {
    let desk = Desk::open().await;
    let mut times = Vec::new();
    for _ in 0..50 {
        let since = Instant::now();
        desk.call("host/health", json!({})).await.unwrap();
        times.push(since.elapsed());
    }
    times.sort();
    // The median, because other tests share the processors.
    assert!(times[25] < Duration::from_millis(10), "{times:?}");
}

#[tokio::test]
async fn every_operation_says_what_it_does_and_what_its_errors_mean() {
    let desk = Desk::open().await;
    for operation in desk.registry.external() {
        assert!(
            operation.description().ends_with('.'),
            "{}",
            operation.name()
        );
        for error in operation.errors() {
            assert!(!error.description.is_empty(), "{}", operation.name());
        }
    }
    let create = desk.registry.find("vms/create").unwrap();
    assert!(
        create.description().starts_with("Creates a VM"),
        "{}",
        create.description()
    );
}
