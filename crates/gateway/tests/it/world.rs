//! A door on a free port, and clients who come to it.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use hostler_gateway::{
    Admission, AuthError, CallAdapter, CallClient, Caller, Credentials, Door, DoorLimits,
    HttpAdapter, HttpAdapterBuilder, IdentityProvider, RequestLimits,
};
use hostler_operations::{Grants, Identity};
use http::header::HeaderName;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::shelf::{self, READ, Shelf, WRITE};

/// Longer than anything here takes on a machine that is busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("still waiting: {what}"),
    }
}

/// Knows a few tokens.
struct Porter;

impl IdentityProvider for Porter {
    fn resolve<'a>(
        &'a self,
        credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<Option<Identity>, AuthError>> {
        Box::pin(async move {
            let identity = |subject: &str, grants: Grants| Ok(Some(Identity::new(subject, grants)));
            if let Some(token) = &credentials.bearer {
                let token = token.expose_secret();
                if let Some(end) = token.strip_prefix("reader-until-") {
                    let end: u128 = end.parse().expect("milliseconds since 1970");
                    return match now_millis() < end {
                        true => identity("reader", Grants::from_iter([READ])),
                        false => Err(AuthError::invalid("this token has expired; log in again")),
                    };
                }
                return match token {
                    "reader" => identity("reader", Grants::from_iter([READ])),
                    "s3cr3t-of-ada" => identity("ada", Grants::from_iter([READ])),
                    "writer" => identity("writer", Grants::from_iter([READ, WRITE])),
                    "nobody-home" => Err(AuthError::Unavailable("the porter is asleep".into())),
                    _ => Err(AuthError::invalid("this token is unknown; log in again")),
                };
            }
            if let Some((_, token)) = credentials.named.first() {
                return match token.expose_secret() {
                    "shelf" => identity("shelf", Grants::from_iter([READ])),
                    _ => Err(AuthError::invalid("this shelf token is unknown")),
                };
            }
            match (&credentials.peer, &credentials.certificate) {
                (Some(peer), _) => identity(&peer.id().to_string(), Grants::All),
                (None, Some(_)) => identity("somebody with a certificate", Grants::All),
                (None, None) => Ok(None),
            }
        })
    }
}

pub(crate) fn now_millis() -> u128 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.expect("it is after 1970").as_millis()
}

pub(crate) fn porter() -> Arc<dyn IdentityProvider> {
    Arc::new(Porter)
}

pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) served: JoinHandle<()>,
    guests: Mutex<mpsc::UnboundedReceiver<Caller>>,
    trust: RootCertStore,
    _ends_with_the_test: DropGuard,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with(DoorLimits::default(), |adapter| adapter).await
    }

    pub(crate) async fn with(
        limits: DoorLimits,
        configure: impl FnOnce(HttpAdapterBuilder) -> HttpAdapterBuilder,
    ) -> Self {
        let (tls, trust) = self_signed();
        Self::behind(&tls, trust, limits, configure).await
    }

    /// With other limits than usual.
    pub(crate) async fn limited(
        requests: impl FnOnce(&mut RequestLimits),
        door: impl FnOnce(&mut DoorLimits),
    ) -> Self {
        let (mut request_limits, mut door_limits) = Default::default();
        requests(&mut request_limits);
        door(&mut door_limits);
        Self::with(door_limits, |adapter| adapter.limits(request_limits)).await
    }

    /// A door that serves HTTP alone.
    pub(crate) async fn without_calls() -> Self {
        let (tls, trust) = self_signed();
        let limits = DoorLimits::default();
        Self::opened(&tls, trust, limits, |adapter| adapter, |door, _| door).await
    }

    pub(crate) fn trust(&self) -> RootCertStore {
        self.trust.clone()
    }

    pub(crate) async fn behind(
        tls: &ServerConfig,
        trust: RootCertStore,
        limits: DoorLimits,
        configure: impl FnOnce(HttpAdapterBuilder) -> HttpAdapterBuilder,
    ) -> Self {
        Self::admitting(tls, trust, limits, configure, None).await
    }

    pub(crate) async fn admitting(
        tls: &ServerConfig,
        trust: RootCertStore,
        limits: DoorLimits,
        configure: impl FnOnce(HttpAdapterBuilder) -> HttpAdapterBuilder,
        admission: Option<Admission>,
    ) -> Self {
        Self::opened(tls, trust, limits, configure, |door, calls| {
            let door = door.with_calls(calls).expect("TLS 1.3");
            match admission {
                Some(admission) => door.admitting(admission),
                None => door,
            }
        })
        .await
    }

    async fn opened(
        tls: &ServerConfig,
        trust: RootCertStore,
        limits: DoorLimits,
        configure: impl FnOnce(HttpAdapterBuilder) -> HttpAdapterBuilder,
        open: impl FnOnce(Door, CallAdapter) -> Door,
    ) -> Self {
        let shelf = Arc::new(Shelf::default());
        let adapter = HttpAdapter::builder(shelf::registry(&shelf), porter())
            .credential_header(HeaderName::from_static("x-shelf-token"))
            .about("Bookshelf", "1.2.3");
        let adapter = configure(adapter).build().expect("an adapter");
        let (greeted, guests) = mpsc::unbounded_channel();
        let calls = adapter.calls().greeting(move |guest, _| {
            let _ = greeted.send(guest);
        });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let door = Door::bind(address, tls, &adapter, limits)
            .await
            .expect("a free port");
        let door = door.with_quic().expect("the port is free over UDP too");
        let door = open(door, calls);
        let address = door.local_addr();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(door.serve(shutdown.clone()));
        let _ends_with_the_test = shutdown.clone().drop_guard();
        Self {
            address,
            shelf,
            shutdown,
            served,
            guests: Mutex::new(guests),
            trust,
            _ends_with_the_test,
        }
    }

    /// A TLS connection that offers these protocols.
    pub(crate) async fn tls(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        self.tls_as(anonymous(self.trust.clone()), alpn).await
    }

    pub(crate) async fn tls_as(&self, config: ClientConfig, alpn: &[&str]) -> TlsStream<TcpStream> {
        tls_to(self.address, config, alpn).await
    }

    /// A client that calls, and answers nobody.
    pub(crate) async fn caller(&self) -> CallClient {
        let client = CallClient::builder(anonymous(self.trust.clone()));
        let connecting = client.connect(self.address, "localhost");
        soon("the handshake", connecting)
            .await
            .expect("a handshake")
    }

    /// A client that answers calls with a shelf of its own.
    pub(crate) async fn callee(&self, shelf: &Arc<Shelf>) -> CallClient {
        let client = CallClient::builder(anonymous(self.trust.clone()))
            .answering(shelf::registry(shelf), porter());
        let connecting = client.connect(self.address, "localhost");
        soon("the handshake", connecting)
            .await
            .expect("a handshake")
    }

    /// Whoever came next, as somebody to call.
    pub(crate) async fn guest(&self) -> Caller {
        let mut guests = self.guests.lock().await;
        soon("a guest", guests.recv())
            .await
            .expect("the door is open")
    }

    /// A bare connection over QUIC that speaks this protocol; it lives as long as its endpoint.
    pub(crate) async fn quic(&self, protocol: &str) -> (quinn::Endpoint, quinn::Connection) {
        let mut tls = anonymous(self.trust.clone());
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("a suite");
        let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("UDP");
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        let mut transport = quinn::TransportConfig::default();
        transport.keep_alive_interval(Some(Duration::from_millis(200)));
        config.transport_config(Arc::new(transport));
        endpoint.set_default_client_config(config);
        let connecting = endpoint.connect(self.address, "localhost").expect("a name");
        let connection = soon("the handshake", connecting)
            .await
            .expect("a handshake");
        (endpoint, connection)
    }

    /// A client for HTTP/1.1 or HTTP/2 on one stream over QUIC; it works while the others live.
    pub(crate) async fn on_a_stream(
        &self,
        protocol: &str,
    ) -> (Client, quinn::Connection, quinn::Endpoint) {
        let (endpoint, connection) = self.quic(protocol).await;
        let (send, recv) = connection.open_bi().await.expect("a stream");
        let stream = tokio::io::join(recv, send);
        let client = match protocol {
            "h2" => Client::http2(stream).await,
            _ => Client::http1(stream).await,
        };
        (client, connection, endpoint)
    }

    pub(crate) async fn http1(&self) -> Client {
        Client::http1(self.tls(&["http/1.1"]).await).await
    }

    pub(crate) async fn http2(&self) -> Client {
        Client::http2(self.tls(&["h2"]).await).await
    }

    pub(crate) async fn http3(&self) -> Http3 {
        Http3::connect(self.address, self.trust.clone()).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.http1().await.send(request).await
    }

    /// A GET with this bearer token.
    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.send(call("GET", path, token, None)).await
    }

    /// A POST of JSON with this bearer token.
    pub(crate) async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.send(call("POST", path, token, Some(&body))).await
    }
}

/// A TLS connection to there that offers these protocols.
pub(crate) async fn tls_to(
    address: SocketAddr,
    mut config: ClientConfig,
    alpn: &[&str],
) -> TlsStream<TcpStream> {
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await.expect("the door is open");
    let name = ServerName::try_from("localhost").expect("a name");
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    soon("the handshake", connecting)
        .await
        .expect("a handshake")
}

/// A request; an empty token leaves the header out.
pub(crate) fn call(
    method: &str,
    path: &str,
    token: &str,
    body: Option<&Value>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost");
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    request.body(Full::new(body)).expect("a request")
}

/// What HTTP/1.1 and HTTP/2 are spoken on.
pub(crate) trait Bytestream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Bytestream for S {}

/// A client's end of one connection.
pub(crate) struct Client {
    sender: Sender,
    pub(crate) connection: JoinHandle<()>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(crate) async fn http1(stream: impl Bytestream) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .expect("a connection");
        let connection = tokio::spawn(async move { drop(connection.await) });
        Self {
            sender: Sender::Http1(sender),
            connection,
        }
    }

    pub(crate) async fn http2(stream: impl Bytestream) -> Self {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("a connection");
        let connection = tokio::spawn(async move { drop(connection.await) });
        Self {
            sender: Sender::Http2(sender),
            connection,
        }
    }

    /// The answer's head; its body is still to come.
    pub(crate) async fn begin(
        &mut self,
        mut request: Request<Full<Bytes>>,
    ) -> hyper::Result<http::Response<Incoming>> {
        match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                let uri = format!("https://localhost{}", request.uri());
                *request.uri_mut() = uri.parse().expect("a URI");
                request.headers_mut().remove("host");
                sender.send_request(request).await
            }
        }
    }

    pub(crate) async fn try_send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Answer> {
        let (head, body) = soon("an answer", self.begin(request)).await?.into_parts();
        let body = soon("a body", body.collect()).await?.to_bytes();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body,
        })
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        self.try_send(request).await.expect("an answer")
    }
}

/// A client's end of one connection over QUIC.
pub(crate) struct Http3 {
    pub(crate) connection: quinn::Connection,
    sender: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    endpoint: quinn::Endpoint,
    driver: JoinHandle<()>,
}

type Http3Stream = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

impl Http3 {
    fn endpoint(trust: RootCertStore) -> quinn::Endpoint {
        let mut tls = anonymous(trust);
        tls.alpn_protocols = vec![b"h3".to_vec()];
        // It would send early data if the server let it.
        tls.enable_early_data = true;
        let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("a suite");
        let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("UDP");
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        endpoint
    }

    async fn connect(address: SocketAddr, trust: RootCertStore) -> Self {
        Self::connect_from(Self::endpoint(trust), address).await
    }

    async fn connect_from(endpoint: quinn::Endpoint, address: SocketAddr) -> Self {
        let connecting = endpoint.connect(address, "localhost").expect("a name");
        let connection = soon("the handshake", connecting)
            .await
            .expect("a handshake");
        let h3 = h3_quinn::Connection::new(connection.clone());
        let (mut driver, sender) = h3::client::new(h3).await.expect("a connection");
        let driver = tokio::spawn(async move {
            let _ = std::future::poll_fn(|cx| driver.poll_close(cx)).await;
        });
        Self {
            connection,
            sender,
            endpoint,
            driver,
        }
    }

    /// Sends a request whole; its answer is still to come.
    pub(crate) async fn begin(&mut self, request: Request<Full<Bytes>>) -> Http3Stream {
        let (mut head, body) = request.into_parts();
        head.uri = format!("https://localhost{}", head.uri)
            .parse()
            .expect("a URI");
        head.headers.remove("host");
        let head = Request::from_parts(head, ());
        let mut stream = self.sender.send_request(head).await.expect("a stream");
        let body = body.collect().await.expect("it is here").to_bytes();
        if !body.is_empty() {
            // Whoever is refused beforehand may find the stream closed.
            let _ = stream.send_data(body).await;
        }
        let _ = stream.finish().await;
        stream
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        use bytes::Buf as _;
        let mut stream = self.begin(request).await;
        let head = soon("an answer", stream.recv_response())
            .await
            .expect("an answer");
        let (head, ()) = head.into_parts();
        let mut body = Vec::new();
        while let Some(mut data) = soon("a body", stream.recv_data()).await.expect("a body") {
            body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        Answer {
            status: head.status,
            headers: head.headers,
            body: body.into(),
        }
    }

    /// Closes the connection and keeps what it came from, with what it learnt.
    pub(crate) fn leave(self) -> quinn::Endpoint {
        self.connection.close(0x100u32.into(), b"");
        self.driver.abort();
        self.endpoint
    }

    /// Closes the connection, politely.
    pub(crate) async fn close(self) {
        drop(self.sender);
        self.connection.close(0x100u32.into(), b"");
        self.driver.abort();
        self.endpoint.wait_idle().await;
    }
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert_eq!(
            self.header("content-type"),
            Some("application/json"),
            "{:?}",
            self.body
        );
        serde_json::from_slice(&self.body).expect("JSON")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .get(name)
            .map(|value| value.to_str().expect("ASCII"))
    }

    /// Status and code, as most tests want to know them. Checks the form of the error on the way.
    #[track_caller]
    pub(crate) fn failure(&self) -> (u16, String) {
        let body = self.json();
        let error = &body["error"];
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{body}"
        );
        assert!(error["retryable"].is_boolean(), "{body}");
        assert_eq!(
            error["request_id"].as_str(),
            self.header("x-request-id"),
            "{body}"
        );
        let code = error["code"]
            .as_str()
            .unwrap_or_else(|| panic!("no code in {body}"));
        (self.status.as_u16(), code.to_owned())
    }
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    hostler_identity::crypto_provider()
}

/// A door that asks nobody for a certificate, and the trust that its guests need.
pub(crate) fn self_signed() -> (ServerConfig, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let certificate: CertificateDer<'static> = made.cert.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let mut trust = RootCertStore::empty();
    trust.add(certificate.clone()).expect("a root");
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a key that fits");
    (config, trust)
}

pub(crate) fn anonymous(trust: RootCertStore) -> ClientConfig {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(trust)
        .with_no_client_auth()
}
