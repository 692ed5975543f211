//! The two servers that are compared, each in a process of its own.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use hostler_authority::Authority;
use hostler_identity::{
    Authorizer, KeyAndCsr, Server, Source, SpiffeId, Svid, TrustBundles, TrustDomain,
    client_config, crypto_provider,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use crate::{cpu, on_one_thread};

/// A program over [`hostler_identity::Server`] that does nothing else.
pub(crate) const ROLE: &str = "serve-mtls";
/// The same router over hyper and rustls as they come: what the libraries below us leave over.
pub(crate) const BARE_ROLE: &str = "serve-bare-mtls";
const BODY: &str = "ok";

/// What both servers present, and what the load does.
pub(crate) struct Papers {
    directory: TempDir,
    client: Source,
    _writer: hostler_identity::SourceWriter,
}

fn domain() -> TrustDomain {
    TrustDomain::new("bench.example").expect("a name")
}

pub(crate) fn id(path: &str) -> SpiffeId {
    format!("spiffe://bench.example{path}")
        .parse()
        .expect("an ID")
}

/// A fresh key and its SVID: chain and key in PEM.
pub(crate) fn issue(authority: &Authority, path: &str) -> (String, SecretString) {
    let own = KeyAndCsr::generate(None).expect("a key");
    let issued = authority.sign_csr(&own.csr_pem, &id(path), Timestamp::now());
    (issued.expect("it is signed").chain_pem, own.key_pem)
}

pub(crate) fn authority(directory: &Path) -> Authority {
    Authority::open(&directory.join("authority"), domain()).expect("an authority")
}

impl Papers {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let authority = authority(directory.path());
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(path, text).expect("written");
        };
        let (chain, key) = issue(&authority, "/server");
        write("chain.pem", &chain);
        write("key.pem", key.expose_secret());
        write("bundle.pem", &authority.bundle_pem());
        let (chain, key) = issue(&authority, "/client");
        let svid = Svid::from_pem(&chain, &key).expect("an SVID");
        let (client, writer) = Source::memory(svid, authority.bundles());
        Self {
            directory,
            client,
            _writer: writer,
        }
    }

    /// The load's side of the handshake: presents its SVID and takes the server as it is.
    ///
    /// It offers X25519 alone, which both servers have; ours would otherwise do the work of a
    /// post-quantum exchange that nginx does not know.
    pub(crate) fn client(&self) -> ClientConfig {
        let provider = CryptoProvider {
            kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::X25519],
            ..crypto_provider().as_ref().clone()
        };
        let presenter = client_config(&self.client, Authorizer::any()).client_auth_cert_resolver;
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_cert_resolver(presenter);
        config.resumption = rustls::client::Resumption::disabled();
        config
    }

    /// Where `chain.pem`, `key.pem` and `bundle.pem` are.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Takes any server: what a load would spend on looking closer, the server would not get.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = crypto_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A server that is this program, in one of its roles.
pub(crate) struct Ours {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Ours {
    pub(crate) fn start(role: &str, papers: &Papers) -> Self {
        let itself = std::env::current_exe().expect("this program");
        let mut child = cpu::on_the_servers_core(itself)
            .arg(role)
            .arg(papers.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("its address");
        Self {
            child,
            address: line.trim().parse().expect("an address"),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

#[allow(
    clippy::print_stdout,
    reason = "how the other process learns the address"
)]
fn say(address: io::Result<SocketAddr>) {
    println!("{}", address.expect("its address"));
}

fn app() -> Router {
    Router::new().route("/", get(async || BODY))
}

pub(crate) fn serve(directory: &Path) {
    on_one_thread(async {
        let read = |name| fs::read_to_string(directory.join(name)).expect("a file");
        let svid = Svid::from_pem(&read("chain.pem"), &read("key.pem").into()).expect("an SVID");
        let bundles = TrustBundles::from_pem(domain(), &read("bundle.pem")).expect("a bundle");
        let (source, _writer) = Source::memory(svid, bundles);
        let server = Server::bind("127.0.0.1:0", &source, Authorizer::any()).await;
        let server = server.expect("a port");
        say(server.local_addr());
        server.serve(app(), std::future::pending()).await;
    });
}

pub(crate) fn serve_bare(directory: &Path) {
    on_one_thread(async {
        let tls = TlsAcceptor::from(Arc::new(bare_config(directory)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        say(listener.local_addr());
        let app = app().with_state(());
        loop {
            let (tcp, _) = listener.accept().await.expect("a connection");
            let (tls, app) = (tls.clone(), app.clone());
            tokio::spawn(async move {
                let Ok(tls) = tls.accept(tcp).await else {
                    return;
                };
                let http = auto::Builder::new(TokioExecutor::new());
                let served =
                    http.serve_connection(TokioIo::new(tls), TowerToHyperService::new(app));
                let _ = served.await;
            });
        }
    });
}

/// The same certificates and suites, with the verifier that rustls brings.
fn bare_config(directory: &Path) -> ServerConfig {
    let file = |name| directory.join(name);
    let certificates = |name| {
        let all = CertificateDer::pem_file_iter(file(name)).expect("a file");
        all.map(|one| one.expect("a certificate"))
    };
    let mut roots = RootCertStore::empty();
    for root in certificates("bundle.pem") {
        roots.add(root).expect("a root");
    }
    let provider = crypto_provider();
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let key = PrivateKeyDer::from_pem_file(file("key.pem")).expect("a key");
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(clients.build().expect("a verifier"))
        .with_single_cert(certificates("chain.pem").collect(), key)
        .expect("a certificate of this key");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    config.send_tls13_tickets = 0;
    config
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
