//! HTTP over mutual TLS: pooled, with time-outs, and never to the wrong server.

mod connector;
mod error;
mod streaming;

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::authorizer::Authorizer;
use crate::source::Source;
use crate::tls::{ALPN, client_config};
use crate::tunnel::BoxedStream;
use connector::{Connector, Dialer};
pub use error::ClientError;
use error::failed;
pub use streaming::Streaming;

/// For the whole exchange, from connecting to the last byte of the answer.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// For the TCP connection alone, so that one dead address does not use up the whole time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than the 120 s after which our servers close an idle connection.
const POOL_IDLE: Duration = Duration::from_secs(60);
/// A live HTTP/2 connection is probed so that a vanished server is noticed between requests.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const DEFAULT_MAX_RESPONSE: usize = 16 * 1024 * 1024;
/// How much of an HTTP/2 answer may be on its way before it is read: of one, and of all on one
/// connection. Our servers take 128 requests at one time, so answers that nobody reads, however
/// many, do not stop the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 128 * STREAM_WINDOW;

/// An HTTP/1.1 and HTTP/2 client over mutual TLS, or over any rustls configuration.
///
/// Connections are pooled by host and port. A pool belongs to one authorizer, so a connection
/// that was made for one server is never reused for another. Cheap to clone (clones share the
/// pool) and cheap to make: it spawns nothing until the first request.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<Connector, Full<Bytes>>,
    timeout: Duration,
    max_response_bytes: usize,
}

impl Client {
    /// A client that presents the source's identity and talks only to servers that the
    /// authorizer accepts. It follows the source: a renewed identity is used from the next
    /// connection on.
    #[must_use]
    pub fn new(source: &Source, server: Authorizer) -> Self {
        Self::with_tls(client_config(source, server))
    }

    /// The same client over another TLS configuration, for servers that are not SPIFFE members.
    /// The configuration's ALPN is replaced by `h2` and `http/1.1`.
    #[must_use]
    pub fn with_tls(config: rustls::ClientConfig) -> Self {
        Self::made(config, None)
    }

    /// A client like one of [`new`](Self::new) that asks `dial` for each connection to the host of
    /// a URL: what it gives is used in the place of a TCP connection, with the same handshake; where
    /// it gives nothing, TCP is dialled.
    #[must_use]
    pub fn dialling<F>(source: &Source, server: Authorizer, dial: F) -> Self
    where
        F: Fn(Uri) -> BoxFuture<'static, io::Result<Option<BoxedStream>>> + Send + Sync + 'static,
    {
        Self::made(client_config(source, server), Some(Arc::new(dial)))
    }

    fn made(mut config: rustls::ClientConfig, dialer: Option<Dialer>) -> Self {
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).to_vec();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = Connector::new(tcp, config);
        let connector = match dialer {
            Some(dialer) => connector.with_dialer(dialer),
            None => connector,
        };
        let pool = Pool::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .build(connector);
        Self {
            pool,
            timeout: DEFAULT_TIMEOUT,
            max_response_bytes: DEFAULT_MAX_RESPONSE,
        }
    }

    /// Sets the time for a whole exchange (default 30 s). [`request_within`](Self::request_within)
    /// gives a single request more or less.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets the largest answer body that is accepted (default 16 MiB).
    #[must_use]
    pub fn with_max_response_bytes(mut self, bytes: usize) -> Self {
        self.max_response_bytes = bytes;
        self
    }

    /// `GET url`.
    pub async fn get(&self, url: &str) -> Result<Response<Bytes>, ClientError> {
        self.send(Method::GET, url, None).await
    }

    /// `DELETE url`.
    pub async fn delete(&self, url: &str) -> Result<Response<Bytes>, ClientError> {
        self.send(Method::DELETE, url, None).await
    }

    /// `POST url` with a body of this media type.
    pub async fn post(
        &self,
        url: &str,
        media_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Response<Bytes>, ClientError> {
        self.send(Method::POST, url, Some((media_type, body.into())))
            .await
    }

    /// `PUT url` with a body of this media type.
    pub async fn put(
        &self,
        url: &str,
        media_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Response<Bytes>, ClientError> {
        self.send(Method::PUT, url, Some((media_type, body.into())))
            .await
    }

    /// `PATCH url` with a body of this media type.
    pub async fn patch(
        &self,
        url: &str,
        media_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Response<Bytes>, ClientError> {
        self.send(Method::PATCH, url, Some((media_type, body.into())))
            .await
    }

    async fn send(
        &self,
        method: Method,
        url: &str,
        body: Option<(&str, Bytes)>,
    ) -> Result<Response<Bytes>, ClientError> {
        let request = Request::builder().method(method).uri(url);
        let (request, bytes) = match body {
            Some((media_type, bytes)) => (request.header(CONTENT_TYPE, media_type), bytes),
            None => (request, Bytes::new()),
        };
        let request = request
            .body(bytes)
            .map_err(|error| ClientError::InvalidRequest(error.to_string()))?;
        self.request(request).await
    }

    /// Sends any request, and reads the whole answer. Every HTTP status is an answer, not an
    /// error. Redirects are not followed: the next server would be another identity.
    pub async fn request(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
        self.request_within(self.timeout, request).await
    }

    /// [`request`](Self::request) with a time of its own for the whole exchange.
    pub async fn request_within(
        &self,
        timeout: Duration,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, ClientError> {
        let target = target(request.uri())?;
        let exchange = self.exchange(&target, request.map(Full::new));
        match tokio::time::timeout(timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout {
                target,
                after: timeout,
            }),
        }
    }

    /// Sends a request whose answer may go on for ever, and returns as soon as the answer has
    /// begun, which may take so long. What follows is read piece by piece; dropping it tells the
    /// server that nobody listens any more. The largest answer's size does not apply to it.
    pub async fn stream_within(
        &self,
        timeout: Duration,
        request: Request<Bytes>,
    ) -> Result<Response<Streaming>, ClientError> {
        let target = target(request.uri())?;
        let beginning = self.pool.request(request.map(Full::new));
        match tokio::time::timeout(timeout, beginning).await {
            Ok(Ok(answer)) => Ok(answer.map(|body| Streaming::new(target, body))),
            Ok(Err(error)) => Err(failed(&target, error)),
            Err(_) => Err(ClientError::Timeout {
                target,
                after: timeout,
            }),
        }
    }

    async fn exchange(
        &self,
        target: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, ClientError> {
        let answer = self
            .pool
            .request(request)
            .await
            .map_err(|error| failed(target, error))?;
        let (parts, body) = answer.into_parts();
        let body = Limited::new(body, self.max_response_bytes).collect().await;
        let body = body.map_err(|error| self.broke_off(target, error))?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }

    fn broke_off(&self, target: &str, source: Box<dyn StdError + Send + Sync>) -> ClientError {
        let target = target.to_owned();
        if source.is::<LengthLimitError>() {
            return ClientError::TooLarge {
                target,
                limit: self.max_response_bytes,
            };
        }
        ClientError::Exchange { target, source }
    }
}

/// Host and port of a URL that this client can speak to.
fn target(url: &Uri) -> Result<String, ClientError> {
    if url.scheme() != Some(&http::uri::Scheme::HTTPS) {
        let reason = format!("{url} does not begin with https://");
        return Err(ClientError::InvalidRequest(reason));
    }
    match url.authority() {
        Some(authority) => Ok(authority.to_string()),
        None => Err(ClientError::InvalidRequest(format!("{url} names no host"))),
    }
}
