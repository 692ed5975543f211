//! `./bench identity`: mutual TLS beside nginx with the same certificates, and what a rotation
//! costs those who live through it.
//!
//! The server under load has one core to itself and the load another one. What is compared is the
//! work done per second of the *server's* CPU time, as the kernel counts it, because on two cores
//! the load is often what is slow. Both servers present the same ECDSA P-256 chain, demand a
//! client certificate, speak TLS 1.3 without resumption and answer two bytes.

mod cpu;
mod load;
mod rotation;
mod servers;
mod streams;
#[path = "../../../hostler/benches/house/table.rs"]
mod table;

use std::future::Future;
use std::time::Duration;

use load::{Kind, Load};
use servers::{Nginx, Ours, Papers};
use table::{Table, median};

/// In turns, so that a busy moment of the machine falls on both.
const ROUNDS: usize = 5;
/// Long beside the 10 ms in which the kernel counts.
const ROUND: Duration = Duration::from_secs(3);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [role, directory] if role == servers::ROLE => return servers::serve(directory.as_ref()),
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
    let (ours, nginx) = (Ours::start(&papers), Nginx::start(&papers));
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
        let (mut own, mut peer, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let rate = |pid, address| {
                let load = Load::new(kind, address, papers.client());
                on_one_thread(load.per_cpu_second(pid, ROUND))
            };
            let (ours, nginx) = (
                rate(ours.pid(), ours.address),
                rate(nginx.pid(), nginx.address),
            );
            own.push(ours);
            peer.push(nginx);
            ratios.push(ours / nginx);
        }
        table.row(
            &format!("{what} per second of server CPU (nginx, the same certificates)"),
            format!("{:.0}", median(own)),
            format!("{:.0}", median(peer)),
            format!("{:.2}", median(ratios)),
            asked,
        );
    }
}

fn on_one_thread<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}
