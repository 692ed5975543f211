//! A stand-in for a SPIFFE agent: the X.509 profile of the Workload API on a Unix socket.
//!
//! Messages and paths are those of the standard's `workload.proto`, and so is the strictness: a
//! request without the security header is refused, and so is whoever has no identity.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls_pki_types::CertificateDer;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::certs::{Ca, Raw};

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Nothing {}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct X509SvidResponse {
    #[prost(message, repeated, tag = "1")]
    svids: Vec<X509Svid>,
    #[prost(bytes = "vec", repeated, tag = "2")]
    crl: Vec<Vec<u8>>,
    #[prost(map = "string, bytes", tag = "3")]
    federated_bundles: HashMap<String, Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct X509Svid {
    #[prost(string, tag = "1")]
    spiffe_id: String,
    #[prost(bytes = "vec", tag = "2")]
    x509_svid: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    x509_svid_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    bundle: Vec<u8>,
    #[prost(string, tag = "5")]
    hint: String,
}

type Answer = Result<X509SvidResponse, Code>;

/// A running agent. What it answers can be changed at any time; streams see the change.
pub(crate) struct Agent {
    pub(crate) endpoint: String,
    path: PathBuf,
    answer: watch::Sender<Answer>,
    /// Of its own, so that it can end as a process does: with every connection.
    runtime: Option<Runtime>,
    _dir: tempfile::TempDir,
}

impl Agent {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("agent.sock");
        let (answer, _) = watch::channel(Err(Code::PermissionDenied));
        let mut agent = Self {
            endpoint: format!("unix://{}", path.display()),
            path,
            answer,
            runtime: None,
            _dir: dir,
        };
        agent.rise();
        agent
    }

    /// Listens, again after [`die`](Self::die).
    pub(crate) fn rise(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let _inside = runtime.enter();
        let listener = UnixListener::bind(&self.path).unwrap();
        let answers = self.answer.subscribe();
        let server = tonic::transport::Server::builder()
            .add_service(WorkloadApi { answers })
            .serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(async move { server.await.unwrap() });
        drop(_inside);
        self.runtime = Some(runtime);
    }

    /// Ends as if it were killed: its socket leads nowhere, its connections break.
    pub(crate) fn die(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
            std::fs::remove_file(&self.path).unwrap();
        }
    }

    /// Gives every caller this identity, with the authority's bundle and the federated ones.
    pub(crate) fn give(&self, ca: &Ca, svid: Raw, federated: &[&Ca]) {
        let svid = X509Svid {
            spiffe_id: format!("{}/ignored-by-clients", ca.trust_domain.id_string()),
            x509_svid: svid.chain.iter().flat_map(|cert| cert.to_vec()).collect(),
            x509_svid_key: svid.key.secret_der().to_vec(),
            bundle: ca.certificate.to_vec(),
            hint: String::new(),
        };
        let bundle = |ca: &&Ca| (ca.trust_domain.id_string(), ca.certificate.to_vec());
        let answer = X509SvidResponse {
            svids: vec![svid],
            crl: Vec::new(),
            federated_bundles: federated.iter().map(bundle).collect(),
        };
        drop(self.answer.send_replace(Ok(answer)));
    }

    /// Ends every stream with this status, and answers every call with it.
    pub(crate) fn refuse(&self, code: Code) {
        drop(self.answer.send_replace(Err(code)));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.die();
    }
}

#[derive(Clone)]
struct WorkloadApi {
    answers: watch::Receiver<Answer>,
}

impl NamedService for WorkloadApi {
    const NAME: &'static str = "SpiffeWorkloadAPI";
}

impl tower::Service<http::Request<Body>> for WorkloadApi {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let api = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/SpiffeWorkloadAPI/FetchX509SVID" {
                return Ok(Status::unimplemented("only FetchX509SVID is offered").into_http());
            }
            let mut grpc = Grpc::new(ProstCodec::<X509SvidResponse, Nothing>::default());
            Ok(grpc.server_streaming(api, request).await)
        })
    }
}

impl ServerStreamingService<Nothing> for WorkloadApi {
    type Response = X509SvidResponse;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<X509SvidResponse, Status>> + Send>>;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Nothing>) -> Self::Future {
        let answers = self.answers.clone();
        Box::pin(async move {
            if request
                .metadata()
                .get("workload.spiffe.io")
                .is_none_or(|value| value != "true")
            {
                return Err(Status::invalid_argument("security header missing"));
            }
            if let Err(code) = *answers.borrow() {
                return Err(Status::new(code, "no identity issued"));
            }
            let stream = WatchStream::new(answers)
                .map(|answer| answer.map_err(|code| Status::new(code, "no identity issued")));
            Ok(Response::new(Box::pin(stream) as Self::ResponseStream))
        })
    }
}

/// The DER of the leaf in a chain.
pub(crate) fn leaf(raw: &Raw) -> CertificateDer<'static> {
    raw.chain[0].clone()
}
