//! `./bench gateway`: what a door costs beside nginx and beside a bare axum server, with the same
//! certificate.
//!
//! The server has one core to itself and the load another one. What is compared is the work done
//! per second of the *server's* CPU time, as the kernel counts it, because on two cores the load is
//! often what is slow. The server is the daemon that people run, with its access log off as nginx
//! has it off; where operations with little to do are called, it is a door with two such.

mod events;
mod idle;
mod layer;
mod over_quic;
mod servers;
mod shelf;

#[path = "../../../authority/benches/identity/load.rs"]
mod load;
#[path = "../../../authority/benches/identity/nginx.rs"]
mod nginx;

use std::net::SocketAddr;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::runtime::Runtime;

use crate::cpu;
use crate::server::Server;
use crate::table::{Table, median};
use load::{Kind, Load, Question};
use nginx::Nginx;
use servers::{Papers, Peer};

pub(crate) use servers::{BARE, OPERATIONS, serve_bare, serve_operations};

/// In turns, so that a busy moment of the machine falls on all.
const ROUNDS: usize = 5;
/// Long beside the 10 ms in which the kernel counts.
const ROUND: Duration = Duration::from_secs(3);
/// Before a measurement begins.
const WARM_UP: Duration = Duration::from_millis(500);

const HEALTH: Question = Question {
    path: "/healthz",
    authorization: None,
    ending: "ok",
};

pub(crate) fn measure(table: &mut Table) {
    // Other rows use the whole machine, so only this thread and its children are pinned.
    let measured = std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            layer::measure(table);
            cpu::pin_to(cpu::LOAD);
            let all = All::start();
            all.health(table);
            all.query(table);
            all.over_quic(table);
            events::measure(&all.papers, table);
            idle::measure(&all.papers, table);
        });
        thread.join()
    });
    measured.expect("it is measured");
}

/// Everything that is compared, each in a process of its own.
struct All {
    papers: Papers,
    daemon: Server,
    operations: Peer,
    bare: Peer,
    nginx: Nginx,
}

/// A process to load.
#[derive(Clone, Copy)]
struct Target {
    pid: u32,
    address: SocketAddr,
}

impl All {
    fn start() -> Self {
        let papers = Papers::new();
        Self {
            daemon: papers.daemon(&[]),
            operations: Peer::start(OPERATIONS, &papers),
            bare: Peer::start(BARE, &papers),
            nginx: Nginx::start(papers.path(), ""),
            papers,
        }
    }

    fn daemon(&self) -> Target {
        Target {
            pid: self.daemon.pid(),
            address: self.daemon.people.parse().expect("an address"),
        }
    }

    fn health(&self, table: &mut Table) {
        let nginx = Target {
            pid: self.nginx.pid(),
            address: self.nginx.address,
        };
        for (what, kind, beside_nginx, beside_bare) in [
            ("TLS 1.3 handshakes", Kind::Handshakes, "-", "-"),
            (
                "/healthz over HTTP/1.1 keep-alive",
                Kind::Http1,
                "at least 1.00",
                "-",
            ),
            (
                "/healthz over HTTP/2",
                Kind::Http2,
                "at least 2.00",
                "at least 0.90",
            ),
        ] {
            let peers = [self.daemon(), nginx, self.bare.target()];
            let [ours, nginx, bare] = rounds(peers.map(|peer| {
                let config = self.papers.client();
                move || in_cpu_second(peer, kind, config.clone(), HEALTH)
            }));
            let what = format!("{what} per second of server CPU");
            beside(
                table,
                &format!("{what} (nginx)"),
                &ours,
                &nginx,
                beside_nginx,
            );
            beside(
                table,
                &format!("{what} (bare axum)"),
                &ours,
                &bare,
                beside_bare,
            );
        }
    }

    fn query(&self, table: &mut Table) {
        let client = || self.papers.client();
        let thing = Question {
            path: shelf::PATH,
            authorization: Some(format!("Bearer {}", shelf::TOKEN)),
            ending: shelf::ENDING,
        };
        let own = Question {
            path: "/v1/hosts",
            authorization: Some(format!("Bearer {}", self.daemon.key)),
            ending: "]",
        };
        let (daemon, operations, bare) =
            (self.daemon(), self.operations.target(), self.bare.target());
        let asked = |target: Target, question: &Question| {
            let (config, question) = (client(), question.clone());
            move || in_cpu_second(target, Kind::Http2, config.clone(), question.clone())
        };
        let all = [(operations, &thing), (bare, &thing), (daemon, &own)];
        let [operations, bare, daemon] = rounds(all.map(|(target, what)| asked(target, what)));
        let what = "a small authenticated query over HTTP/2 per second of server CPU (bare axum)";
        beside(table, what, &operations, &bare, "at least 0.70");
        let what = "hosts/list of the daemon, where there are none, likewise (bare axum)";
        beside(table, what, &daemon, &bare, "-");
    }

    fn over_quic(&self, table: &mut Table) {
        let (daemon, operations) = (self.daemon(), self.operations.target());
        let config = || self.papers.client();
        let (for_h3, for_h2, for_calls) = (config(), config(), config());
        let [h3, h2, calls] = rounds::<3>([
            Box::new(move || over_quic::requests(daemon, for_h3.clone())) as Box<dyn Fn() -> f64>,
            Box::new(move || in_cpu_second(daemon, Kind::Http2, for_h2.clone(), HEALTH)),
            Box::new(move || over_quic::calls(operations, for_calls.clone())),
        ]);
        let what = "/healthz over HTTP/3 per second of server CPU (our own HTTP/2)";
        beside(table, what, &h3, &h2, "at least 0.33");
        table.row(
            "calls of a query over QUIC per second of server CPU",
            format!("{:.0}", median(calls)),
            "-",
            "-",
            "at least 50000",
        );
    }
}

/// What each did, round by round.
fn rounds<const N: usize>(work: [impl Fn() -> f64; N]) -> [Vec<f64>; N] {
    let mut done = [const { Vec::new() }; N];
    for _ in 0..ROUNDS {
        for (done, work) in done.iter_mut().zip(&work) {
            done.push(work());
        }
    }
    done
}

fn in_cpu_second(target: Target, kind: Kind, config: ClientConfig, question: Question) -> f64 {
    let load = Load::new(kind, target.address, config, question);
    on_one_thread().block_on(load.per_cpu_second(target.pid, ROUND))
}

fn on_one_thread() -> Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

fn beside(table: &mut Table, what: &str, ours: &[f64], peer: &[f64], asked: &str) {
    let ratios = ours.iter().zip(peer).map(|(ours, peer)| ours / peer);
    table.row(
        what,
        format!("{:.0}", median(ours.to_vec())),
        format!("{:.0}", median(peer.to_vec())),
        format!("{:.2}", median(ratios.collect())),
        asked,
    );
}
