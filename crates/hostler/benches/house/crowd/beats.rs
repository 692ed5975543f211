//! Hosts that say that they are there, each when it is due.

use std::time::Duration;

use hostler_identity::{Authorizer, Source, Svid, TrustBundles, client_config};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::wire::{Door, Wire, request};
use super::{Crowd, Enrolled, PERIOD, SHARED, at};
use crate::host::ms;
use crate::many::cpu_ms;
use crate::table::Table;

/// What a run of heartbeats came to.
pub(crate) struct Beats {
    /// Milliseconds from when each was due to its answer.
    delays: Vec<f64>,
    per_second: f64,
    /// Cores that the server used.
    cores: f64,
    memory_mib: f64,
    /// How many hosts were called unreachable meanwhile.
    lost: u64,
}

impl Beats {
    pub(crate) fn row(mut self, table: &mut Table, what: &str) {
        table.row(
            what,
            format!(
                "{:.0}/s, p50 {:.1} ms, p99 {:.1} ms, {:.2} cores, {:.0} MiB, {} lost",
                self.per_second,
                at(&mut self.delays, 50),
                at(&mut self.delays, 99),
                self.cores,
                self.memory_mib,
                self.lost,
            ),
            "-",
            "-",
            "p99 50 ms, 1 core, none lost; 500 MiB",
        );
    }
}

fn beat(host: &Enrolled) -> Vec<u8> {
    let path = format!("/v1/hosts/{}/heartbeat", host.id);
    let header = format!("x-host-token: {}", host.token);
    request("POST", &path, &header, r#"{"vms":[]}"#)
}

/// Has all these hosts send a heartbeat, as fast as the server takes them. It took a while until the
/// last of them was registered, so some that were silent meanwhile come back now.
pub(crate) async fn come_back(crowd: &Crowd, hosts: &[Enrolled], table: &mut Table) {
    let silent = crowd.in_status("unreachable");
    let beats = hosts.iter().map(beat).collect();
    let begun = Instant::now();
    let (rate, _) = crowd.all(beats).await;
    table.row(
        &format!("{} hosts at once, of which {silent} come back", hosts.len()),
        format!("{rate:.0}/s, {:.1} s", begun.elapsed().as_secs_f64()),
        "-",
        "-",
        "-",
    );
}

/// Has all these hosts send heartbeats for so long, over connections that they share.
pub(crate) async fn run(crowd: &Crowd, hosts: &[Enrolled], length: Duration) -> Beats {
    let connections = SHARED.min(hosts.len());
    let mut wires = Vec::with_capacity(connections);
    for _ in 0..connections {
        wires.push(crowd.door.connect().await.expect("a connection"));
    }
    let begun = Instant::now() + Duration::from_millis(100);
    let mut senders = JoinSet::new();
    for (first, wire) in wires.into_iter().enumerate() {
        // Host n of all is due at the n-th part of the period.
        let due = |n: usize| PERIOD.mul_f64(n as f64 / hosts.len() as f64);
        let share: Vec<(Duration, Vec<u8>)> = (first..hosts.len())
            .step_by(connections)
            .map(|n| (due(n), beat(&hosts[n])))
            .collect();
        senders.spawn(send(wire, share, begun, length));
    }
    // The first round is for the caches.
    tokio::time::sleep_until(begun + PERIOD).await;
    let cpu = cpu_ms(crowd.server.pid()) / 1000.0;
    tokio::time::sleep_until(begun + length).await;
    let cpu = cpu_ms(crowd.server.pid()) / 1000.0 - cpu;
    let delays: Vec<f64> = senders.join_all().await.into_iter().flatten().collect();
    let watched = (length - PERIOD).as_secs_f64();
    Beats {
        per_second: delays.len() as f64 / watched,
        cores: cpu / watched,
        memory_mib: crowd.resident_mib(),
        lost: crowd.in_status("unreachable"),
        delays,
    }
}

/// Sends each of these heartbeats once in a period; the delays after the first.
async fn send(
    mut wire: Wire,
    share: Vec<(Duration, Vec<u8>)>,
    begun: Instant,
    length: Duration,
) -> Vec<f64> {
    let mut delays = Vec::new();
    let mut round = 0;
    loop {
        for (due, request) in &share {
            let due = begun + PERIOD * round + *due;
            if due >= begun + length {
                return delays;
            }
            tokio::time::sleep_until(due).await;
            let status = wire.status(request).await.expect("an answer");
            assert_eq!(status, 204, "a heartbeat is refused");
            if round > 0 {
                delays.push(ms(due.elapsed()));
            }
        }
        round += 1;
    }
}

/// What a connection costs the server when each host has one, by its certificate.
pub(crate) async fn on_own_connections(crowd: &Crowd, hosts: &[Enrolled], table: &mut Table) {
    let before = crowd.resident_mib();
    let mut wires = Vec::with_capacity(hosts.len());
    for host in hosts {
        let svid = Svid::from_pem(&host.svid, &crowd.key.key_pem).expect("an SVID");
        let domain = svid.id().trust_domain().clone();
        let roots = TrustBundles::from_pem(domain, &host.bundle).expect("roots");
        let (source, _kept) = Source::memory(svid, roots);
        let control_plane = Authorizer::matcher(|id| id.path().starts_with("/control-plane/"));
        let config = client_config(&source, control_plane);
        let door = Door::new(&crowd.server.machines, config);
        let mut wire = door.connect().await.expect("a connection");
        let path = format!("/v1/hosts/{}/heartbeat", host.id);
        let request = request("POST", &path, "accept: */*", r#"{"vms":[]}"#);
        let status = wire.status(&request).await.expect("an answer");
        assert_eq!(status, 204, "a heartbeat is refused");
        wires.push(wire);
    }
    let kib = (crowd.resident_mib() - before) * 1024.0 / hosts.len() as f64;
    table.row(
        &format!("{} hosts on a connection each", hosts.len()),
        format!("{kib:.1} KiB a connection"),
        "-",
        "-",
        "at most 40 KiB",
    );
}
