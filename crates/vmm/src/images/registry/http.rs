//! HTTP to registries: one request at a time, with limits on every wait.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ::http::header::{AUTHORIZATION, HeaderValue, LOCATION, RETRY_AFTER, USER_AGENT};
use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{HttpConnector, HttpInfo};
use hyper_util::rt::TokioExecutor;
use rand::Rng as _;
use url::Url;

use super::RegistryError;
use super::reach::{OutOfReach, Reach, Resolver};

/// How long an answer, or the next piece of one, may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(10);
/// How often something is asked for that fails in passing, and what lies between.
const ATTEMPTS: u32 = 5;
/// The same where nobody answers at all: most often the name or the port is wrong.
const KNOCKS: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(20);

type Connector = HttpsConnector<HttpConnector<Resolver>>;

type Asking = Client<Connector, Empty<Bytes>>;

/// A client for each reach: a connection that one has made is none of the other's.
#[derive(Default)]
pub(super) struct Http(Mutex<HashMap<Reach, Asking>>);

/// The authorities that this host trusts, read once.
fn tls() -> Result<rustls::ClientConfig, RegistryError> {
    static TLS: OnceLock<rustls::ClientConfig> = OnceLock::new();
    if let Some(config) = TLS.get() {
        return Ok(config.clone());
    }
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = rustls::ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Unreachable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TLS.get_or_init(|| config).clone())
}

impl Http {
    fn client(&self, reach: Reach) -> Result<Asking, RegistryError> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&reach) {
            return Ok(client.clone());
        }
        let client = Self::new_client(reach)?;
        clients.insert(reach, client.clone());
        Ok(client)
    }

    fn new_client(reach: Reach) -> Result<Asking, RegistryError> {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::new(reach));
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_keepalive(Some(PATIENCE));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let mut client = Client::builder(TokioExecutor::new());
        // What is answered is read piece by piece: a small buffer keeps memory small.
        client.http1_max_buf_size(64 * 1024);
        Ok(client.build(connector))
    }

    pub(super) async fn get(
        &self,
        url: &Url,
        reach: Reach,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, RegistryError> {
        reach.check(url)?;
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(url.as_str())
            .body(Empty::new())
            .map_err(|error| RegistryError::Protocol(error.to_string()))?;
        request.headers_mut().extend(headers.clone());
        let agent = concat!("hostler/", env!("CARGO_PKG_VERSION"));
        let all = request.headers_mut();
        all.insert(USER_AGENT, HeaderValue::from_static(agent));
        if let Some(authorization) = authorization {
            all.insert(AUTHORIZATION, authorization.clone());
        }
        let client = self.client(reach)?;
        match tokio::time::timeout(PATIENCE, client.request(request)).await {
            Err(_) => Err(RegistryError::Slow),
            Ok(Err(error)) => Err(not_reached(&error)),
            Ok(Ok(response)) => busy(response),
        }
    }
}

fn not_reached(error: &(dyn std::error::Error + 'static)) -> RegistryError {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(beyond) = error.downcast_ref::<OutOfReach>() {
            return beyond.clone().into();
        }
        cause = error.source();
    }
    RegistryError::Unreachable(causes(error))
}

/// Where an answer came from.
pub(super) fn sender(response: &Response<Incoming>) -> Option<SocketAddr> {
    let info = response.extensions().get::<HttpInfo>()?;
    Some(info.remote_addr())
}

/// An error with what it came from; the outermost one says very little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn busy(response: Response<Incoming>) -> Result<Response<Incoming>, RegistryError> {
    let status = response.status();
    if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
        return Ok(response);
    }
    let wait = response.headers().get(RETRY_AFTER);
    let wait = wait.and_then(|value| value.to_str().ok()?.parse().ok());
    Err(RegistryError::Busy {
        status,
        wait: wait.map(Duration::from_secs),
    })
}

/// Where an answer leads, if it leads on.
pub(super) fn redirection(
    from: &Url,
    response: &Response<Incoming>,
) -> Result<Option<Url>, RegistryError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let place = response.headers().get(LOCATION);
    place
        .and_then(|place| from.join(place.to_str().ok()?).ok())
        .map(Some)
        .ok_or_else(|| RegistryError::Protocol("it redirects to nowhere".to_owned()))
}

/// A body of at most so many bytes.
pub(super) async fn whole(body: Incoming, limit: u64) -> Result<Vec<u8>, RegistryError> {
    let body = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX));
    let collected = tokio::time::timeout(PATIENCE, body.collect()).await;
    let bytes = collected.map_err(|_| RegistryError::Slow)?;
    Ok(bytes
        .map_err(|error| of_body(error, limit))?
        .to_bytes()
        .to_vec())
}

/// Why a bounded body was not read to its end.
fn of_body(error: Box<dyn std::error::Error + Send + Sync>, limit: u64) -> RegistryError {
    if error.is::<LengthLimitError>() {
        return RegistryError::TooLarge { limit };
    }
    RegistryError::BrokeOff(causes(&*error))
}

/// What is left of it with something that fails in passing.
#[derive(Default)]
pub(super) struct Patience {
    failures: u32,
}

impl Patience {
    /// Waits for the next attempt, or gives the error back when there is none.
    pub(super) async fn after(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.failures += 1;
        let attempts = match error {
            RegistryError::Unreachable(_) => KNOCKS,
            _ => ATTEMPTS,
        };
        if !error.is_passing() || self.failures >= attempts {
            return Err(error);
        }
        tracing::warn!(%error, attempt = self.failures, "a registry is asked again");
        tokio::time::sleep(wait(self.failures, &error)).await;
        Ok(())
    }

    /// Something came: whoever sends may be asked again.
    pub(super) fn renew(&mut self) {
        self.failures = 0;
    }
}

/// How long to wait after so many attempts: longer each time, and never all at once.
fn wait(attempt: u32, error: &RegistryError) -> Duration {
    if let RegistryError::Busy {
        wait: Some(wait), ..
    } = error
    {
        return (*wait).min(LONGEST_WAIT);
    }
    let longest = FIRST_WAIT
        .saturating_mul(1 << attempt.min(10))
        .min(LONGEST_WAIT);
    longest.mul_f64(rand::rng().random_range(0.5..1.0))
}
