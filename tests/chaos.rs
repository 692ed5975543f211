//! A host whose daemon dies at every step of what it does, and whose disk fills up in the middle of
//! it: no VM is lost, nothing is left behind, no record is unreadable.
//!
//! `HOSTLER_LONG=1` (`./test --long`) makes it a hundred deaths instead of one at each point, many
//! of them at moments that nobody chose.

use std::time::Duration;

use serde_json::{Value, json};

use crate::standalone::Standalone;
use crate::support::{SmallDisk, is_long, processes_of, wait_for};

/// Every step at which the daemon can be told to die. A number says which time it is reached: the
/// records of a VM are written at its creation, twice at each start, and when it ends.
const POINTS: [&str; 22] = [
    "create.reserved",
    "create.begun",
    "create.disk-made",
    "create.recorded",
    "create.appeared",
    "start.intended",
    "start.initrd-written",
    "start.sockets-prepared",
    "start.spawned",
    "start.launched",
    "start.recorded",
    "stop.intended",
    "ended.unrecorded",
    "stop.ended",
    "delete.killed",
    "remove.renamed",
    "delete.removed",
    "write.drafted:1",
    "write.renamed:2",
    "write.drafted:3",
    "write.renamed:3",
    "write.drafted:4",
];

/// How long a restarted daemon may take to make good what the last one left.
const ROUND: Duration = Duration::from_secs(60);

/// What a VM must be, judging by the answers that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Must {
    Exist,
    Run,
    NotRun,
    BeGone,
    /// The answer was lost.
    BeWhole,
}

/// Makes a VM, starts, stops, starts and deletes it; ends where the daemon does, and says what must
/// hold then.
fn walk(host: &Standalone) -> Must {
    let steps = [
        (
            "POST",
            "/v1/vms",
            r#"{"name":"web","memory_mb":128,"disk_size_mb":256}"#,
            Must::Exist,
        ),
        ("POST", "/v1/vms/web/start", "", Must::Run),
        (
            "POST",
            "/v1/vms/web/stop",
            r#"{"timeout_secs":0}"#,
            Must::NotRun,
        ),
        ("POST", "/v1/vms/web/start", "", Must::Run),
        ("DELETE", "/v1/vms/web?force=true", "", Must::BeGone),
    ];
    let mut must = Must::BeGone;
    for (method, path, body, then) in steps {
        let mut arguments = vec!["--request", method];
        if !body.is_empty() {
            arguments.extend(["--json", body]);
        }
        let answer = host.ask(Some(&host.operator()), &arguments, path);
        match answer.status {
            0 => return Must::BeWhole,
            200 | 201 => must = then,
            _ => panic!("{method} {path}: {answer:?}"),
        }
    }
    must
}

fn vm(host: &Standalone, name: &str) -> Option<Value> {
    let vms = host.must(200, "GET", "/v1/vms", "").json();
    let vms = vms.as_array().expect("a list");
    vms.iter().find(|vm| vm["name"] == name).cloned()
}

fn check(host: &Standalone, what: &str, must: Must, bystander: &Value) {
    let health = host.must(200, "GET", "/v1/health", "").json();
    assert_eq!(health, json!({ "status": "healthy" }), "{what}");
    let now = vm(host, "bystander").unwrap_or_else(|| panic!("{what}: a VM is lost"));
    assert_eq!(now["started_at"], bystander["started_at"], "{what}");
    assert_eq!(now["state"], "running", "{what}: {now}");
    let web = vm(host, "web");
    let state = web.as_ref().map(|web| web["state"].clone());
    match must {
        Must::BeGone => assert_eq!(web, None, "{what}"),
        Must::Exist | Must::NotRun => {
            let state = state.unwrap_or_else(|| panic!("{what}: the VM is lost"));
            assert!(state == "created" || state == "stopped", "{what}: {state}");
        }
        Must::Run => assert_eq!(state, Some(json!("running")), "{what}"),
        Must::BeWhole => {}
    }
    no_leaks(host, what);
    if web.is_some() {
        // Whole: it can be started, whatever it is, and deleted.
        host.must(200, "POST", "/v1/vms/web/start", "");
        host.must(200, "DELETE", "/v1/vms/web?force=true", "");
        no_leaks(host, what);
    }
    let left = processes_of(&host.data().join("vms/web"));
    assert!(left.is_empty(), "{what}: {left:?}");
}

fn no_leaks(host: &Standalone, what: &str) {
    let leaks = host.must(200, "GET", "/v1/host/leaks", "").json();
    assert_eq!(leaks, json!([]), "{what}");
}

fn with_a_bystander() -> (Standalone, Value) {
    let host = Standalone::start();
    host.must(200, "POST", "/v1/images/pull", "{}");
    let body = r#"{"name":"bystander","memory_mb":128,"disk_size_mb":256}"#;
    host.must(201, "POST", "/v1/vms", body);
    let bystander = host.must(200, "POST", "/v1/vms/bystander/start", "").json();
    (host, bystander)
}

#[test]
fn a_daemon_that_dies_at_any_step_loses_no_vm_and_leaves_nothing_behind() {
    let (mut host, bystander) = with_a_bystander();
    wait_for("the bystander", || {
        vm(&host, "bystander").filter(|vm| vm["ready_at"].is_string())
    });
    let rounds = if is_long() { 3 } else { 1 };
    for point in POINTS.iter().cycle().take(rounds * POINTS.len()) {
        let begun = std::time::Instant::now();
        let daemon = host.try_launch(&[("HOSTLER_FAULT_POINT", point)]);
        let must = walk(&host);
        let log = match daemon {
            Ok(daemon) => daemon.end().1,
            Err(log) => log,
        };
        assert!(
            log.contains("aborting at the fault point"),
            "{point} was never reached"
        );
        host.launch(&[]);
        check(&host, point, must, &bystander);
        assert!(begun.elapsed() < ROUND * 2, "{point}: it took too long");
    }
    if is_long() {
        at_moments_that_nobody_chose(&mut host, &bystander);
    }
    host.must(200, "DELETE", "/v1/vms/bystander?force=true", "");
    no_leaks(&host, "at the end");
}

/// `kill -9` somewhere on the walk, forty times.
fn at_moments_that_nobody_chose(host: &mut Standalone, bystander: &Value) {
    host.launch(&[]);
    for round in 0..40_u64 {
        let daemon = host.daemon().take().expect("it runs");
        // Primes, so that moments differ, and spread over what a walk takes.
        let after = Duration::from_millis(10 + round * 97 % 2500);
        let must = std::thread::scope(|scope| {
            let walking = scope.spawn(|| walk(host));
            std::thread::sleep(after);
            daemon.kill();
            walking.join().expect("no panic")
        });
        host.launch(&[]);
        check(host, &format!("killed after {after:?}"), must, bystander);
    }
}

#[test]
fn a_disk_that_fills_up_during_a_create_or_a_start_costs_nothing() {
    // So many files, and no more: it can fill up at each step of what makes several.
    let Some(disk) = SmallDisk::mount("1g,nr_inodes=500") else {
        return;
    };
    let host = Standalone::start_in(disk.path().join("data"));
    host.must(200, "POST", "/v1/images/pull", "{}");
    let body = r#"{"name":"web","memory_mb":128,"disk_size_mb":256}"#;

    let refusals = until_it_fits(&disk, &host, "/v1/vms", body, |host| {
        assert_eq!(vm(host, "web"), None);
    });
    assert!(refusals > 2, "it filled up at {refusals} steps only");
    let refusals = until_it_fits(&disk, &host, "/v1/vms/web/start", "{}", |host| {
        assert_eq!(vm(host, "web").expect("it is there")["state"], "created");
    });
    assert!(refusals > 2, "it filled up at {refusals} steps only");

    // No room for a byte, and nobody is kept from stopping; nor is anything begun.
    let ballast = disk.path().join("ballast");
    disk.fill(&ballast);
    host.must(200, "POST", "/v1/vms/web/stop", r#"{"timeout_secs":0}"#);
    let another = body.replace("web", "another");
    let refused = host.must(409, "POST", "/v1/vms", &another);
    assert_eq!(refused.code(), "insufficient_capacity");
    assert!(refused.message().contains("disk"), "{refused:?}");
    host.must(200, "DELETE", "/v1/vms/web", "");
    no_leaks(&host, "at the end");
}

/// Asks with room for no new file, for one, for two, until it succeeds; each refusal must be clear
/// and leave things as they were. Returns how many there were.
fn until_it_fits(
    disk: &SmallDisk,
    host: &Standalone,
    path: &str,
    body: &str,
    as_before: impl Fn(&Standalone),
) -> usize {
    for room in 0..30 {
        let ballast = disk.fill_with_files(room);
        let arguments = ["--request", "POST", "--json", body];
        let answer = host.ask(Some(&host.operator()), &arguments, path);
        std::fs::remove_dir_all(ballast).expect("removed");
        if answer.status / 100 == 2 {
            return room;
        }
        assert!(
            [409, 507].contains(&answer.status),
            "{path}, room for {room}: {answer:?}"
        );
        as_before(host);
        no_leaks(host, &format!("{path} with room for {room}"));
    }
    panic!("{path} never succeeds");
}
