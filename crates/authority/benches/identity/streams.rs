//! A thousand workloads that listen on one socket: how soon a rotation has reached the last of
//! them, and what each costs the server in memory.

use std::future::pending;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use futures::{Stream, StreamExt};
use hostler_authority::workload_api::{Entries, Entry, Issuer, IssuerError, Selector, WorkloadApi};
use hostler_authority::{Authority, Bundles, Lifetimes};
use hostler_identity::{SpiffeId, TrustDomain};
use jiff::{SignedDuration, Timestamp};
use secrecy::SecretString;
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Svid};
use tokio::sync::watch;

use crate::servers::id;
use crate::table::Table;

pub(crate) const ROLE: &str = "serve-workload-api";
const STREAMS: usize = 1000;
/// Renewed at the half of it, when all streams are long open.
const LIFE: SignedDuration = SignedDuration::from_secs(60);
/// For what opening them cost to be over.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn measure(table: &mut Table) {
    raise_the_limit_of_files();
    let directory = tempfile::tempdir().expect("a directory");
    let mut server = Serving::start(directory.path());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (kib, reached) = runtime.block_on(rotation(&mut server));
    table.row(
        &format!("until a rotation has reached {STREAMS} workload streams on one socket"),
        format!("{:.0} ms", reached.as_secs_f64() * 1000.0),
        "-",
        "-",
        "at most 1000 ms",
    );
    table.row(
        "resident memory per workload stream",
        format!("{kib:.0} KiB"),
        "-",
        "-",
        "at most 64 KiB",
    );
}

type Updates = std::pin::Pin<Box<dyn Stream<Item = Result<X509Svid, WorkloadApiError>> + Send>>;

/// KiB of memory per stream, after the rotation or before it, whichever is more; and how long the
/// rotation took, from the request for a new certificate until the last stream had it.
async fn rotation(server: &mut Serving) -> (f64, Duration) {
    // One stream that counts for nobody: it makes the identity, and what is made once.
    let first = open(&server.endpoint).await;
    server.until_it_signs();
    tokio::time::sleep(SETTLE).await;
    let alone = server.resident_kib();
    let streams = join_all((0..STREAMS).map(|_| open(&server.endpoint))).await;
    tokio::time::sleep(SETTLE).await;
    let before = server.resident_kib();
    let arrivals = join_all(streams.into_iter().map(|mut stream| async move {
        let renewed = stream.next().await.expect("a message").expect("an SVID");
        assert_eq!(renewed.spiffe_id(), &id("/web"));
        (now(), stream)
    }));
    let arrivals = arrivals.await;
    let last = arrivals.iter().map(|(arrival, _)| *arrival).max();
    let took = last
        .expect("a stream")
        .saturating_sub(server.until_it_signs());
    tokio::time::sleep(SETTLE).await;
    let after = server.resident_kib();
    drop(first);
    ((before.max(after) - alone) / STREAMS as f64, took)
}

/// A connection of its own, as each process has one, and the first message read.
async fn open(endpoint: &str) -> Updates {
    let client = WorkloadApiClient::connect_to(endpoint)
        .await
        .expect("it connects");
    let mut stream = client.stream_x509_svids().await.expect("a stream");
    stream.next().await.expect("a message").expect("an SVID");
    Box::pin(stream)
}

fn now() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
}

/// Two files a connection: the socket, and the caller's directory in `/proc`.
fn raise_the_limit_of_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the hard limit is allowed");
}

/// The Workload API in a process of its own.
struct Serving {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    endpoint: String,
}

impl Serving {
    fn start(directory: &Path) -> Self {
        let itself = std::env::current_exe().expect("this program");
        let mut child = Command::new(itself)
            .arg(ROLE)
            .arg(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let endpoint = lines.next().expect("a line").expect("its endpoint");
        Self {
            child,
            lines,
            endpoint,
        }
    }

    /// When it was next asked for a certificate.
    fn until_it_signs(&mut self) -> Duration {
        let line = self.lines.next().expect("a line").expect("a time");
        Duration::from_micros(line.parse().expect("microseconds"))
    }

    fn resident_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        kib.expect("a number")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(
    clippy::print_stdout,
    reason = "how the other process learns the endpoint"
)]
pub(crate) fn serve(directory: &Path) {
    raise_the_limit_of_files();
    let domain = TrustDomain::new("bench.example").expect("a name");
    let lifetimes = Lifetimes {
        svid: LIFE,
        ..Lifetimes::default()
    };
    let at = directory.join("authority");
    let authority = Authority::open_with(&at, domain, lifetimes, Timestamp::now());
    let issuer = Noting(authority.expect("an authority"));
    let me = Selector::Uid(rustix::process::geteuid().as_raw());
    let web = Entry::new(id("/web"), [me]).expect("an entry");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (_entries, seen) = watch::channel(Entries::from_iter([web]));
        let socket = directory.join("workload/api.sock");
        let api = WorkloadApi::bind(&socket, issuer, seen).expect("a socket");
        println!("{}", api.endpoint());
        api.serve(pending()).await.expect("it serves");
    });
}

/// An authority that says when it is asked.
struct Noting(Authority);

impl Issuer for Noting {
    #[allow(clippy::print_stdout, reason = "how the other process learns the time")]
    async fn sign(&self, id: SpiffeId, csr_pem: String) -> Result<String, IssuerError> {
        println!("{}", now().as_micros());
        Issuer::sign(&self.0, id, csr_pem).await
    }

    async fn mint(&self, id: SpiffeId, audience: Vec<String>) -> Result<SecretString, IssuerError> {
        self.0.mint(id, audience).await
    }

    fn bundles(&self) -> watch::Receiver<Bundles> {
        self.0.watch_bundles()
    }
}
