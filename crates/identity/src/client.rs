//! HTTP over mutual TLS: pooled, with time-outs, and never to the wrong server.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::AlertDescription;

use crate::authorizer::Authorizer;
use crate::source::{Source, Unavailable};
use crate::tls::{PeerRefused, client_config};

/// For the whole exchange, from connecting to the last byte of the answer.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// For the TCP connection alone, so that one dead address does not use up the whole time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Shorter than the 120 s after which our servers close an idle connection.
const POOL_IDLE: Duration = Duration::from_secs(60);
/// A live HTTP/2 connection is probed so that a vanished server is noticed between requests.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const DEFAULT_MAX_RESPONSE: usize = 16 * 1024 * 1024;

/// An HTTP/1.1 and HTTP/2 client over mutual TLS, or over any rustls configuration.
///
/// Connections are pooled by host and port. A pool belongs to one authorizer, so a connection
/// that was made for one server is never reused for another. Cheap to clone (clones share the
/// pool) and cheap to make: it spawns nothing until the first request.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
    max_response_bytes: usize,
}

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL or a header is unusable; nothing was sent.
    #[error("cannot send this request: {0}")]
    InvalidRequest(String),
    /// No TCP connection could be made.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// Host and port.
        target: String,
        /// The cause, from the operating system or the resolver.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The server is not who it should be. Nothing of the request was sent.
    #[error("{target} is not the server that was asked for: {refused}")]
    WrongServer {
        /// Host and port.
        target: String,
        /// Why it was refused.
        refused: Box<PeerRefused>,
    },
    /// We have no identity to present. Nothing of the request was sent.
    #[error("cannot call {target} without an identity: {unavailable}")]
    NoIdentity {
        /// Host and port.
        target: String,
        /// Why there is none.
        unavailable: Unavailable,
    },
    /// The server refused us in the handshake, by our identity or the lack of one.
    #[error(
        "{target} refused our identity ({alert:?}); is this client known and authorized there?"
    )]
    RefusedByServer {
        /// Host and port.
        target: String,
        /// The alert that it sent.
        alert: AlertDescription,
    },
    /// The TLS handshake failed for another reason. Nothing of the request was sent.
    #[error("the TLS handshake with {target} failed: {source}")]
    Handshake {
        /// Host and port.
        target: String,
        /// What TLS said.
        source: rustls::Error,
    },
    /// No complete answer in time. The request may have been carried out.
    #[error("{target} gave no complete answer within {after:?}")]
    Timeout {
        /// Host and port.
        target: String,
        /// The time-out that passed.
        after: Duration,
    },
    /// The answer is larger than the limit. The request was carried out.
    #[error("the answer of {target} is larger than {limit} bytes")]
    TooLarge {
        /// Host and port.
        target: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The connection broke, or HTTP was violated. The request may have been carried out.
    #[error("the exchange with {target} broke off: {source}")]
    Exchange {
        /// Host and port.
        target: String,
        /// The cause.
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl ClientError {
    /// Whether the server may have carried the request out. When `false`, it certainly has not,
    /// and a retry is safe for any method.
    #[must_use]
    pub fn may_have_been_carried_out(&self) -> bool {
        matches!(
            self,
            Self::Timeout { .. } | Self::TooLarge { .. } | Self::Exchange { .. }
        )
    }
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
    pub fn with_tls(mut config: rustls::ClientConfig) -> Self {
        config.alpn_protocols.clear(); // the connector sets them, and insists on doing so
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_only()
            .enable_all_versions()
            .wrap_connector(tcp);
        let pool = Pool::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(POOL_IDLE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .build(connector);
        Self {
            pool,
            timeout: DEFAULT_TIMEOUT,
            max_response_bytes: DEFAULT_MAX_RESPONSE,
        }
    }

    /// Sets the time for a whole exchange (default 30 s). The pool stays shared, so a clone with
    /// another time-out is the way to give one request more or less.
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
        let mut request = Request::builder().method(method).uri(url);
        let bytes = body.map(|(media_type, bytes)| {
            if let Some(headers) = request.headers_mut() {
                let value = HeaderValue::from_str(media_type);
                headers.extend(value.map(|value| (CONTENT_TYPE, value)));
            }
            bytes
        });
        let request = request
            .body(bytes.unwrap_or_default())
            .map_err(|error| ClientError::InvalidRequest(error.to_string()))?;
        self.request(request).await
    }

    /// Sends any request, and reads the whole answer. Every HTTP status is an answer, not an
    /// error. Redirects are not followed: the next server would be another identity.
    pub async fn request(&self, request: Request<Bytes>) -> Result<Response<Bytes>, ClientError> {
        let target = target(request.uri())?;
        let exchange = self.exchange(&target, request.map(Full::new));
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout {
                target,
                after: self.timeout,
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

/// Sorts what the pool reports by what the caller can do about it.
fn failed(target: &str, error: PoolError) -> ClientError {
    let target = target.to_owned();
    if let Some(tls) = tls_error(&error) {
        match (PeerRefused::in_tls_error(tls), tls) {
            (Some(PeerRefused::NoIdentityOfOurOwn(unavailable)), _) => {
                return ClientError::NoIdentity {
                    target,
                    unavailable: *unavailable,
                };
            }
            (Some(refused), _) => {
                return ClientError::WrongServer {
                    target,
                    refused: Box::new(refused.clone()),
                };
            }
            // In TLS 1.3 a server judges the client after the client has finished, so its verdict
            // arrives here: on what is already an open connection.
            (None, rustls::Error::AlertReceived(alert)) if is_verdict(*alert) => {
                return ClientError::RefusedByServer {
                    target,
                    alert: *alert,
                };
            }
            (None, tls) if error.is_connect() => {
                return ClientError::Handshake {
                    target,
                    source: tls.clone(),
                };
            }
            (None, _) => {}
        }
    }
    let (connecting, source) = (error.is_connect(), Box::new(error));
    if connecting {
        ClientError::Connect { target, source }
    } else {
        ClientError::Exchange { target, source }
    }
}

/// The alerts by which a server says that it does not accept the client's certificate
/// (RFC 8446 §6.2).
fn is_verdict(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::CertificateRequired
            | A::UnknownCA
            | A::AccessDenied
    )
}

/// Finds TLS's error under the layers of HTTP. An `io::Error` hides what it wraps from
/// `source()`, so it is opened by hand.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut layer = Some(error);
    while let Some(error) = layer {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        layer = match error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
        {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
