//! The way to a host's door: an operation is called there by the same name, over mutual TLS, and
//! only if the door is kept by exactly that host.

mod reverse;
mod subscribe;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hostler_identity::{Authorizer, Client, ClientError, Source, SpiffeId, TrustDomain};
use hostler_operations::{CallError, ErrorObject, ErrorSpec, OperationError, RequestId, TIMEOUT};
use http::header::CONTENT_TYPE;
use http::{HeaderName, Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::codes::{self, BUSY, HOST_UNREACHABLE, INVALID_STATE};
use crate::ids::HostId;
use crate::model::{Host, HostStatus};
use crate::store::Store;
use reverse::Reverse;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A host's answer is a VM, a list of them or of images; more than this is not one.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// Calls operations on hosts.
pub(crate) struct Connector {
    reverse: Arc<Reverse>,
    source: Source,
    trust_domain: TrustDomain,
    /// One for each host, because each accepts exactly one identity.
    ways: Mutex<HashMap<HostId, Ways>>,
}

/// The connections to one host. Subscriptions have one of their own, so that they never keep a
/// call waiting.
#[derive(Clone)]
struct Ways {
    calls: Client,
    streams: Client,
    /// One for each subscription that may begin.
    turns: Arc<Semaphore>,
}

/// One call of an operation on a host.
#[derive(Debug)]
pub(crate) struct Ask<'a> {
    /// `service/operation`.
    pub(crate) operation: &'a str,
    pub(crate) input: Value,
    /// The request that this call is a part of; the host logs it.
    pub(crate) request_id: &'a RequestId,
    pub(crate) timeout: Duration,
}

/// Why a host did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum HostFailure {
    /// The host said no.
    #[error("the host refused: {0}")]
    Refused(CallError),
    /// The host has not registered yet, so nobody knows where it is.
    #[error("the host {0} has not registered yet")]
    NotRegistered(HostId),
    /// As many subscriptions as can be are open on the host. It has done nothing.
    #[error("too many subscriptions are open on the host {0}")]
    Crowded(HostId),
    /// The host was not reached. It has done nothing.
    #[error("the host {host} cannot be reached: {reason}")]
    Unreachable {
        host: HostId,
        reason: Box<ClientError>,
    },
    /// No answer came. The host may have done it.
    #[error("the host {host} did not answer: {reason}")]
    NoAnswer {
        host: HostId,
        reason: Box<ClientError>,
    },
    /// An answer came that is none, or the host broke. It may have done it.
    #[error("the host {host} answered {status} with something else than an answer: {said}")]
    Nonsense {
        host: HostId,
        status: StatusCode,
        said: String,
    },
}

impl HostFailure {
    /// Whether the host certainly has not done what was asked.
    pub(crate) fn is_certain(&self) -> bool {
        match self {
            Self::Refused(error) => *error.code() != TIMEOUT,
            Self::NotRegistered(_) | Self::Crowded(_) | Self::Unreachable { .. } => true,
            Self::NoAnswer { .. } | Self::Nonsense { .. } => false,
        }
    }

    /// Whether the host says that it has no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(error) if *error.code() == hostler_operations::NOT_FOUND)
    }

    /// Calls a VM by the name that its owner knows, where the host called it by its id.
    pub(crate) fn naming(self, id: &str, name: &str) -> Self {
        match self {
            Self::Refused(error) => {
                let renamed =
                    CallError::new(error.code().clone(), error.message().replace(id, name));
                Self::Refused(match error.details() {
                    Some(details) => renamed.with_details(renamed_in(details.clone(), id, name)),
                    None => renamed,
                })
            }
            other => other,
        }
    }
}

/// Replaces a text wherever it is a whole string of a document.
fn renamed_in(value: Value, id: &str, name: &str) -> Value {
    match value {
        Value::String(text) if text == id => Value::String(name.to_owned()),
        Value::Array(items) => items
            .into_iter()
            .map(|item| renamed_in(item, id, name))
            .collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, item)| (key, renamed_in(item, id, name)))
            .collect(),
        other => other,
    }
}

impl From<HostFailure> for CallError {
    fn from(failure: HostFailure) -> Self {
        match failure {
            HostFailure::Refused(error) => error,
            HostFailure::NotRegistered(host) => Self::new(
                INVALID_STATE,
                format!("the host {host} has not registered yet; register it, then try again"),
            ),
            HostFailure::Crowded(host) => Self::new(
                BUSY,
                format!("too many subscriptions are open on the host {host}; try again later"),
            ),
            HostFailure::Unreachable { host, .. } => Self::new(
                HOST_UNREACHABLE,
                format!("the host {host} cannot be reached; try again when it is back"),
            ),
            HostFailure::NoAnswer { host, .. } => Self::new(
                TIMEOUT,
                format!(
                    "the host {host} gave no answer and may do it all the same; look at the state \
                     before trying again"
                ),
            ),
            nonsense @ HostFailure::Nonsense { .. } => Self::internal(nonsense),
        }
    }
}

/// The errors of an operation that also asks a host: its own, and the host's.
#[derive(Debug)]
pub(crate) enum OrHost<E> {
    Own(E),
    Host(HostFailure),
}

impl<E> From<HostFailure> for OrHost<E> {
    fn from(failure: HostFailure) -> Self {
        Self::Host(failure)
    }
}

impl<E: OperationError> From<OrHost<E>> for CallError {
    fn from(error: OrHost<E>) -> Self {
        match error {
            OrHost::Own(own) => own.into(),
            OrHost::Host(host) => host.into(),
        }
    }
}

impl<E: OperationError> OperationError for OrHost<E> {
    fn declared() -> Vec<ErrorSpec> {
        let mut declared = E::declared();
        for (code, description) in codes::OF_HOSTS {
            if !declared
                .iter()
                .any(|own| own.code.as_str() == code.as_str())
            {
                let description = description.to_owned();
                declared.push(ErrorSpec {
                    code,
                    description,
                    details: None,
                });
            }
        }
        declared
    }
}

impl Connector {
    /// Calls hosts of this trust domain, as whoever the source says. Other servers on the same books
    /// reach this one at `url`.
    pub(crate) fn new(
        source: Source,
        trust_domain: TrustDomain,
        store: Store,
        url: String,
    ) -> Self {
        let reverse = Reverse::new(store, source.clone(), trust_domain.clone(), url);
        Self {
            reverse: Arc::new(reverse),
            source,
            trust_domain,
            ways: Mutex::default(),
        }
    }

    pub(crate) fn reverse(&self) -> &Arc<Reverse> {
        &self.reverse
    }

    /// The SPIFFE ID of a host of ours.
    pub(crate) fn spiffe_id(
        &self,
        host: &HostId,
    ) -> Result<SpiffeId, hostler_identity::SpiffeIdError> {
        SpiffeId::from_segments(self.trust_domain.clone(), &["host", host.as_str()])
    }

    /// Calls an operation on a host and reads its answer.
    pub(crate) async fn ask<O: DeserializeOwned>(
        &self,
        host: &Host,
        ask: Ask<'_>,
    ) -> Result<O, HostFailure> {
        let id = &host.id;
        let request = request(host, &ask)?;
        let answer = match self.ways(id) {
            Ok(ways) => ways.calls.request_within(ask.timeout, request).await,
            Err(reason) => Err(unusable(&reason)),
        };
        let answer = answer.map_err(|reason| unanswered(id, &ask, reason))?;
        understand(id, &ask, answer)
    }

    fn ways(&self, host: &HostId) -> Result<Ways, hostler_identity::SpiffeIdError> {
        let mut all = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ways) = all.get(host) {
            return Ok(ways.clone());
        }
        let exactly_it = Authorizer::id(self.spiffe_id(host)?);
        let client = || {
            let dial = self.reverse.dialler(host.clone());
            Client::dialling(&self.source, exactly_it.clone(), dial)
                .with_max_response_bytes(MAX_ANSWER_BYTES)
        };
        let ways = Ways {
            calls: client(),
            streams: client(),
            turns: Arc::new(Semaphore::new(subscribe::MAX_STREAMS)),
        };
        all.insert(host.clone(), ways.clone());
        Ok(ways)
    }

    /// Lets go of the connections to a host that is no more.
    pub(crate) fn forget(&self, host: &HostId) {
        self.ways
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(host);
    }
}

/// The request that calls an operation on a host.
fn request(host: &Host, ask: &Ask<'_>) -> Result<Request<Bytes>, HostFailure> {
    let id = &host.id;
    if host.status == HostStatus::Pending {
        return Err(HostFailure::NotRegistered(id.clone()));
    }
    // One without an address is reached over the connection that it has made.
    let address = host.address.as_deref().unwrap_or(id.as_str());
    Request::builder()
        .method(Method::POST)
        .uri(format!("https://{address}/{}", ask.operation))
        .header(CONTENT_TYPE, "application/json")
        .header(X_REQUEST_ID, ask.request_id.as_str())
        .body(Bytes::from(ask.input.to_string()))
        .map_err(|reason| unanswered(id, ask, unusable(&reason)))
}

fn unusable(reason: &dyn ToString) -> ClientError {
    ClientError::InvalidRequest(reason.to_string())
}

fn unanswered(host: &HostId, ask: &Ask<'_>, reason: ClientError) -> HostFailure {
    let (operation, request_id) = (ask.operation, ask.request_id);
    tracing::warn!(%host, operation, %request_id, %reason, "no answer from a host");
    let (host, carried_out) = (host.clone(), reason.may_have_been_carried_out());
    let reason = Box::new(reason);
    if carried_out {
        HostFailure::NoAnswer { host, reason }
    } else {
        HostFailure::Unreachable { host, reason }
    }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorObject,
}

fn understand<O: DeserializeOwned>(
    host: &HostId,
    ask: &Ask<'_>,
    answer: Response<Bytes>,
) -> Result<O, HostFailure> {
    let (status, body) = (answer.status(), answer.body());
    let nonsense = |said: String| {
        let (operation, request_id) = (ask.operation, ask.request_id);
        tracing::error!(%host, operation, %request_id, %status, said, "a host broke");
        HostFailure::Nonsense {
            host: host.clone(),
            status,
            said,
        }
    };
    if status.is_success() {
        // An operation without output may answer with an empty body.
        let body: &[u8] = if body.is_empty() { b"null" } else { body };
        return serde_json::from_slice(body).map_err(|error| nonsense(error.to_string()));
    }
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error }) => Err(refused(error).map_or_else(nonsense, HostFailure::Refused)),
        Err(error) => Err(nonsense(error.to_string())),
    }
}

/// A host's refusal, as its caller may read it; else what it said.
fn refused(error: ErrorObject) -> Result<CallError, String> {
    let Some(code) = codes::of_host(&error.code) else {
        return Err(format!("{}: {}", error.code, error.message));
    };
    let refused = CallError::new(code, error.message);
    Ok(match error.details {
        Some(details) => refused.with_details(details),
        None => refused,
    })
}
