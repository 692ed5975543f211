//! Two trust domains, each with an authority of its own, that learn of each other over HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect};
use axum::routing::get;
use hostler_authority::federation::{BundleEndpoint, Federated, FederationError, FetchError};
use hostler_authority::workload_api::{Entries, Entry, Issuer, Selector, WorkloadApi};
use hostler_authority::{Authority, Bundles, Lifetimes, WebAuthority};
use hostler_identity::{
    Authorizer, BundleDocument, Client, ClientError, PeerIdentity, Server, Source, TrustDomain,
    crypto_provider,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::{domain, id, new};

const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes far too long")
}

fn foreign() -> TrustDomain {
    TrustDomain::new("b.example").unwrap()
}

/// A web server with a certificate of a private CA; stops when dropped.
struct Web {
    address: SocketAddr,
    ca: WebAuthority,
    task: JoinHandle<()>,
    _dir: TempDir,
}

impl Web {
    async fn new(app: Router) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = ["127.0.0.1".to_owned()];
        let ca = WebAuthority::open(dir.path(), &names, Timestamp::now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(ca.server_config(&[b"http/1.1"])));
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, app) = (acceptor.clone(), app.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let service = TowerToHyperService::new(app);
                    let _ = http.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        Self {
            address,
            ca,
            task,
            _dir: dir,
        }
    }

    /// A client that trusts this server's CA, as others trust the web's.
    fn client(&self) -> Client {
        use rustls_pki_types::CertificateDer;
        use rustls_pki_types::pem::PemObject;
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca.ca_pem().as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(crypto_provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Client::with_tls(config)
    }

    fn endpoint(&self, path: &str) -> BundleEndpoint {
        let url = format!("https://{}{path}", self.address);
        BundleEndpoint::new(foreign(), &url, self.client()).unwrap()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server whose answer can be changed, and which counts how often it was asked.
struct Published {
    web: Web,
    answer: watch::Sender<Option<String>>,
    asked: watch::Receiver<u32>,
}

impl Published {
    async fn new(document: &BundleDocument) -> Self {
        let (answer, answers) = watch::channel(Some(document.to_json().unwrap()));
        let (counter, asked) = watch::channel(0);
        let counter = Arc::new(counter);
        let app = Router::new().route(
            "/bundle",
            get(move || {
                let (answers, counter) = (answers.clone(), counter.clone());
                async move {
                    let answer = answers.borrow().clone();
                    counter.send_modify(|asked| *asked += 1);
                    answer.ok_or(StatusCode::SERVICE_UNAVAILABLE)
                }
            }),
        );
        let web = Web::new(app).await;
        Self { web, answer, asked }
    }

    fn publish(&self, document: &BundleDocument) {
        self.answer.send_replace(Some(document.to_json().unwrap()));
    }

    /// Waits until somebody has asked from now on.
    async fn is_asked_again(&mut self) {
        self.asked.borrow_and_update();
        soon(self.asked.changed()).await.unwrap();
    }
}

/// A document of the foreign domain with roots of its own and this sequence; to be asked for again
/// as soon as may be.
fn document(sequence: u64) -> (BundleDocument, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), foreign()).unwrap();
    let document = BundleDocument {
        sequence: Some(sequence),
        refresh_hint: Some(Duration::from_secs(1)),
        ..BundleDocument::parse(authority.bundle_jwks().as_bytes()).unwrap()
    };
    (document, dir)
}

async fn until(bundles: &mut watch::Receiver<Bundles>, document: &BundleDocument) {
    let reached = bundles.wait_for(|bundles| {
        bundles.x509.get(&foreign()) == Some(&document.roots[..])
            && bundles.jwt.get(&foreign()) == Some(&document.jwt)
    });
    soon(reached).await.unwrap();
}

#[tokio::test]
async fn members_of_two_trust_domains_recognise_each_other() {
    let (ours, _dir) = new();
    let dir = tempfile::tempdir().unwrap();
    let theirs = Authority::open(dir.path(), foreign()).unwrap();
    let publisher = theirs.clone();
    let app = Router::new().route("/bundle", get(async move || publisher.bundle_jwks()));
    let web = Web::new(app).await;
    let federated = Federated::new(ours.clone(), vec![web.endpoint("/bundle")]).unwrap();
    let mut bundles = federated.bundles();
    let expected = BundleDocument::parse(theirs.bundle_jwks().as_bytes()).unwrap();
    until(&mut bundles, &expected).await;

    // One of ours learns of them through the Workload API, and lets one of them in.
    let uid = Selector::Uid(rustix::process::geteuid().as_raw());
    let entry = Entry::new(id("/api"), [uid]).unwrap();
    let (_entries, seen) = watch::channel(Entries::from_iter([entry]));
    let socket = dir.path().join("workload/api.sock");
    let workload_api = WorkloadApi::bind(&socket, federated, seen).unwrap();
    let endpoint = workload_api.endpoint();
    let serving = tokio::spawn(workload_api.serve(std::future::pending()));
    let api = soon(Source::workload_api(&endpoint)).await.unwrap();
    let them = Authorizer::member_of(foreign());
    let server = Server::bind("127.0.0.1:0", &api, them).await.unwrap();
    let url = format!("https://{}/", server.local_addr().unwrap());
    let hello = get(|peer: PeerIdentity| async move { peer.id().to_string() });
    let app = Router::new().route("/", hello);
    let serving_api = tokio::spawn(server.serve(app, std::future::pending()));

    let caller: hostler_identity::SpiffeId = "spiffe://b.example/caller".parse().unwrap();
    let member = theirs.source(&caller).unwrap();
    let mut known = theirs.bundles();
    let our_roots = ours.bundles().get(&domain()).unwrap().to_vec();
    known.insert(domain(), our_roots).unwrap();
    let (member, _writer) = Source::memory(member.svid().unwrap(), known);
    let answer = soon(Client::new(&member, Authorizer::id(id("/api"))).get(&url)).await;
    assert_eq!(answer.unwrap().body(), "spiffe://b.example/caller");
    serving_api.abort();
    serving.abort();
}

#[tokio::test]
async fn a_foreign_bundle_is_followed_by_its_hint() {
    let (ours, _dir) = new();
    let dir = tempfile::tempdir().unwrap();
    // Roots of 150 s, so that the hint is five.
    let lifetimes = Lifetimes {
        root: SignedDuration::from_secs(150),
        ..Default::default()
    };
    let now = Timestamp::now();
    let theirs = Authority::open_with(dir.path(), foreign(), lifetimes, now).unwrap();
    let publisher = theirs.clone();
    let app = Router::new().route("/bundle", get(async move || publisher.bundle_jwks()));
    let web = Web::new(app).await;
    let federated = Federated::new(ours.clone(), vec![web.endpoint("/bundle")]).unwrap();
    let mut bundles = federated.bundles();
    let published = || BundleDocument::parse(theirs.bundle_jwks().as_bytes()).unwrap();
    until(&mut bundles, &published()).await;
    let caller: hostler_identity::SpiffeId = "spiffe://b.example/caller".parse().unwrap();
    let later = now + SignedDuration::from_secs(60);
    let audience = ["somebody".to_owned()];
    theirs
        .mint_jwt_svid(&caller, &audience, None, later)
        .unwrap();
    assert_eq!(published().roots.len(), 2, "the next root is out");
    until(&mut bundles, &published()).await;

    // And what changes at home is seen beside it.
    let month = SignedDuration::from_hours(24 * 16);
    ours.mint_jwt_svid(&id("/web"), &audience, None, now + month)
        .unwrap();
    let both = |bundles: &Bundles| {
        let count = |domain: TrustDomain| bundles.x509.get(&domain).map_or(0, <[_]>::len);
        count(domain()) == 2 && count(foreign()) == 2
    };
    soon(bundles.wait_for(both)).await.unwrap();
}

#[tokio::test]
async fn an_older_bundle_or_none_takes_nothing_back() {
    let (ours, _dir) = new();
    let ((fifth, _a), (fourth, _b), (sixth, _c)) = (document(5), document(4), document(6));
    let mut published = Published::new(&fifth).await;
    let federated = Federated::new(ours, vec![published.web.endpoint("/bundle")]).unwrap();
    let mut bundles = federated.bundles();
    until(&mut bundles, &fifth).await;
    bundles.borrow_and_update();

    published.publish(&fourth);
    published.is_asked_again().await;
    published.answer.send_replace(None);
    published.is_asked_again().await;
    published
        .answer
        .send_replace(Some("no bundle at all".to_owned()));
    published.is_asked_again().await;
    assert!(
        !bundles.has_changed().unwrap(),
        "nothing of all that was taken"
    );
    published.publish(&sixth);
    until(&mut bundles, &sixth).await;
}

#[tokio::test]
async fn what_is_no_bundle_is_refused_with_the_reason() {
    let app = Router::new()
        .route("/text", get(async || "hello"))
        .route("/moved", get(async || Redirect::permanent("/bundle")))
        .route("/large", get(async || vec![b' '; 1024 * 1024 + 1]))
        .fallback(async || StatusCode::NOT_FOUND.into_response());
    let web = Web::new(app).await;
    let refused = async |path| soon(web.endpoint(path).fetch()).await.unwrap_err();
    let error = refused("/text").await;
    assert!(matches!(error, FetchError::Document { .. }), "{error}");
    for path in ["/moved", "/none"] {
        let error = refused(path).await;
        assert!(matches!(error, FetchError::Status { .. }), "{error}");
    }
    let error = refused("/large").await;
    assert!(
        matches!(error, FetchError::Exchange(ClientError::TooLarge { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_the_client_does_not_recognise_is_not_believed() {
    let (bundle, _dir) = document(1);
    let published = Published::new(&bundle).await;
    let other = Web::new(Router::new()).await;
    let url = format!("https://{}/bundle", published.web.address);
    let endpoint = BundleEndpoint::new(foreign(), &url, other.client()).unwrap();
    let error = soon(endpoint.fetch()).await.unwrap_err();
    assert!(
        matches!(error, FetchError::Exchange(ClientError::Handshake { .. })),
        "{error}"
    );
    assert_eq!(*published.asked.borrow(), 0);
}

#[tokio::test]
async fn nobody_else_speaks_for_our_own_trust_domain_and_nobody_twice_for_another() {
    let (ours, _dir) = new();
    let web = Web::new(Router::new()).await;
    let url = format!("https://{}/bundle", web.address);
    let usurper = BundleEndpoint::new(domain(), &url, web.client()).unwrap();
    let refused = Federated::new(ours.clone(), vec![usurper]).unwrap_err();
    assert_eq!(refused, FederationError::OwnTrustDomain(domain()));
    let twice = vec![web.endpoint("/1"), web.endpoint("/2")];
    let refused = Federated::new(ours, twice).unwrap_err();
    assert_eq!(refused, FederationError::Twice(foreign()));
}

#[tokio::test]
async fn a_url_that_is_no_endpoint_is_refused() {
    let web = Web::new(Router::new()).await;
    for url in [
        "http://b.example/bundle",
        "https://user@b.example/bundle",
        "https://user:secret@b.example/",
        "b.example/bundle",
        "/bundle",
        "",
    ] {
        let refused = BundleEndpoint::new(foreign(), url, web.client());
        assert!(refused.is_err(), "{url}");
    }
}
