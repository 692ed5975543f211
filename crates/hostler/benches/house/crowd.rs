//! `./bench fleet`: many hosts. They are simulated over real sockets: each is created, registers
//! with its one-time token and sends its heartbeats when they are due, and the server is the one
//! that people run, on PostgreSQL (as it is after `initdb`, waiting for the disk) or SQLite.
//!
//! A heartbeat's delay counts from the moment when it was due, so that a server that stalls does
//! not get fewer questions and a better figure.

mod beats;
mod people;
mod wire;

#[path = "../../../fleet/tests/it/postgres.rs"]
mod postgres;

use std::time::{Duration, Instant};

use hostler_identity::KeyAndCsr;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::host::percentile;
use crate::memory::resident_mib;
use crate::server::Server;
use crate::table::Table;
use postgres::Postgres;
use wire::{Door, request};

/// How often a host says that it is there.
pub(crate) const PERIOD: Duration = Duration::from_secs(30);
/// How many connections create and register hosts at a time.
const CLERKS: usize = 16;
/// How many connections many hosts share.
const SHARED: usize = 2000;
/// Fleets of growing size on one server, and for how long each is watched.
const SIZES: [(usize, Duration); 3] = [
    (1_000, Duration::from_secs(60)),
    (10_000, Duration::from_secs(60)),
    (100_000, Duration::from_secs(300)),
];

/// A host as the server knows it.
#[derive(Clone)]
pub(crate) struct Enrolled {
    pub(crate) id: String,
    pub(crate) token: String,
    /// Its certificate chain, and the roots of its trust domain (PEM).
    pub(crate) svid: String,
    pub(crate) bundle: String,
}

pub(crate) fn measure(table: &mut Table, chosen: &[&str]) {
    // The bench has several libraries that bring cryptography; this is the one of the house.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = Runtime::new().expect("a runtime");
    let largest = chosen.iter().find_map(|word| word.parse().ok());
    let largest = largest.unwrap_or(100_000_usize);
    runtime.block_on(async {
        on_postgres(table, largest).await;
        on_sqlite(table).await;
    });
}

async fn on_postgres(table: &mut Table, largest: usize) {
    let books = Postgres::start(&["max_connections=100"]);
    let crowd = Crowd::new(Server::start(&["--database-url", &books.url("postgres")]));
    let mut hosts: Vec<Enrolled> = Vec::new();
    for (size, watched) in SIZES.into_iter().filter(|(size, _)| *size <= largest) {
        let (created, registered) = crowd.grow(&mut hosts, size).await;
        table.row(
            &format!("{size} hosts: created, registered"),
            format!("{created:.0}/s, {registered:.0}/s"),
            "-",
            "-",
            "registered at least 200/s",
        );
        beats::come_back(&crowd, &hosts, table).await;
        let beats = beats::run(&crowd, &hosts, watched).await;
        beats.row(table, &format!("{size} hosts, PostgreSQL: heartbeats"));
        people::measure(&crowd, size, table).await;
    }
    if largest >= 10_000 {
        beats::on_own_connections(&crowd, &hosts[..10_000], table).await;
    }
}

async fn on_sqlite(table: &mut Table) {
    let crowd = Crowd::new(Server::start(&[]));
    let mut hosts = Vec::new();
    crowd.grow(&mut hosts, 5_000).await;
    beats::come_back(&crowd, &hosts, table).await;
    let beats = beats::run(&crowd, &hosts, Duration::from_secs(60)).await;
    beats.row(table, "5000 hosts, SQLite: heartbeats");
}

/// The server, and what it takes to talk to it.
pub(crate) struct Crowd {
    pub(crate) server: Server,
    pub(crate) door: Door,
    /// One key for all hosts: it is the certificates that differ.
    pub(crate) key: KeyAndCsr,
}

impl Crowd {
    fn new(server: Server) -> Self {
        let pem = std::fs::read(server.ca()).expect("the CA");
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_slice_iter(&pem).flatten();
        roots.add_parsable_certificates(certificates);
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let door = Door::new(&server.people, config);
        let key = KeyAndCsr::generate(None).expect("a key");
        Self { server, door, key }
    }

    pub(crate) fn as_admin(&self) -> String {
        format!("authorization: Bearer {}", self.server.key)
    }

    /// Creates and registers hosts until there are so many; how many a second of each.
    async fn grow(&self, hosts: &mut Vec<Enrolled>, size: usize) -> (f64, f64) {
        let missing = size - hosts.len();
        let creation = request("POST", "/v1/hosts", &self.as_admin(), "{}");
        let (rate, created) = self.all(vec![creation; missing]).await;
        let registrations = created.iter().map(|created| {
            let body = json!({
                "token": created["registration_token"],
                "address": "127.0.0.1:9", "arch": "x86_64",
                "cpu_cores": 16, "memory_mb": 65_536, "disk_gb": 1000, "csr": self.key.csr_pem,
            });
            request(
                "POST",
                "/v1/hosts/register",
                "accept: */*",
                &body.to_string(),
            )
        });
        let (registered_rate, registered) = self.all(registrations.collect()).await;
        hosts.extend(registered.into_iter().map(|said| Enrolled {
            id: text(&said["host"]["id"]),
            token: text(&said["token"]),
            svid: text(&said["svid"]),
            bundle: text(&said["bundle"]),
        }));
        (rate, registered_rate)
    }

    /// Sends all of these over a few connections; how many a second, and what was answered.
    pub(crate) async fn all(&self, requests: Vec<Vec<u8>>) -> (f64, Vec<Value>) {
        let count = requests.len();
        let mut shares: Vec<Vec<Vec<u8>>> = vec![Vec::new(); CLERKS];
        for (n, request) in requests.into_iter().enumerate() {
            shares[n % CLERKS].push(request);
        }
        let begun = Instant::now();
        let mut clerks = JoinSet::new();
        for share in shares {
            let door = self.door.clone();
            clerks.spawn(async move {
                let mut wire = door.connect().await.expect("a connection");
                let mut answers = Vec::with_capacity(share.len());
                for request in &share {
                    answers.push(wire.json(request).await.expect("a success"));
                }
                answers
            });
        }
        let answers = clerks.join_all().await.into_iter().flatten().collect();
        (count as f64 / begun.elapsed().as_secs_f64(), answers)
    }

    /// How many hosts the server says are in this status.
    pub(crate) fn in_status(&self, status: &str) -> u64 {
        let said = self.server.ask(&["status"]);
        said["hosts"][status].as_u64().unwrap_or(0)
    }

    pub(crate) fn resident_mib(&self) -> f64 {
        resident_mib(self.server.pid())
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// Milliseconds below which so many hundredths of these are.
pub(crate) fn at(values: &mut [f64], hundredths: usize) -> f64 {
    match values {
        [] => f64::NAN,
        values => percentile(values, hundredths),
    }
}
