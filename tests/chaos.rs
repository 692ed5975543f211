//! A host whose daemon dies at every step of what it does, and whose disk fills up in the middle of
//! it: no VM is lost, nothing is left behind, no record is unreadable.
//!
//! `HOSTLER_LONG=1` (`./test --long`) makes it a hundred deaths instead of one at each point, many
//! of them at moments that nobody chose.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::standalone::Standalone;
use crate::support::{SmallDisk, is_long, processes_of, wait_for};

/// Every step at which the daemon can be told to die. A number says which time it is reached: the
/// records of a VM are written at its creation, twice at each start, and when it ends.
const POINTS: [&str; 23] = [
    "create.reserved",
    "create.begun",
    "create.disk-made",
    "create.recorded",
    "create.appeared",
    "start.intended",
    "start.plugged",
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
    /// There, and not running.
    NotRun,
    Run,
    BeGone,
}

/// A step whose answer was lost: it was done or it was not.
#[derive(Clone, Copy, Debug)]
struct Interrupted {
    before: Must,
    after: Must,
}

impl Interrupted {
    /// Whether a VM may be in this state then; `None`: there is no such VM.
    fn allows(self, state: Option<&str>) -> bool {
        let Self { before, after } = self;
        let is = |must: Must| match state {
            None => must == Must::BeGone,
            Some("running") => must == Must::Run,
            Some("created" | "stopped") => must == Must::NotRun,
            Some(_) => false,
        };
        // Who deletes a VM that runs ends it first.
        let on_its_way = (before, after) == (Must::Run, Must::BeGone);
        is(before) || is(after) || (on_its_way && state == Some("stopped"))
    }
}

/// Makes a VM, starts, stops, starts and deletes it; ends where the daemon does, and says at which
/// step that was.
fn walk(host: &Standalone) -> Interrupted {
    let steps = [
        (
            "POST",
            "/v1/vms",
            r#"{"name":"web","memory_mb":128,"disk_size_mb":256}"#,
            Must::NotRun,
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
    let mut before = Must::BeGone;
    for (method, path, body, after) in steps {
        let mut arguments = vec!["--request", method];
        if !body.is_empty() {
            arguments.extend(["--json", body]);
        }
        let answer = host.ask(Some(&host.operator()), &arguments, path);
        match answer.status {
            0 => return Interrupted { before, after },
            200 | 201 => before = after,
            _ => panic!("{method} {path}: {answer:?}"),
        }
    }
    Interrupted {
        before,
        after: before,
    }
}

fn vm(host: &Standalone, name: &str) -> Option<Value> {
    let vms = host.must(200, "GET", "/v1/vms", "").json();
    let vms = vms.as_array().expect("a list");
    vms.iter().find(|vm| vm["name"] == name).cloned()
}

fn check(host: &Standalone, what: &str, interrupted: Interrupted, bystander: &Value) {
    let health = host.must(200, "GET", "/v1/health", "").json();
    assert_eq!(health, json!({ "status": "healthy" }), "{what}");
    let now = vm(host, "bystander").unwrap_or_else(|| panic!("{what}: a VM is lost"));
    assert_eq!(now["started_at"], bystander["started_at"], "{what}");
    assert_eq!(now["state"], "running", "{what}: {now}");
    // What was ending when its daemon died may still be.
    let web = wait_for("the VM's end", || {
        let web = vm(host, "web");
        let is_ending = web.as_ref().is_some_and(|web| web["state"] == "stopping");
        (!is_ending).then_some(web)
    });
    let state = web.as_ref().and_then(|web| web["state"].as_str());
    assert!(
        interrupted.allows(state),
        "{what}, {interrupted:?}: {web:?}"
    );
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

fn with_a_bystander(host: Standalone) -> (Standalone, Value) {
    host.must(200, "POST", "/v1/images/pull", "{}");
    let body = r#"{"name":"bystander","memory_mb":128,"disk_size_mb":256}"#;
    host.must(201, "POST", "/v1/vms", body);
    let bystander = host.must(200, "POST", "/v1/vms/bystander/start", "").json();
    (host, bystander)
}

#[test]
fn a_daemon_that_dies_at_any_step_loses_no_vm_and_leaves_nothing_behind() {
    let (mut host, bystander) = with_a_bystander(Standalone::start());
    wait_for("the bystander", || {
        vm(&host, "bystander").filter(|vm| vm["ready_at"].is_string())
    });
    let rounds = if is_long() { 3 } else { 1 };
    for _ in 0..rounds {
        at_each_of(&POINTS, &mut host, &bystander);
    }
    if is_long() {
        at_moments_that_nobody_chose(&mut host, &bystander);
    }
    host.must(200, "DELETE", "/v1/vms/bystander?force=true", "");
    no_leaks(&host, "at the end");
}

/// The same where there is more to leave behind: devices and rules of the host. They are looked for by
/// what the host itself says, and not by our own account of it.
#[test]
fn a_daemon_that_dies_with_its_vms_on_a_bridge_leaves_no_device_and_no_rule() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: no bridge to be tried");
        return;
    }
    let (mut host, bystander) = with_a_bystander(Standalone::start_on_a_bridge());
    let status = host.must(200, "GET", "/v1/host/status", "").json();
    let bridge = status["network"]["bridge"]["name"].as_str();
    let mark = bridge
        .and_then(|name| name.strip_prefix("hb"))
        .expect("a bridge");
    let (taps, tables) = (format!("ht{mark}-"), format!("hostler_{mark}"));
    // The bystander's.
    assert_eq!(occurrences("ip", &["-brief", "link"], &taps), 1);
    assert_eq!(occurrences("nft", &["list", "tables"], &tables), 2);
    let points: &[&str] = match is_long() {
        true => &POINTS,
        false => &[
            "start.plugged",
            "start.spawned",
            "start.recorded",
            "ended.unrecorded",
            "delete.killed",
        ],
    };
    at_each_of(points, &mut host, &bystander);
    assert_eq!(occurrences("ip", &["-brief", "link"], &taps), 1);
    host.must(200, "DELETE", "/v1/vms/bystander?force=true", "");
    no_leaks(&host, "at the end");
    for (program, arguments) in [("ip", ["-brief", "link"]), ("nft", ["list", "tables"])] {
        assert_eq!(occurrences(program, &arguments, mark), 0, "{program}");
    }
}

/// A daemon that could not look at the host's devices when it came back takes what is there for nothing
/// as little as for gone.
#[test]
fn a_daemon_that_cannot_see_its_bridge_at_first_cuts_nobody_off() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: no bridge to be tried");
        return;
    }
    let (mut host, bystander) = with_a_bystander(Standalone::start_on_a_bridge());
    let (blind, programs) = (host.path("blind"), host.path("programs"));
    std::fs::create_dir(&programs).expect("a directory");
    let ip = format!(
        "#!/bin/sh\n[ -e {blind:?} ] && [ \"$*\" = '-json link show' ] && exit 1\n\
         PATH=/usr/sbin:/sbin:/usr/bin exec ip \"$@\"\n"
    );
    let program = programs.join("ip");
    std::fs::write(&program, ip).expect("a program");
    let runs = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(&program, runs).expect("it runs");
    std::fs::write(&blind, "").expect("a file");

    let path = std::env::var("PATH").expect("a PATH");
    let path = format!("{}:{path}", programs.display());
    host.launch(&[("PATH", path.as_str())]);
    let body = r#"{"name":"web","memory_mb":128,"disk_size_mb":256}"#;
    host.must(201, "POST", "/v1/vms", body);
    let refused = host.ask(
        Some(&host.operator()),
        &["--request", "POST"],
        "/v1/vms/web/start",
    );
    assert_eq!(refused.status, 409, "{refused:?}");
    std::fs::remove_file(&blind).expect("removed");
    host.must(200, "POST", "/v1/vms/web/start", "");
    let status = host.must(200, "GET", "/v1/host/status", "").json();
    let bridge = status["network"]["bridge"]["name"].as_str();
    let mark = bridge
        .and_then(|name| name.strip_prefix("hb"))
        .expect("a bridge");
    let ports = [
        "-brief",
        "link",
        "show",
        "master",
        bridge.expect("a bridge"),
    ];
    assert_eq!(occurrences("ip", &ports, "ht"), 2, "somebody was cut off");
    assert_eq!(occurrences("nft", &["list", "tables"], mark), 2);
    let now = vm(&host, "bystander").expect("it is there");
    assert_eq!(now["started_at"], bystander["started_at"]);
    for name in ["web", "bystander"] {
        host.must(200, "DELETE", &format!("/v1/vms/{name}?force=true"), "");
    }
    assert_eq!(occurrences("ip", &["-brief", "link"], mark), 0);
}

/// How many lines of what a program prints have this text in them.
fn occurrences(program: &str, arguments: &[&str], text: &str) -> usize {
    let output = std::process::Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {output:?}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    printed.lines().filter(|line| line.contains(text)).count()
}

/// Lets a daemon die at each of these points, and looks at what the next one makes of it.
fn at_each_of(points: &[&str], host: &mut Standalone, bystander: &Value) {
    for point in points {
        let begun = std::time::Instant::now();
        let daemon = host.try_launch(&[("HOSTLER_FAULT_POINT", point)]);
        let interrupted = walk(host);
        let log = match daemon {
            Ok(daemon) => daemon.end().1,
            Err(log) => log,
        };
        assert!(
            log.contains("aborting at the fault point"),
            "{point} was never reached"
        );
        host.launch(&[]);
        check(host, point, interrupted, bystander);
        assert!(begun.elapsed() < ROUND * 2, "{point}: it took too long");
    }
}

/// `kill -9` somewhere on the walk, forty times.
fn at_moments_that_nobody_chose(host: &mut Standalone, bystander: &Value) {
    host.launch(&[]);
    for round in 0..40_u64 {
        let daemon = host.daemon().take().expect("it runs");
        // Primes, so that moments differ, and spread over what a walk takes.
        let after = Duration::from_millis(10 + round * 97 % 2500);
        let interrupted = std::thread::scope(|scope| {
            let walking = scope.spawn(|| walk(host));
            std::thread::sleep(after);
            daemon.kill();
            walking.join().expect("no panic")
        });
        host.launch(&[]);
        let what = format!("killed after {after:?}");
        check(host, &what, interrupted, bystander);
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
