//! Servers and raw TLS ends for the tests.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use hostler_identity::{Authorizer, PeerIdentity, Server, Source, SourceWriter, crypto_provider};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certs::{Ca, Raw};

/// Far beyond what anything here takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes far too long")
}

pub(crate) fn source(ca: &Ca, path: &str) -> (Source, SourceWriter) {
    Source::memory(ca.svid(path), ca.bundles())
}

/// A server that answers every request with its caller's SPIFFE ID; stops when dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn new(source: &Source, clients: Authorizer) -> Self {
        let app = Router::new().fallback(any(
            |peer: PeerIdentity| async move { peer.id().to_string() },
        ));
        Self::with_app(source, clients, app).await
    }

    pub(crate) async fn with_app(source: &Source, clients: Authorizer, app: Router) -> Self {
        let server = Server::bind("127.0.0.1:0", source, clients).await.unwrap();
        let address = server.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.serve(app, async { drop(stopped.await) }));
        Self {
            address,
            stop: Some(stop),
            task,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    /// Asks the server to stop, and waits until it has.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        soon(&mut self.task).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client configuration that trusts any server and presents whatever it is given: the attacker
/// in these tests.
pub(crate) fn reckless(
    present: Option<Raw>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let provider = crypto_provider().as_ref().clone();
    reckless_with(provider, present, versions)
}

/// The same with another list of what it can.
pub(crate) fn reckless_with(
    provider: CryptoProvider,
    present: Option<Raw>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnybody));
    match present {
        // Not `with_client_auth_cert`, which would look at the certificate first.
        Some(raw) => {
            let key = crypto_provider()
                .key_provider
                .load_private_key(raw.key)
                .unwrap();
            let certified = CertifiedKey::new(raw.chain, key);
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    }
}

pub(crate) async fn connect(
    address: SocketAddr,
    config: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// Tries to speak HTTP/1.1 over the connection. `Ok` with the first bytes of an answer, `Err`
/// when the server refuses, whether in the handshake proper or, as TLS 1.3 has it for client
/// certificates, right behind it.
pub(crate) async fn attempt(address: SocketAddr, config: ClientConfig) -> std::io::Result<Vec<u8>> {
    soon(async {
        let mut tls = connect(address, config).await?;
        tls.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await?;
        match answer.is_empty() {
            true => Err(std::io::ErrorKind::UnexpectedEof.into()),
            false => Ok(answer),
        }
    })
    .await
}

#[derive(Debug)]
struct TrustAnybody;

impl ServerCertVerifier for TrustAnybody {
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
        crypto_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
