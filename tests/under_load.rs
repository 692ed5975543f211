//! What breaks while the fleet is at work: the database, a server, the clock, the network. Whatever was
//! acknowledged is there afterwards, the audit trail is whole, and all is well again within ten
//! seconds.

mod island;
mod load;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::postgres::Postgres;
use crate::redis_server::Redis;
use crate::support::{Agent, Plane, Stopwatch, is_long, wait_for};
use island::Island;
use load::{Load, check};

/// From the end of a fault until everything works again.
const RECOVERS_WITHIN: Duration = Duration::from_secs(10);
/// Enough of the fleet's work for a fault to come in the middle of some.
const AT_WORK: usize = 20;

/// Two servers on a database of their own, at this address.
fn two(books: &Postgres, address: Ipv4Addr) -> [Plane; 2] {
    let url = books.url("postgres");
    let one = Plane::start_at(address, &[("HOSTLER_DATABASE_URL", &url)]);
    let other = one.replica();
    [one, other]
}

/// Waits until each of these servers has done something that was asked of it from now on.
fn recovers(load: &Load, servers: &[usize]) {
    let took = Stopwatch::start();
    let marks: Vec<_> = servers.iter().map(|at| load.mark(*at)).collect();
    for mark in marks {
        wait_for("something new is acknowledged", || {
            load.is_past(&mark).then_some(())
        });
    }
    let took = took.elapsed();
    assert!(took < RECOVERS_WITHIN, "all is well only after {took:?}");
}

#[test]
fn a_database_that_crashes_loses_nothing_that_was_acknowledged() {
    let mut books = Postgres::start(&["max_connections=100"]);
    let planes = two(&books, Ipv4Addr::LOCALHOST);
    let load = Load::on(&planes);
    for _ in 0..2 {
        load.works(AT_WORK);
        books.crash();
        recovers(&load, &[0, 1]);
    }
    check(&planes, load.end());
}

#[test]
fn a_redis_that_crashes_takes_nothing_with_it() {
    let books = Postgres::start(&["max_connections=100"]);
    let mut redis = Redis::start();
    let (url, beside) = (books.url("postgres"), redis.url());
    let one = Plane::start_with(&[
        ("HOSTLER_DATABASE_URL", &url),
        ("HOSTLER_REDIS_URL", &beside),
    ]);
    let planes = [one.replica(), one];
    let agent = planes[0].enrol("host");
    let load = Load::on(&planes);
    for times in [1, 2] {
        for plane in &planes {
            wait_for("Redis is used", || {
                let connected = plane.log().matches("connected to Redis").count();
                (connected == times).then_some(())
            });
        }
        load.works(AT_WORK);
        redis.crash();
        recovers(&load, &[0, 1]);
        host_recovers(&planes, &agent);
    }
    redis.stop();
    recovers(&load, &[0, 1]);
    host_recovers(&planes, &agent);
    check(&planes, load.end());
}

#[test]
fn a_server_that_is_killed_loses_nothing_that_was_acknowledged_and_the_other_goes_on() {
    let books = Postgres::start(&["max_connections=100"]);
    let [mut one, other] = two(&books, Ipv4Addr::LOCALHOST);
    let load = Load::on([&one, &other]);
    load.works(AT_WORK);
    // The first is the one that keeps watch.
    one.daemon().take().expect("it runs").kill();
    recovers(&load, &[1]);
    let took = Stopwatch::start();
    wait_for("the other one keeps watch", || {
        other
            .log()
            .contains("this replica keeps watch now")
            .then_some(())
    });
    assert!(took.elapsed() < RECOVERS_WITHIN, "{:?}", took.elapsed());
    one.relaunch();
    recovers(&load, &[0, 1]);
    check(&[one, other], load.end());
}

/// Where Debian has libfaketime: a program's clock is then as far ahead as a file says.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A clock that is not the machine's.
struct Clock(PathBuf);

impl Clock {
    fn new(directory: &Path) -> Self {
        assert!(
            Path::new(FAKETIME).exists(),
            "libfaketime is not there; run ./test, which fetches it, or install Debian's faketime"
        );
        let clock = Self(directory.join("clock"));
        clock.is_ahead(0);
        clock
    }

    /// Steps it: so many seconds before the machine's from now on.
    fn is_ahead(&self, seconds: i64) {
        let next = self.0.with_extension("new");
        std::fs::write(&next, format!("{seconds:+}\n")).expect("written");
        std::fs::rename(&next, &self.0).expect("renamed");
    }

    /// What a program must have in its environment to go by it.
    fn environment(&self) -> [(&str, &str); 4] {
        [
            ("LD_PRELOAD", FAKETIME),
            ("FAKETIME_TIMESTAMP_FILE", self.0.to_str().expect("text")),
            ("FAKETIME_NO_CACHE", "1"),
            // As with clocks that are set: what counts passing time goes on.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ]
    }
}

/// Waits until a host says that it is there, and answers what it is asked, on each server.
fn host_recovers(planes: &[Plane; 2], agent: &Agent) {
    let took = Stopwatch::start();
    for plane in planes {
        wait_for("the host answers", || {
            let status = plane.cli(&["host", "status", &agent.id]);
            status.status.success().then_some(())
        });
    }
    let took = took.elapsed();
    assert!(
        took < RECOVERS_WITHIN,
        "the host answers only after {took:?}"
    );
}

#[test]
fn a_clock_that_is_set_by_an_hour_loses_nothing_that_was_acknowledged() {
    let books = Postgres::start(&["max_connections=100"]);
    let directory = tempfile::tempdir().expect("a directory");
    let clock = Clock::new(directory.path());
    let url = books.url("postgres");
    let mut environment = vec![("HOSTLER_DATABASE_URL", url.as_str())];
    environment.extend(clock.environment());
    let one = Plane::start_with(&environment);
    let other = one.replica();
    let planes = [one, other];
    let agent = Agent::new(planes[0].path("host")).with(&clock.environment());
    let agent = planes[0].enrol_as(agent);
    let load = Load::on(&planes);
    for (times, ahead) in [(1, 3600), (2, 0), (3, -3600), (4, 0)] {
        load.works(AT_WORK);
        clock.is_ahead(ahead);
        recovers(&load, &[0, 1]);
        host_recovers(&planes, &agent);
        // It sees that it was set, and judges nobody by it.
        wait_for("the monitor sees it", || {
            (planes[0].log().matches("the clock was set by").count() == times).then_some(())
        });
    }
    let unreachable = ["audit", "list", "--action", "host.unreachable"];
    let lines = planes[0].ask(&unreachable);
    let blamed = |line: &serde_json::Value| line["object"] == *agent.id;
    assert!(!lines.as_array().expect("a list").iter().any(blamed));
    check(&planes, load.end());
}

#[test]
fn a_host_that_is_cut_off_is_missed_and_back_at_once_and_nobody_else_notices() {
    let island = Island::new();
    let books = Postgres::start(&["max_connections=100"]);
    let planes = two(&books, island.mainland());
    let agent = Agent::new(planes[0].path("host")).within(island.name(), island.address());
    let agent = planes[0].enrol_as(agent);
    let load = Load::on(&planes);
    load.works(AT_WORK);
    host_recovers(&planes, &agent);
    island.cut();
    let refused = planes[0].refused(&["host", "status", &agent.id]);
    assert!(refused.contains(&agent.id), "{refused}");
    let show = || planes[0].ask(&["host", "show", &agent.id]);
    let status = || show()["status"].as_str().expect("a status").to_owned();
    if is_long() {
        let missed = Duration::from_secs(150);
        let took = Stopwatch::start();
        while status() != "unreachable" {
            assert!(took.elapsed() < missed, "it is not missed");
            load.works(AT_WORK);
        }
    } else {
        load.works(4 * AT_WORK);
    }
    recovers(&load, &[0, 1]);
    island.join();
    host_recovers(&planes, &agent);
    let took = Stopwatch::start();
    wait_for("the host is online", || {
        (status() == "online").then_some(())
    });
    assert!(took.elapsed() < RECOVERS_WITHIN, "{:?}", took.elapsed());
    check(&planes, load.end());
}
