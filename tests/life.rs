//! The life of a VM through the whole house: created at the control plane, placed on a host, run
//! by QEMU, reached by HTTP and SSH, adopted after its daemon was killed, and gone without a trace.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Agent, Plane, free_port, processes_of, wait_for};

fn page(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    page.contains(" 200 ").then_some(page)
}

fn ssh(port: u16, key: &Path, command: &str) -> Option<String> {
    let output = Command::new("ssh")
        .args([
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
            "-o",
            "ConnectTimeout=10",
        ])
        .args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-i",
        ])
        .arg(key)
        .args(["-p", &port.to_string(), "root@127.0.0.1", command])
        .stdin(Stdio::null())
        .output()
        .expect("ssh runs");
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn key_pair(plane: &Plane) -> (std::path::PathBuf, String) {
    let key = plane.path("id");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .stdin(Stdio::null())
        .status();
    assert!(made.expect("ssh-keygen runs").success());
    let public = key.with_extension("pub").to_str().expect("text").to_owned();
    (key, public)
}

fn enrolled() -> (Plane, Agent) {
    let plane = Plane::start();
    let agent = plane.enrol("host");
    plane.ask(&["image", "pull"]);
    (plane, agent)
}

/// QEMU processes that belong to the host; the agent itself names its directory too.
fn guests_of(agent: &mut Agent) -> Vec<u32> {
    let own = agent.daemon().as_ref().map(|daemon| daemon.pid());
    processes_of(agent.data())
        .into_iter()
        .filter(|pid| Some(*pid) != own)
        .collect()
}

#[test]
fn a_vm_answers_outlives_its_daemon_and_leaves_nothing_behind() {
    let (plane, mut agent) = enrolled();
    let (key, public) = key_pair(&plane);
    let (http, shell) = (free_port(), free_port());
    let (web, login) = (format!("{http}:80"), format!("{shell}:22"));
    let create = [
        "vm",
        "create",
        "demo",
        "--memory-mb",
        "256",
        "--ssh-key",
        &public,
    ];
    let created = plane.ask(&[&create[..], &["--port", &web, "--port", &login]].concat());
    assert_eq!(
        (&created["state"], &created["host"]),
        (&"created".into(), &agent.id.clone().into())
    );

    let started = plane.ask(&["vm", "start", "demo"]);
    assert!(
        started["state"] == "running" || started["state"] == "starting",
        "{started}"
    );
    wait_for("the guest's page", || page(http));
    let hostname = wait_for("the guest's shell", || ssh(shell, &key, "hostname"));
    assert_eq!(hostname, "demo", "the guest goes by its VM's name");
    let ready = || Some(plane.ask(&["vm", "show", "demo"])).filter(|vm| vm["ready_at"].is_string());
    assert_eq!(
        wait_for("the guest's word that it is ready", ready)["state"],
        "running"
    );
    assert_eq!(
        plane.ask(&["vm", "start", "demo"])["state"],
        "running",
        "starting it again"
    );
    let guests = guests_of(&mut agent);
    assert_eq!(guests.len(), 1, "{guests:?}");
    assert!(plane.refused(&["vm", "delete", "demo"]).contains("409"));

    agent.daemon().take().expect("it runs").kill();
    assert!(page(http).is_some(), "the guest went down with its daemon");
    agent.launch(&plane, None);
    assert_eq!(
        plane.ask(&["vm", "show", "demo"])["state"],
        "running",
        "it was not adopted"
    );
    assert_eq!(guests_of(&mut agent), guests, "another process runs it");
    assert!(page(http).is_some());

    ssh(shell, &key, "echo kept > /root/note").expect("written");
    assert_eq!(plane.ask(&["vm", "stop", "demo"])["state"], "stopped");
    assert_eq!(
        plane.ask(&["vm", "stop", "demo"])["state"],
        "stopped",
        "stopping it again"
    );
    assert!(guests_of(&mut agent).is_empty());
    plane.ask(&["vm", "start", "demo"]);
    let note = wait_for("the guest's disk", || ssh(shell, &key, "cat /root/note"));
    assert_eq!(note, "kept");

    plane.ask(&["vm", "delete", "demo", "--force"]);
    assert!(guests_of(&mut agent).is_empty());
    assert_eq!(plane.ask(&["vm", "list"]), serde_json::json!([]));
    assert!(
        std::net::TcpListener::bind(("127.0.0.1", http)).is_ok(),
        "the port is still taken"
    );
    assert_eq!(
        agent.daemon().take().expect("it runs").stop(),
        Some(0),
        "{}",
        agent.log()
    );
    assert!(processes_of(agent.data()).is_empty());
}

#[test]
fn what_cannot_work_is_refused_before_anything_changes() {
    let (plane, mut agent) = enrolled();
    plane.ask(&["vm", "create", "one", "--memory-mb", "128"]);
    let before = plane.ask(&["vm", "list"]);

    let twice = plane.refused(&["vm", "create", "one"]);
    assert!(twice.contains("409") && twice.contains("one"), "{twice}");
    let huge = plane.refused(&["vm", "create", "two", "--memory-mb", "65537"]);
    assert!(huge.contains("400") && huge.contains("memory_mb"), "{huge}");
    let unfit = plane.refused(&[
        "vm",
        "create",
        "two",
        "--memory-mb",
        "65536",
        "--cpus",
        "32",
    ]);
    assert!(unfit.contains("503") && unfit.contains("memory"), "{unfit}");
    let image = plane.refused(&["vm", "create", "two", "--image", "no-such-image"]);
    assert!(
        image.contains("400") && image.contains("no-such-image"),
        "{image}"
    );
    let name = plane.refused(&["vm", "create", "../two"]);
    assert!(name.contains("400") && name.contains("name"), "{name}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let forward = format!("{port}:80");
    let in_use = plane.refused(&["vm", "create", "two", "--port", &forward]);
    assert!(
        in_use.contains("409") && in_use.contains(&port.to_string()),
        "{in_use}"
    );
    let in_use = plane.refused(&["vm", "port-forward", "one", &forward]);
    assert!(
        in_use.contains("409") && in_use.contains(&port.to_string()),
        "{in_use}"
    );

    assert_eq!(plane.ask(&["vm", "list"]), before);
    let kept = std::fs::read_dir(agent.data().join("vms")).expect("the VMs' directory");
    assert_eq!(
        kept.count(),
        1,
        "a refused create left something on the host"
    );
    assert!(guests_of(&mut agent).is_empty());
}

#[test]
fn a_forward_is_made_once_and_survives_its_daemon() {
    let (plane, mut agent) = enrolled();
    plane.ask(&["vm", "create", "web", "--memory-mb", "128", "--start"]);
    let port = free_port();
    let forward = format!("{port}:80");
    for _ in 0..2 {
        let vm = plane.ask(&["vm", "port-forward", "web", &forward]);
        assert_eq!(
            vm["port_forwards"].as_array().map(Vec::len),
            Some(1),
            "{vm}"
        );
    }
    wait_for("the guest's page", || page(port));
    agent.daemon().take().expect("it runs").kill();
    agent.launch(&plane, None);
    assert!(page(port).is_some());
    // It goes in good order too, and then says what it leaves.
    let daemon = agent.daemon().take().expect("it runs");
    let (code, told) = daemon.stop_and_tell();
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("1 VM keeps running"), "{told}");
    assert!(page(port).is_some(), "the guest went down with its daemon");
    agent.launch(&plane, None);
    assert!(page(port).is_some());
    plane.ask(&["vm", "stop", "web"]);
    plane.ask(&["vm", "start", "web"]);
    wait_for("the guest's page after a restart", || page(port));
    plane.ask(&["vm", "delete", "web", "--force"]);
}

#[test]
fn what_a_vm_uses_is_told_with_its_name_and_id() {
    let (plane, mut agent) = enrolled();
    let create = [
        "vm",
        "create",
        "demo",
        "--memory-mb",
        "128",
        "--restart",
        "on-failure:3",
    ];
    let vm = plane.ask(&[&create[..], &["--start"]].concat());
    assert_eq!(
        (&vm["restart_policy"], &vm["restart_limit"]),
        (&"on-failure".into(), &3.into())
    );
    let value = |name: &str| {
        let output = plane.cli(&["host", "metrics"]);
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name}{{")));
        let line = line
            .unwrap_or_else(|| panic!("no {name} in {text}"))
            .to_owned();
        let (labels, value) = line.rsplit_once(' ').expect("a value");
        let id = vm["id"].as_str().expect("an id");
        assert!(labels.contains(&format!("name=\"{id}\"")), "{line}");
        assert!(
            labels.contains("hostname=\"demo\"") && labels.contains(",id=\""),
            "{line}"
        );
        value.parse::<f64>().expect("a number")
    };
    assert!((value("hostler_vm_up") - 1.0).abs() < f64::EPSILON);
    assert!(value("hostler_vm_memory_bytes") > 1e6);
    assert!(value("hostler_vm_disk_allocated_bytes") > 1e6);
    wait_for("the guest to use a processor", || {
        (value("hostler_vm_cpu_seconds_total") > 0.0).then_some(())
    });
    wait_for("the guest", || {
        let vm = plane.ask(&["vm", "show", "demo"]);
        vm["ready_at"].is_string().then_some(())
    });
    // Its network is in user mode, where only the guest itself counts.
    assert!(value("hostler_vm_network_receive_bytes_total") >= 0.0);
    let scraped = plane.curl(
        Some(plane.key()),
        &[],
        &format!("/v1/hosts/{}/metrics", agent.id),
    );
    assert_eq!(scraped.status, 200);
    assert!(
        scraped
            .headers
            .to_lowercase()
            .contains("content-type: text/plain; version=0.0.4")
    );

    // A guest that is killed comes back by itself, through whatever its host does.
    for pid in guests_of(&mut agent) {
        let killed = Command::new("kill")
            .args(["-s", "KILL", &pid.to_string()])
            .status();
        assert!(killed.expect("kill runs").success());
    }
    wait_for("the VM to be started again", || {
        let vm = plane.ask(&["vm", "show", "demo"]);
        (vm["state"] == "running" && vm["restarts"] == 1).then_some(())
    });
    let leaks = plane.cli(&["host", "leaks"]);
    assert_eq!((leaks.status.code(), leaks.stdout), (Some(0), Vec::new()));
    assert_eq!(
        plane.ask(&["host", "leaks", &agent.id]),
        serde_json::json!([])
    );
    plane.ask(&["vm", "delete", "demo", "--force"]);
}
