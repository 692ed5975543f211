//! Plain HTTP for probes: one path, two answers.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, ToSocketAddrs};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::ACCEPT_PAUSE;

/// A probe asks at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// A listener for probes that have no identity: `GET /healthz` says in one word whether this
/// process serves, and there is nothing else. It says nothing about why, since anybody may ask.
#[derive(Debug)]
pub struct HealthListener {
    listener: TcpListener,
}

impl HealthListener {
    /// Listens at `address`; port 0 takes a free one.
    pub async fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers 200 `ok` while `well`, else 503, until the process is `gone`.
    pub async fn serve(
        self,
        well: impl Fn() -> bool + Clone + Send + Sync + 'static,
        gone: CancellationToken,
    ) {
        loop {
            let tcp = tokio::select! {
                () = gone.cancelled() => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((tcp, _)) => tcp,
                    Err(reason) => {
                        warn!(%reason, "cannot accept a probe");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
            };
            let (well, gone) = (well.clone(), gone.clone());
            tokio::spawn(async move {
                let service = service_fn(|request: Request<_>| {
                    let answer = answer(request.method(), request.uri().path(), well());
                    std::future::ready(Ok::<_, Infallible>(answer))
                });
                let serving = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    // One question each, so that a probe's connection is in nobody's way.
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(tcp), service);
                tokio::select! {
                    () = gone.cancelled() => {}
                    outcome = serving => if let Err(reason) = outcome {
                        debug!(%reason, "probe ended early");
                    }
                }
            });
        }
    }
}

fn answer(method: &Method, path: &str, well: bool) -> Response<Full<Bytes>> {
    let (status, text) = match (path, method) {
        ("/healthz", &Method::GET | &Method::HEAD) if well => (StatusCode::OK, "ok"),
        ("/healthz", &Method::GET | &Method::HEAD) => {
            (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
        }
        ("/healthz", _) => (StatusCode::METHOD_NOT_ALLOWED, "only GET"),
        _ => (StatusCode::NOT_FOUND, "not found"),
    };
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
