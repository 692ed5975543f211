//! A control plane for agents to meet: real doors, and answers as strict as the real one's.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::extract::{self, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hostler_host::agent::{AgentConfig, ServerPin, ServerTrust};
use hostler_identity::{Authorizer, PeerIdentity, Server, Source, SourceWriter, crypto_provider};
use http::{HeaderMap, StatusCode};
use rcgen::SanType;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::certs::Ca;
use crate::support::{PATIENCE, until};

pub(crate) const TOKEN: &str = "a registration token";
pub(crate) const HOST_ID: &str = "host-0000000000000000000000001";

/// What a control plane was told.
#[derive(Debug, Clone)]
pub(crate) enum Heard {
    Registration(Value),
    Heartbeat(Value),
    /// A renewal, by which door, for which public key.
    Renewal(Door, Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Machines,
    Peoples,
}

/// How it answers, and what it has heard.
pub(crate) struct Desk {
    token: Option<&'static str>,
    /// How many host tokens were given out; each is good, as the real ones are.
    host_tokens: usize,
    pub(crate) svid_life: Duration,
    pub(crate) heartbeats: StatusCode,
    pub(crate) renewals_by_svid: StatusCode,
    pub(crate) renewals_by_token: StatusCode,
    pub(crate) heard: Vec<Heard>,
}

type Shared = Arc<Mutex<Desk>>;

pub(crate) struct ControlPlane {
    pub(crate) trust_domain_ca: Arc<Ca>,
    pub(crate) door_ca: Ca,
    pub(crate) source: Source,
    desk: Shared,
    people: SocketAddr,
    machines: SocketAddr,
    peoples_tls: Arc<rustls::ServerConfig>,
    peoples_leaf: CertificateDer<'static>,
    open: Option<OpenDoors>,
    _writer: SourceWriter,
}

struct OpenDoors {
    closing: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        let address = SanType::IpAddress(Ipv4Addr::LOCALHOST.into());
        Self::start_as(address, OffsetDateTime::now_utc() - Duration::from_secs(60)).await
    }

    /// With a certificate for the people's door that names `name` and is valid from `from` on.
    pub(crate) async fn start_as(name: SanType, from: OffsetDateTime) -> Self {
        let trust_domain_ca = Arc::new(Ca::of_trust_domain());
        let door_ca = Ca::of_doors();
        let (leaf, key) = door_ca.server(name, from);
        let chain = vec![leaf.clone(), door_ca.der.clone()];
        let mut tls = rustls::ServerConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let svid = trust_domain_ca.svid("/control-plane/1");
        let (source, writer) = Source::memory(svid, trust_domain_ca.bundles());
        let unbound = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut this = Self {
            trust_domain_ca,
            door_ca,
            source,
            desk: Arc::new(Mutex::new(Desk {
                token: Some(TOKEN),
                host_tokens: 0,
                svid_life: Duration::from_secs(3600),
                heartbeats: StatusCode::NO_CONTENT,
                renewals_by_svid: StatusCode::OK,
                renewals_by_token: StatusCode::OK,
                heard: Vec::new(),
            })),
            people: unbound,
            machines: unbound,
            peoples_tls: Arc::new(tls),
            peoples_leaf: leaf,
            open: None,
            _writer: writer,
        };
        this.open().await;
        this
    }

    /// Opens the doors, at the same addresses as the last time.
    pub(crate) async fn open(&mut self) {
        let (people, machines) = (self.people, self.machines);
        let people = until("the people's door", async || {
            TcpListener::bind(people).await.ok()
        })
        .await;
        let source = &self.source;
        let machines = until("the machines' door", async || {
            let hosts = Authorizer::matcher(|id| id.path().starts_with("/host/"));
            Server::bind(machines, source, hosts).await.ok()
        })
        .await;
        self.people = people.local_addr().unwrap();
        self.machines = machines.local_addr().unwrap();
        let state = Answering {
            desk: Arc::clone(&self.desk),
            ca: Arc::clone(&self.trust_domain_ca),
            machines_url: format!("https://{}", self.machines),
        };
        let router = Router::new()
            .route("/v1/hosts/register", post(register))
            .route("/v1/hosts/{id}/svid", post(renew))
            .route("/v1/hosts/{id}/heartbeat", post(heartbeat))
            .with_state(state);
        let closing = CancellationToken::new();
        let closed = closing.clone().cancelled_owned();
        let for_machines = tokio::spawn(machines.serve(router.clone(), closed));
        let listener = TlsListener {
            tcp: people,
            tls: TlsAcceptor::from(Arc::clone(&self.peoples_tls)),
        };
        let closed = closing.clone().cancelled_owned();
        let for_people = tokio::spawn(async move {
            let serving = axum::serve(listener, router).with_graceful_shutdown(closed);
            serving.await.unwrap();
        });
        self.open = Some(OpenDoors {
            closing,
            tasks: vec![for_people, for_machines],
        });
    }

    /// Closes the doors: connections are refused.
    pub(crate) async fn close(&mut self) {
        let open = self.open.take().unwrap();
        open.closing.cancel();
        for task in open.tasks {
            task.await.unwrap();
        }
    }

    /// While its doors are closed: lets this many attempts to reach the machines' door fail.
    pub(crate) async fn turns_away(&self, attempts: usize) {
        let machines = self.machines;
        let listen = async || TcpListener::bind(machines).await.ok();
        let listener = until("the port of the machines' door", listen).await;
        for _ in 0..attempts {
            let attempt = tokio::time::timeout(PATIENCE, listener.accept()).await;
            drop(attempt.unwrap().unwrap());
        }
    }

    pub(crate) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap()
    }

    /// The number of things heard so far that `is` recognises.
    pub(crate) fn count(&self, is: impl Fn(&Heard) -> bool) -> usize {
        self.desk().heard.iter().filter(|heard| is(heard)).count()
    }

    /// Waits until it has heard `more` heartbeats than now.
    pub(crate) async fn hears_heartbeats(&self, more: usize) {
        let is = |heard: &Heard| matches!(heard, Heard::Heartbeat(_));
        let before = self.count(is);
        until("heartbeats", async || {
            (self.count(is) >= before + more).then_some(())
        })
        .await;
    }

    /// The public keys that were certified by way of `door`, oldest first.
    pub(crate) fn renewals(&self, door: Door) -> Vec<Vec<u8>> {
        let desk = self.desk();
        let keys = desk.heard.iter().filter_map(|heard| match heard {
            Heard::Renewal(by, key) if *by == door => Some(key.clone()),
            _ => None,
        });
        keys.collect()
    }

    /// The configuration of an agent that trusts the CA of the people's door.
    pub(crate) fn config(&self, data: &Path) -> AgentConfig {
        let trust = ServerTrust::CaPem(self.door_ca.pem.clone());
        let server = format!("https://{}", self.people).parse().unwrap();
        let mut config = AgentConfig::new(server, trust, "127.0.0.1:9443", data);
        config.heartbeat_interval = Duration::from_millis(300);
        config
    }

    /// The same, with the registration token.
    pub(crate) fn registering(&self, data: &Path) -> AgentConfig {
        let mut config = self.config(data);
        config.register = Some(TOKEN.into());
        config
    }

    pub(crate) fn leaf_pin(&self) -> ServerPin {
        ServerPin::of(&self.peoples_leaf).unwrap()
    }

    pub(crate) fn ca_pin(&self) -> ServerPin {
        ServerPin::of(&self.door_ca.der).unwrap()
    }
}

struct TlsListener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (tcp, from) = self.tcp.accept().await.unwrap();
            // A client that does not trust us ends here.
            if let Ok(tls) = self.tls.accept(tcp).await {
                return (tls, from);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

#[derive(Clone)]
struct Answering {
    desk: Shared,
    ca: Arc<Ca>,
    machines_url: String,
}

fn error(status: StatusCode) -> Response {
    let code = match status {
        StatusCode::UNAUTHORIZED => "unauthorized",
        StatusCode::FORBIDDEN => "forbidden",
        StatusCode::NOT_FOUND => "not_found",
        _ => "internal_error",
    };
    let error = json!({
        "code": code, "message": format!("the answer is {status}"), "retryable": false,
        "request_id": "r-1",
    });
    (status, axum::Json(json!({ "error": error }))).into_response()
}

impl Desk {
    fn next_host_token(&mut self) -> String {
        self.host_tokens += 1;
        format!("a.host.token-{}", self.host_tokens)
    }

    fn is_host_token(&self, token: &str) -> bool {
        let number = token.strip_prefix("a.host.token-");
        let number = number.and_then(|number| number.parse().ok());
        number.is_some_and(|number: usize| (1..=self.host_tokens).contains(&number))
    }
}

async fn register(
    State(state): State<Answering>,
    extract::Json(body): extract::Json<Value>,
) -> Response {
    let mut desk = state.desk.lock().unwrap();
    if desk.token.is_none() || body["token"].as_str() != desk.token {
        return error(StatusCode::UNAUTHORIZED);
    }
    desk.token = None;
    let path = format!("/host/{HOST_ID}");
    let (svid, _) = state
        .ca
        .sign(body["csr"].as_str().unwrap(), &path, desk.svid_life);
    desk.heard.push(Heard::Registration(body));
    let answer = json!({
        "host": { "id": HOST_ID, "status": "online" }, "token": desk.next_host_token(), "svid": svid,
        "bundle": state.ca.pem, "machines_url": state.machines_url,
    });
    (StatusCode::CREATED, axum::Json(answer)).into_response()
}

async fn renew(
    State(state): State<Answering>,
    extract::Path(id): extract::Path<String>,
    peer: Option<PeerIdentity>,
    headers: HeaderMap,
    extract::Json(body): extract::Json<Value>,
) -> Response {
    let mut desk = state.desk.lock().unwrap();
    let path = format!("/host/{id}");
    let (door, status, proved) = match &peer {
        Some(peer) => (Door::Machines, desk.renewals_by_svid, peer.path() == path),
        None => {
            let token = headers
                .get("x-host-token")
                .and_then(|token| token.to_str().ok());
            (
                Door::Peoples,
                desk.renewals_by_token,
                token.is_some_and(|token| desk.is_host_token(token)),
            )
        }
    };
    if !proved {
        return error(StatusCode::FORBIDDEN);
    }
    if !status.is_success() {
        return error(status);
    }
    let (svid, key) = state
        .ca
        .sign(body["csr"].as_str().unwrap(), &path, desk.svid_life);
    desk.heard.push(Heard::Renewal(door, key));
    let token = desk.next_host_token();
    axum::Json(json!({ "svid": svid, "token": token, "bundle": state.ca.pem })).into_response()
}

async fn heartbeat(
    State(state): State<Answering>,
    extract::Path(id): extract::Path<String>,
    peer: PeerIdentity,
    extract::Json(body): extract::Json<Value>,
) -> Response {
    let mut desk = state.desk.lock().unwrap();
    if peer.path() != format!("/host/{id}") {
        return error(StatusCode::FORBIDDEN);
    }
    desk.heard.push(Heard::Heartbeat(body));
    match desk.heartbeats {
        StatusCode::NO_CONTENT => StatusCode::NO_CONTENT.into_response(),
        refused => error(refused),
    }
}
