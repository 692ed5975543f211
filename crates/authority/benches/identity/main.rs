//! `./bench identity`: mutual TLS beside nginx with the same certificates, and what a rotation
//! costs those who live through it.
//!
//! The server under load has one core to itself and the load another one. What is compared is the
//! work done per second of the *server's* CPU time, as the kernel counts it, because on two cores
//! the load is often what is slow. Both servers present the same ECDSA P-256 chain, demand a
//! client certificate, speak TLS 1.3 without resumption and answer two bytes.

mod cpu;
mod load;
mod nginx;
mod rotation;
mod servers;
mod streams;
#[path = "../../../hostler/benches/house/table.rs"]
mod table;

use std::future::Future;
use std::time::Duration;

use load::{Kind, Load, Question};
use nginx::Nginx;
use servers::{Ours, Papers};
use table::{Table, median};

const ROOT: Question = Question {
    path: "/",
    authorization: None,
    ending: "ok",
};

/// In turns, so that a busy moment of the machine falls on both.
const ROUNDS: usize = 5;
/// Long beside the 10 ms in which the kernel counts.
const ROUND: Duration = Duration::from_secs(3);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [role, directory] if role == servers::ROLE => return servers::serve(directory.as_ref()),
        [role, directory] if role == servers::BARE_ROLE => {
            return servers::serve_bare(directory.as_ref());
        }
        [role, directory] if role == streams::ROLE => return streams::serve(directory.as_ref()),
        _ => {}
    }
    // cargo passes --bench; whatever else is there chooses rows.
    let chosen: Vec<_> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let wanted = |row: &str| {
        let named = |name: &&String| *name == row || *name == "identity";
        chosen.is_empty() || chosen.iter().any(named)
    };
    let mut table = Table::default();
    // Before the processor is pinned: these two use the whole machine.
    if wanted("rotation") {
        rotation::measure(&mut table);
    }
    if wanted("streams") {
        streams::measure(&mut table);
    }
    if wanted("mtls") {
        beside_nginx(&mut table);
    }
    table.print();
}

fn beside_nginx(table: &mut Table) {
    let papers = Papers::new();
    let ours = Ours::start(servers::ROLE, &papers);
    let bare = Ours::start(servers::BARE_ROLE, &papers);
    let nginx = Nginx::start(
        papers.path(),
        "ssl_client_certificate bundle.pem; ssl_verify_client on;",
    );
    cpu::pin_to(cpu::LOAD);
    for (what, kind, asked) in [
        (
            "full mTLS 1.3 handshakes",
            Kind::Handshakes,
            "at least 2.50",
        ),
        (
            "mTLS requests, HTTP/1.1 keep-alive",
            Kind::Http1,
            "at least 1.00",
        ),
        ("mTLS requests, HTTP/2", Kind::Http2, "at least 2.00"),
    ] {
        let mut rounds = Rounds::default();
        for _ in 0..ROUNDS {
            let rate = |pid, address| {
                let load = Load::new(kind, address, papers.client(), ROOT);
                on_one_thread(load.per_cpu_second(pid, ROUND))
            };
            rounds.ours.push(rate(ours.pid(), ours.address));
            rounds.nginx.push(rate(nginx.pid(), nginx.address));
            rounds.bare.push(rate(bare.pid(), bare.address));
        }
        let per_second = format!("{what} per second of server CPU");
        let mut beside = |peer: &[f64], whose, asked| {
            let ratios = rounds.ours.iter().zip(peer).map(|(ours, peer)| ours / peer);
            table.row(
                &format!("{per_second} ({whose}, the same certificates)"),
                format!("{:.0}", median(rounds.ours.clone())),
                format!("{:.0}", median(peer.to_vec())),
                format!("{:.2}", median(ratios.collect())),
                asked,
            );
        };
        beside(&rounds.nginx, "nginx", asked);
        beside(&rounds.bare, "bare hyper and rustls", "at least 0.90");
    }
}

/// What each server did per second of its CPU, round by round.
#[derive(Default)]
struct Rounds {
    ours: Vec<f64>,
    nginx: Vec<f64>,
    bare: Vec<f64>,
}

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}
