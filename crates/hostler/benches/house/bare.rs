//! The peer of the daemons: an axum server over rustls that says `ok` and does nothing else.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

pub(crate) const ROLE: &str = "serve-bare";

pub(crate) struct Bare {
    child: Child,
    _directory: TempDir,
}

impl Bare {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (cert, key) = (
            directory.path().join("cert.pem"),
            directory.path().join("key.pem"),
        );
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a cert");
        std::fs::write(&cert, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let itself = std::env::current_exe().expect("this program");
        let child = Command::new(itself)
            .arg(ROLE)
            .arg(cert)
            .arg(key)
            .stdin(Stdio::null())
            .spawn();
        Self {
            child: child.expect("it starts"),
            _directory: directory,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn serve(certificate: &str, key: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("they fit");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let router = Router::new().route("/healthz", get(async || "ok"));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
            tokio::spawn(async move {
                let stream = TokioIo::new(acceptor.accept(stream).await?);
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let served = server.serve_connection(stream, service).await;
                served.map_err(std::io::Error::other)
            });
        }
    });
}
