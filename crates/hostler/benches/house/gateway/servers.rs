//! The servers that are loaded, each in a process of its own with the same certificate.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use hostler_gateway::{Door, DoorLimits, HttpAdapter, RequestLimits};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::shelf::{self, Clock, Porter};
use super::{Target, on_one_thread};
use crate::cpu;
use crate::server::{Server, by_itself};

/// A door with [`shelf`] behind it.
pub(crate) const OPERATIONS: &str = "serve-operations";
/// The same routes over hyper and rustls as they come.
pub(crate) const BARE: &str = "serve-bare-things";

/// The certificate that all servers present.
pub(super) struct Papers(TempDir);

impl Papers {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        for (name, pem) in [
            ("chain.pem", made.cert.pem()),
            ("key.pem", made.signing_key.serialize_pem()),
        ] {
            std::fs::write(directory.path().join(name), pem).expect("written");
        }
        Self(directory)
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// What a client needs. It offers what all servers have: ours would otherwise do the work of a
    /// post-quantum exchange that nginx does not know.
    pub(super) fn client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let own = CertificateDer::from_pem_file(self.path().join("chain.pem"));
        roots.add(own.expect("a certificate")).expect("a root");
        let provider = rustls::crypto::CryptoProvider {
            kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::X25519],
            ..rustls::crypto::aws_lc_rs::default_provider()
        };
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// The daemon, with its access log off.
    pub(super) fn daemon(&self, further: &[&str]) -> Server {
        let file = |name| self.path().join(name).display().to_string();
        let (chain, key) = (file("chain.pem"), file("key.pem"));
        let mut arguments = vec!["--tls-cert", &chain, "--tls-key", &key];
        arguments.extend(further);
        let program = env!("CARGO_BIN_EXE_hostler");
        let mut command = by_itself(cpu::on_the_servers_core(program.into()));
        command.env("HOSTLER_LOG", "warn");
        Server::start_as(command, &arguments)
    }
}

fn tls(directory: &Path) -> ServerConfig {
    let chain = CertificateDer::from_pem_file(directory.join("chain.pem"));
    let key = PrivateKeyDer::from_pem_file(directory.join("key.pem"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![chain.expect("a certificate")], key.expect("a key"))
        .expect("they fit")
}

/// This program, in one of its roles.
pub(super) struct Peer {
    child: Child,
    address: SocketAddr,
}

impl Peer {
    pub(super) fn start(role: &str, papers: &Papers) -> Self {
        let itself = std::env::current_exe().expect("this program");
        let mut child = cpu::on_the_servers_core(itself)
            .arg(role)
            .arg(papers.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.take().expect("its output");
        let mut line = String::new();
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("its address");
        Self {
            child,
            address: line.trim().parse().expect("an address"),
        }
    }

    pub(super) fn target(&self) -> Target {
        Target {
            pid: self.child.id(),
            address: self.address,
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(
    clippy::print_stdout,
    reason = "how the other process learns the address"
)]
fn say(address: SocketAddr) {
    println!("{address}");
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub(crate) fn serve_operations(directory: &Path) {
    on_one_thread().block_on(async {
        let registry = shelf::registry(&Clock::start());
        // One client stands for very many.
        let mut limits = RequestLimits::default();
        (limits.strangers, limits.callers) = (None, None);
        let adapter = HttpAdapter::builder(registry, Arc::new(Porter)).limits(limits);
        let adapter = adapter.build().expect("an adapter");
        let (tls, limits) = (tls(directory), DoorLimits::default());
        let door = Door::bind(ANY, &tls, &adapter, limits);
        let door = door.await.and_then(Door::with_quic).expect("a port");
        let door = door.with_calls(adapter.calls()).expect("TLS 1.3");
        say(door.local_addr());
        door.serve(CancellationToken::new()).await;
    });
}

pub(crate) fn serve_bare(directory: &Path) {
    on_one_thread().block_on(async {
        let mut tls = tls(directory);
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tls = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
        let listener = tokio::net::TcpListener::bind(ANY).await.expect("a port");
        say(listener.local_addr().expect("its address"));
        let router = shelf::bare();
        while let Ok((tcp, _)) = listener.accept().await {
            let (tls, router) = (tls.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(tls) = tls.accept(tcp).await else {
                    return;
                };
                let http = auto::Builder::new(TokioExecutor::new());
                let served =
                    http.serve_connection(TokioIo::new(tls), TowerToHyperService::new(router));
                let _ = served.await;
            });
        }
    });
}
