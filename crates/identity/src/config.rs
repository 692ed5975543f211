//! Configuration: who we are, who may be on the other end, and where, from a YAML file and the
//! environment.
//!
//! ```yaml
//! http:
//!   enabled: true
//!   port: 8443
//!   authentication:
//!     policy: trust-domain        # or: any, specific-id
//!     trust_domain: example.org
//! spire:
//!   socket_path: unix:///run/spire/agent/api.sock
//!   trust_domain: example.org
//! ```
//!
//! Every key can be set or overridden by a variable: `HOSTLER_` and the key's path in capitals
//! (`HOSTLER_HTTP_PORT` for `http.port`). There is no default policy: a server that was not told
//! whom to let in does not start. [`Config`] holds only what makes sense; whatever does not is an
//! error that names the key, and the line or the variable where it stands.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use hostler_identity::PeerIdentity;
//! use hostler_identity::config::Config;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let (_source, server) = Config::load(Some("config.yaml".as_ref()))?.server().await?;
//! let hello = |peer: PeerIdentity| async move { format!("hello, {}", peer.id()) };
//! server.serve(Router::new().route("/", get(hello)), std::future::pending()).await;
//! # Ok(()) }
//! ```

mod error;
mod place;
mod raw;
mod start;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use spiffe::{SpiffeId, TrustDomain};

use crate::authorizer::Authorizer;
use crate::endpoint::WorkloadEndpoint;
pub use error::{ConfigError, Place};
use raw::Raw;
pub use start::StartError;

/// A complete configuration. It can be read from a file, or put together by hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The server, and whom to accept on the other end.
    pub http: Http,
    /// Where our identity comes from.
    pub spire: Spire,
}

/// `http`: the server, and whom to accept on the other end.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// `http.enabled` (default true): whether to serve at all.
    pub enabled: bool,
    /// `http.address` (default `0.0.0.0`): where to listen.
    pub address: IpAddr,
    /// `http.port` (default 8443).
    pub port: u16,
    /// `http.health_port` (default none): where to answer probes over plain HTTP.
    pub health_port: Option<u16>,
    /// `http.timeout_secs` (default 30): how long a client waits for a whole answer.
    pub timeout: Duration,
    /// `http.authentication`: who may be on the other end.
    pub authentication: Policy,
}

/// `http.authentication`: who may be on the other end, be it a server's clients or a client's
/// server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// `policy: any`: every member of our own trust domain.
    Any,
    /// `policy: trust-domain` with `trust_domain`: every member of this one.
    TrustDomain(TrustDomain),
    /// `policy: specific-id` with `allowed_ids`: these.
    SpecificId(BTreeSet<SpiffeId>),
}

/// `spire`: where our identity comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spire {
    /// `spire.socket_path`: the Workload API; where it is not set, `SPIFFE_ENDPOINT_SOCKET` says.
    pub socket_path: WorkloadEndpoint,
    /// `spire.trust_domain`: the one that our identity must be of, when given.
    pub trust_domain: Option<TrustDomain>,
}

impl Config {
    /// Reads a file, if one is given, and the variables of this process.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let (name, text) = match path {
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                    path: path.to_owned(),
                    source,
                })?;
                (path.display().to_string(), text)
            }
            None => ("the configuration".to_owned(), String::new()),
        };
        // What is not text cannot be one of ours, and is no reason to fail.
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::parse(&name, &text, variables)
    }

    /// Reads the text of a file of this name, under these variables.
    pub fn parse(
        name: &str,
        yaml: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        Raw::read(name, yaml, variables)?.checked()
    }

    /// The policy as what a handshake asks.
    #[must_use]
    pub fn authorizer(&self) -> Authorizer {
        match &self.http.authentication {
            Policy::Any => Authorizer::any(),
            Policy::TrustDomain(domain) => Authorizer::member_of(domain.clone()),
            Policy::SpecificId(ids) => Authorizer::one_of(ids.iter().cloned()),
        }
    }
}
