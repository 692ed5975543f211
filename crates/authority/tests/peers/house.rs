//! Our side: an authority, its Workload API, a server, and SVIDs written to files.

use std::fs::{self, Permissions};
use std::future::Future;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use hostler_authority::workload_api::{Entries, Entry, Selector, WorkloadApi};
use hostler_authority::{Authority, Lifetimes};
use hostler_identity::{
    Authorizer, KeyAndCsr, PeerIdentity, Server, Source, SpiffeId, Svid, TrustDomain,
};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Far beyond what anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes far too long")
}

pub(crate) fn id(path: &str) -> SpiffeId {
    format!("spiffe://a.example{path}").parse().unwrap()
}

/// An authority of the trust domain `a.example`. Two houses have the name in common and nothing
/// else: the second one is an impostor.
pub(crate) struct House {
    pub(crate) authority: Authority,
    dir: TempDir,
}

/// A Workload API that runs.
pub(crate) struct Socket {
    pub(crate) endpoint: String,
    task: JoinHandle<()>,
    _entries: watch::Sender<Entries>,
}

/// A server that greets its caller by name.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

/// An SVID as PEM files, for programs that know nothing of SPIFFE.
pub(crate) struct Files {
    pub(crate) svid: Svid,
    pub(crate) chain: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) bundle: PathBuf,
    pub(crate) dir: TempDir,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with(Lifetimes::default())
    }

    /// SVIDs are renewed every four to five seconds, the next root signs after half a minute.
    pub(crate) fn hasty() -> Self {
        Self::with(Lifetimes {
            root: SignedDuration::from_secs(36),
            svid: SignedDuration::from_secs(9),
            backdate: SignedDuration::from_secs(1),
            ..Lifetimes::default()
        })
    }

    fn with(lifetimes: Lifetimes) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let domain = TrustDomain::new("a.example").unwrap();
        let at = dir.path().join("authority");
        let authority = Authority::open_with(&at, domain, lifetimes, Timestamp::now()).unwrap();
        Self { authority, dir }
    }

    pub(crate) fn source(&self, path: &str) -> Source {
        self.authority.source(&id(path)).unwrap()
    }

    /// A Workload API for which every process of this user is `path`; for `None`, nobody.
    pub(crate) fn socket(&self, path: Option<&str>) -> Socket {
        let me = Selector::Uid(rustix::process::geteuid().as_raw());
        let entry = |path| Entry::new(id(path), [me.clone()]).unwrap();
        let (entries, seen) = watch::channel(path.map(entry).into_iter().collect());
        let name = path.unwrap_or("/nobody").trim_start_matches('/');
        let at = self.dir.path().join(format!("{name}/api.sock"));
        let api = WorkloadApi::bind(&at, self.authority.clone(), seen).unwrap();
        Socket {
            endpoint: api.endpoint(),
            task: tokio::spawn(async move { api.serve(std::future::pending()).await.unwrap() }),
            _entries: entries,
        }
    }

    /// A server that is `path` and lets `clients` in.
    pub(crate) async fn server(&self, path: &str, clients: Authorizer) -> Serving {
        Serving::new(&self.source(path), clients).await
    }

    pub(crate) fn files(&self, path: &str) -> Files {
        let own = KeyAndCsr::generate(None).unwrap();
        let issued = self
            .authority
            .sign_csr(&own.csr_pem, &id(path), Timestamp::now());
        let chain_pem = issued.unwrap().chain_pem;
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = dir.path().join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            file
        };
        Files {
            svid: Svid::from_pem(&chain_pem, &own.key_pem).unwrap(),
            chain: write("chain.pem", &chain_pem),
            key: write("key.pem", own.key_pem.expose_secret()),
            bundle: write("bundle.pem", &self.authority.bundle_pem()),
            dir,
        }
    }
}

impl Serving {
    pub(crate) async fn new(source: &Source, clients: Authorizer) -> Self {
        let server = Server::bind("127.0.0.1:0", source, clients).await.unwrap();
        let greet = |peer: PeerIdentity| async move { format!("hello, {}", peer.id()) };
        let app = Router::new().fallback(any(greet));
        Self {
            address: server.local_addr().unwrap(),
            task: tokio::spawn(server.serve(app, std::future::pending())),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}/", self.address)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}
