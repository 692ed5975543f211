//! The agent's requests to the control plane, each with an answer that says what to do next.
//!
//! Two ways lead there: the machines' door over mutual TLS, open to whoever holds a valid
//! certificate of the trust domain, and the people's door over one-way TLS, for registering and
//! for coming back with the host token.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hostler_identity::{Authorizer, Client, ClientError, Source};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;

use super::machine::Machine;
use super::pulse::Failure;

/// Between a busy control plane, which is worth waiting for, and a vanished one.
const TIMEOUT: Duration = Duration::from_secs(15);
/// A goodbye is a courtesy: the monitor notices an absent host anyway.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than the control plane keeps a host waiting for news.
const NEWS_TIMEOUT: Duration = Duration::from_secs(45);
/// A process waits for what is asked for here.
const WORKLOAD_TIMEOUT: Duration = Duration::from_secs(9);
/// Answers are certificates, error messages, and entries: some thousand of the largest.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;

/// The machine and its wish to become a host.
#[derive(Serialize)]
pub(crate) struct Registration<'a> {
    pub(crate) token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<&'a str>,
    #[serde(flatten)]
    pub(crate) machine: &'a Machine,
    pub(crate) csr: &'a str,
}

/// The control plane's welcome.
#[derive(Deserialize)]
pub(crate) struct Registered {
    pub(crate) host: RegisteredHost,
    pub(crate) token: String,
    pub(crate) svid: Option<String>,
    pub(crate) bundle: String,
    pub(crate) machines_url: Url,
}

/// As much of the host as its agent needs to know.
#[derive(Deserialize)]
pub(crate) struct RegisteredHost {
    pub(crate) id: String,
}

#[derive(Serialize)]
struct Renewal<'a> {
    csr: &'a str,
}

/// A new certificate chain and the present roots, PEM, and a new host token.
#[derive(Deserialize)]
pub(crate) struct Renewed {
    pub(crate) svid: String,
    pub(crate) token: SecretString,
    pub(crate) bundle: String,
}

/// What a heartbeat says.
#[derive(Debug, Serialize)]
pub(crate) struct Heartbeat<'a> {
    /// Where the control plane reaches this host now; it may have moved since it registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<&'a str>,
    /// It has no address, and is reached over a connection of its own.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) reverse: bool,
    pub(crate) vms: Vec<VmSummary>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) goodbye: bool,
}

/// One VM, as a heartbeat mentions it.
#[derive(Debug, Serialize)]
pub(crate) struct VmSummary {
    pub(crate) name: hostler_vmm::VmName,
    pub(crate) state: hostler_vmm::VmState,
}

/// What the control plane says of the processes on a host.
#[derive(Deserialize)]
pub(crate) struct WorkloadsTold {
    /// Names this state.
    pub(crate) revision: String,
    pub(crate) entries: Vec<EntryTold>,
    /// The roots of our own trust domain, PEM.
    pub(crate) bundle: String,
    /// JWK sets by trust domain.
    pub(crate) bundles: BTreeMap<String, serde_json::Value>,
    pub(crate) signer: String,
}

/// A registration entry.
#[derive(Deserialize)]
pub(crate) struct EntryTold {
    pub(crate) spiffe_id: String,
    pub(crate) selectors: Vec<String>,
    pub(crate) hint: Option<String>,
}

#[derive(Serialize)]
struct ToSign<'a> {
    spiffe_id: &'a str,
    csr: &'a str,
}

#[derive(Deserialize)]
struct Signed {
    svid: String,
}

#[derive(Serialize)]
struct ToMint<'a> {
    spiffe_id: &'a str,
    audience: &'a [String],
}

#[derive(Deserialize)]
struct Minted {
    token: SecretString,
}

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LinkError {
    /// There was no answer.
    #[error(transparent)]
    NoAnswer(#[from] ClientError),
    /// The control plane refused the request.
    #[error("{message} ({status})")]
    #[allow(missing_docs)]
    Refused { status: StatusCode, message: String },
    /// The control plane says that there is no such host.
    #[error("{message}")]
    #[allow(missing_docs)]
    NoSuchHost { message: String },
    /// The answer is none of a control plane, or of one in trouble.
    #[error("{status}, {reason}")]
    #[allow(missing_docs)]
    Unexpected { status: StatusCode, reason: String },
}

impl LinkError {
    /// What it means for an agent that is enrolled; `None` when it is enrolled no more.
    pub(crate) fn failure(&self) -> Option<Failure> {
        match self {
            Self::NoSuchHost { .. } => None,
            Self::Refused { status, .. } if is_refusal_of_identity(*status) => {
                Some(Failure::Refused)
            }
            Self::NoAnswer(
                ClientError::WrongServer { .. }
                | ClientError::NoIdentity { .. }
                | ClientError::RefusedByServer { .. },
            ) => Some(Failure::Refused),
            _ => Some(Failure::Unreachable),
        }
    }
}

fn is_refusal_of_identity(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

/// The people's door, recognised by the CA or the pin that the agent was given.
#[derive(Debug, Clone)]
pub(crate) struct PeoplesDoor {
    url: Url,
    client: Client,
}

impl PeoplesDoor {
    pub(crate) fn new(url: Url, tls: rustls::ClientConfig) -> Self {
        let client = Client::with_tls(tls);
        Self {
            url,
            client: limited(client),
        }
    }

    /// `hosts/register`
    pub(crate) async fn register(
        &self,
        registration: &Registration<'_>,
    ) -> Result<Registered, LinkError> {
        let request = post(&self.url, "v1/hosts/register", registration)?;
        answer(&self.client.request(request).await?)
    }

    /// `hosts/renew`, proved by the host token.
    pub(crate) async fn renew(
        &self,
        host_id: &str,
        token: &SecretString,
        csr: &str,
    ) -> Result<Renewed, LinkError> {
        let mut request = post(
            &self.url,
            &format!("v1/hosts/{host_id}/svid"),
            &Renewal { csr },
        )?;
        let mut token = HeaderValue::from_str(token.expose_secret())
            .map_err(|error| ClientError::InvalidRequest(error.to_string()))?;
        token.set_sensitive(true);
        request.headers_mut().insert("x-host-token", token);
        answer(&self.client.request(request).await?)
    }
}

/// The machines' door, which accepts the host by its certificate, and is accepted by its own.
#[derive(Debug, Clone)]
pub(crate) struct MachinesDoor {
    url: Url,
    client: Client,
}

impl MachinesDoor {
    pub(crate) fn new(url: Url, source: &Source, control_plane: Authorizer) -> Self {
        let client = Client::new(source, control_plane);
        Self {
            url,
            client: limited(client),
        }
    }

    /// `hosts/heartbeat`
    pub(crate) async fn heartbeat(
        &self,
        host_id: &str,
        heartbeat: &Heartbeat<'_>,
    ) -> Result<(), LinkError> {
        let path = format!("v1/hosts/{host_id}/heartbeat");
        let request = post(&self.url, &path, heartbeat)?;
        let client = match heartbeat.goodbye {
            true => &self.client.clone().with_timeout(GOODBYE_TIMEOUT),
            false => &self.client,
        };
        success(&client.request(request).await?)
    }

    /// `hosts/renew`, proved by the present certificate.
    pub(crate) async fn renew(&self, host_id: &str, csr: &str) -> Result<Renewed, LinkError> {
        let request = post(
            &self.url,
            &format!("v1/hosts/{host_id}/svid"),
            &Renewal { csr },
        )?;
        answer(&self.client.request(request).await?)
    }

    /// `entries/sync`: waits for another state than the one of this revision.
    pub(crate) async fn workloads(
        &self,
        host_id: &str,
        after: Option<&str>,
    ) -> Result<WorkloadsTold, LinkError> {
        let mut url = self.url.clone();
        // It has a host, or it would not have been reached; so it can be a base.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments
                .pop_if_empty()
                .extend(["v1", "hosts", host_id, "workloads"]);
        }
        if let Some(revision) = after {
            url.query_pairs_mut().append_pair("after", revision);
        }
        let request = Request::get(url.as_str())
            .body(Bytes::new())
            .map_err(|error| ClientError::InvalidRequest(error.to_string()))?;
        answer(&self.client.request_within(NEWS_TIMEOUT, request).await?)
    }

    /// `svids/sign`: the chain, PEM.
    pub(crate) async fn sign(
        &self,
        host_id: &str,
        spiffe_id: &str,
        csr: &str,
    ) -> Result<String, LinkError> {
        let path = format!("v1/hosts/{host_id}/workloads/svid");
        let request = post(&self.url, &path, &ToSign { spiffe_id, csr })?;
        let answered = self
            .client
            .request_within(WORKLOAD_TIMEOUT, request)
            .await?;
        Ok(answer::<Signed>(&answered)?.svid)
    }

    /// `svids/mint`
    pub(crate) async fn mint(
        &self,
        host_id: &str,
        spiffe_id: &str,
        audience: &[String],
    ) -> Result<SecretString, LinkError> {
        let path = format!("v1/hosts/{host_id}/workloads/jwt-svid");
        let to_mint = ToMint {
            spiffe_id,
            audience,
        };
        let request = post(&self.url, &path, &to_mint)?;
        let answered = self
            .client
            .request_within(WORKLOAD_TIMEOUT, request)
            .await?;
        Ok(answer::<Minted>(&answered)?.token)
    }
}

fn limited(client: Client) -> Client {
    client
        .with_timeout(TIMEOUT)
        .with_max_response_bytes(MAX_ANSWER_BYTES)
}

fn post(base: &Url, path: &str, body: &impl Serialize) -> Result<Request<Bytes>, LinkError> {
    let url = format!("{}/{path}", base.as_str().trim_end_matches('/'));
    let body =
        serde_json::to_vec(body).map_err(|error| ClientError::InvalidRequest(error.to_string()))?;
    let request = Request::post(url)
        .header(CONTENT_TYPE, "application/json")
        .body(body.into())
        .map_err(|error| ClientError::InvalidRequest(error.to_string()))?;
    Ok(request)
}

/// The error object of every answer that is no success.
#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorSaid,
}

#[derive(Deserialize)]
struct ErrorSaid {
    code: String,
    message: String,
}

fn success(response: &Response<Bytes>) -> Result<(), LinkError> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let Ok(ErrorBody { error }) = serde_json::from_slice(response.body()) else {
        let reason = "which is not an answer of a control plane; see what listens there";
        return Err(LinkError::Unexpected {
            status,
            reason: reason.to_owned(),
        });
    };
    match (status, error.code.as_str()) {
        // Only in the control plane's own words: another server's 404 must not end a host.
        (StatusCode::NOT_FOUND, "not_found") => Err(LinkError::NoSuchHost {
            message: error.message,
        }),
        _ if status.is_client_error() => Err(LinkError::Refused {
            status,
            message: error.message,
        }),
        _ => Err(LinkError::Unexpected {
            status,
            reason: error.message,
        }),
    }
}

fn answer<T: DeserializeOwned>(response: &Response<Bytes>) -> Result<T, LinkError> {
    success(response)?;
    serde_json::from_slice(response.body()).map_err(|error| LinkError::Unexpected {
        status: response.status(),
        // No more of the error's text: it may quote a token.
        reason: format!("whose body is not understood (column {})", error.column()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &'static str) -> LinkError {
        let response = Response::builder()
            .status(status)
            .body(Bytes::from_static(body.as_bytes()));
        success(&response.unwrap()).unwrap_err()
    }

    #[test]
    fn only_the_control_planes_own_404_ends_a_host() {
        let gone = told(
            404,
            r#"{"error":{"code":"not_found","message":"no such host"}}"#,
        );
        assert_eq!(gone.failure(), None);
        let decoy = told(404, "<html>Not found</html>");
        assert_eq!(decoy.failure(), Some(Failure::Unreachable));
        let other = told(404, r#"{"error":{"code":"no_route","message":"?"}}"#);
        assert_eq!(other.failure(), Some(Failure::Unreachable));
    }

    #[test]
    fn a_refused_identity_is_told_from_a_control_plane_in_trouble() {
        let body = r#"{"error":{"code":"x","message":"y"}}"#;
        assert_eq!(told(401, body).failure(), Some(Failure::Refused));
        assert_eq!(told(403, body).failure(), Some(Failure::Refused));
        assert_eq!(told(429, body).failure(), Some(Failure::Unreachable));
        assert_eq!(told(503, body).failure(), Some(Failure::Unreachable));
        assert_eq!(told(401, "who?").failure(), Some(Failure::Unreachable));
    }
}
