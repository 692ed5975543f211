//! What a file and the environment say, before it is known to make sense.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use spiffe::{SpiffeId, TrustDomain};
use tracing::warn;

use super::error::{ConfigError, Place};
use super::place::{line_of, line_of_item};
use super::{Config, Http, Policy, Spire};
use crate::endpoint::WorkloadEndpoint;
use crate::id::{parse_spiffe_id, parse_trust_domain};

/// Before the name of every variable that sets a key.
const PREFIX: &str = "HOSTLER_";
/// The sections whose keys are ours, as variables begin with them.
const SECTIONS: [&str; 2] = ["HOSTLER_HTTP_", "HOSTLER_SPIRE_"];

const DEFAULT_PORT: u16 = 8443;
const DEFAULT_TIMEOUT_SECS: u64 = 30;

/// A file, key by key.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    http: HttpKeys,
    spire: SpireKeys,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HttpKeys {
    enabled: Option<bool>,
    address: Option<IpAddr>,
    port: Option<u16>,
    health_port: Option<u16>,
    timeout_secs: Option<u64>,
    authentication: AuthenticationKeys,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AuthenticationKeys {
    policy: Option<String>,
    trust_domain: Option<String>,
    allowed_ids: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SpireKeys {
    socket_path: Option<String>,
    trust_domain: Option<String>,
}

const POLICY: &str = "http.authentication.policy";
const POLICY_DOMAIN: &str = "http.authentication.trust_domain";
const ALLOWED_IDS: &str = "http.authentication.allowed_ids";
const SOCKET_PATH: &str = "spire.socket_path";
const OUR_DOMAIN: &str = "spire.trust_domain";
/// Every key; what is not listed here cannot be set by a variable.
const KEYS: [&str; 10] = [
    "http.enabled",
    "http.address",
    "http.port",
    "http.health_port",
    "http.timeout_secs",
    POLICY,
    POLICY_DOMAIN,
    ALLOWED_IDS,
    SOCKET_PATH,
    OUR_DOMAIN,
];

/// A configuration as it was given, with what is needed to say where a key stands.
pub(super) struct Raw<'a> {
    name: &'a str,
    yaml: &'a str,
    keys: File,
    /// The variables that set a key, by their names.
    variables: BTreeMap<String, String>,
    /// What `SPIFFE_ENDPOINT_SOCKET` says.
    standard_endpoint: Option<String>,
}

impl<'a> Raw<'a> {
    pub(super) fn read(
        name: &'a str,
        yaml: &'a str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut raw = Self {
            name,
            yaml,
            keys: file(name, yaml)?,
            variables: BTreeMap::new(),
            standard_endpoint: None,
        };
        let known: BTreeSet<String> = KEYS.into_iter().map(variable_of).collect();
        for (name, value) in variables {
            if name == "SPIFFE_ENDPOINT_SOCKET" {
                raw.standard_endpoint = Some(value);
            } else if known.contains(&name) {
                raw.variables.insert(name, value);
            } else if SECTIONS.iter().any(|section| name.starts_with(section)) {
                // Not an error: an orchestrator makes variables of its own after the names of
                // services (HOSTLER_HTTP_SERVICE_HOST).
                warn!(
                    variable = name,
                    "this variable looks like a key, and is none"
                );
            }
        }
        raw.overlay()?;
        Ok(raw)
    }

    /// Lays the variables over the file.
    fn overlay(&mut self) -> Result<(), ConfigError> {
        let mut keys = std::mem::take(&mut self.keys);
        let http = &mut keys.http;
        self.over("http.enabled", &mut http.enabled)?;
        self.over("http.address", &mut http.address)?;
        self.over("http.port", &mut http.port)?;
        self.over("http.health_port", &mut http.health_port)?;
        self.over("http.timeout_secs", &mut http.timeout_secs)?;
        self.over(POLICY, &mut http.authentication.policy)?;
        self.over(POLICY_DOMAIN, &mut http.authentication.trust_domain)?;
        if let Some(list) = self.variables.get(&variable_of(ALLOWED_IDS)) {
            let ids = list.split(',').map(str::trim).filter(|id| !id.is_empty());
            http.authentication.allowed_ids = Some(ids.map(str::to_owned).collect());
        }
        self.over(SOCKET_PATH, &mut keys.spire.socket_path)?;
        self.over(OUR_DOMAIN, &mut keys.spire.trust_domain)?;
        self.keys = keys;
        Ok(())
    }

    fn over<T>(&self, key: &'static str, value: &mut Option<T>) -> Result<(), ConfigError>
    where
        T: FromStr<Err: Display>,
    {
        if let Some(text) = self.variables.get(&variable_of(key)) {
            let parsed = text
                .parse()
                .map_err(|error| self.wrong(key, format!("{text:?} cannot be used: {error}")))?;
            *value = Some(parsed);
        }
        Ok(())
    }

    /// The configuration, if it makes sense.
    pub(super) fn checked(self) -> Result<Config, ConfigError> {
        let http = &self.keys.http;
        let timeout_secs = http.timeout_secs.unwrap_or(DEFAULT_TIMEOUT_SECS);
        if timeout_secs == 0 {
            let reason = "nothing is answered in no time; give at least 1";
            return Err(self.wrong("http.timeout_secs", reason));
        }
        let port = http.port.unwrap_or(DEFAULT_PORT);
        if http.health_port == Some(port) && port != 0 {
            let reason = format!("{port} is http.port already; give another one");
            return Err(self.wrong("http.health_port", reason));
        }
        Ok(Config {
            http: Http {
                enabled: http.enabled.unwrap_or(true),
                address: http.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
                port,
                health_port: http.health_port,
                timeout: Duration::from_secs(timeout_secs),
                authentication: self.policy()?,
            },
            spire: Spire {
                socket_path: self.endpoint()?,
                trust_domain: self.domain(OUR_DOMAIN, self.keys.spire.trust_domain.as_deref())?,
            },
        })
    }

    /// The policy. What another policy would need may stand beside it, so that a file can be
    /// switched from one to the other, as long as it does not say something else: a list of IDs
    /// beside `any`, or an ID outside the trust domain, shows that somebody meant another policy
    /// than the one that would be in force.
    fn policy(&self) -> Result<Policy, ConfigError> {
        let keys = &self.keys.http.authentication;
        let domain = self.domain(POLICY_DOMAIN, keys.trust_domain.as_deref())?;
        let ids = self.allowed_ids(domain.as_ref())?;
        match (keys.policy.as_deref(), domain, ids) {
            (None, ..) => Err(self.wrong(
                POLICY,
                "it is missing, so nobody could connect; give any, trust-domain or specific-id",
            )),
            (Some("any"), None, None) => Ok(Policy::Any),
            (Some("any"), Some(_), _) => Err(self.wrong(
                POLICY,
                format!("any contradicts {POLICY_DOMAIN}; give trust-domain, or take that out"),
            )),
            (Some("any"), None, Some(_)) => Err(self.wrong(
                POLICY,
                format!("any contradicts {ALLOWED_IDS}; give specific-id, or take that out"),
            )),
            (Some("trust-domain"), None, _) => Err(self.wrong(
                POLICY,
                format!("trust-domain needs {POLICY_DOMAIN}; say which one, like example.org"),
            )),
            (Some("trust-domain"), Some(domain), ids) => {
                if ids.is_some() {
                    warn!(
                        policy = "trust-domain",
                        "{ALLOWED_IDS} is not used: every member of {domain} is let in"
                    );
                }
                Ok(Policy::TrustDomain(domain))
            }
            (Some("specific-id"), _, Some(ids)) if !ids.is_empty() => Ok(Policy::SpecificId(ids)),
            (Some("specific-id"), ..) => Err(self.wrong(
                POLICY,
                format!("specific-id needs {ALLOWED_IDS}; list at least one SPIFFE ID"),
            )),
            (Some(other), ..) => Err(self.wrong(
                POLICY,
                format!("{other:?} is no policy; give any, trust-domain or specific-id"),
            )),
        }
    }

    fn allowed_ids(
        &self,
        domain: Option<&TrustDomain>,
    ) -> Result<Option<BTreeSet<SpiffeId>>, ConfigError> {
        let Some(ids) = &self.keys.http.authentication.allowed_ids else {
            return Ok(None);
        };
        let mut checked = BTreeSet::new();
        for (position, text) in ids.iter().enumerate() {
            let wrong = |reason: String| ConfigError::Value {
                place: self.place_of_item(ALLOWED_IDS, position),
                key: ALLOWED_IDS,
                reason,
            };
            let id = parse_spiffe_id(text)
                .map_err(|error| wrong(format!("{text:?} is no SPIFFE ID: {error}")))?;
            if id.path().is_empty() {
                let reason = "names a trust domain, which nobody is; give it a path";
                return Err(wrong(format!("{text:?} {reason}")));
            }
            if let Some(domain) = domain.filter(|domain| !id.is_member_of(domain)) {
                return Err(wrong(format!("{id} contradicts {POLICY_DOMAIN} {domain}")));
            }
            checked.insert(id);
        }
        Ok(Some(checked))
    }

    fn domain(
        &self,
        key: &'static str,
        name: Option<&str>,
    ) -> Result<Option<TrustDomain>, ConfigError> {
        let parse = |name| {
            parse_trust_domain(name)
                .map_err(|error| self.wrong(key, format!("{name:?} is no trust domain: {error}")))
        };
        name.map(parse).transpose()
    }

    fn endpoint(&self) -> Result<WorkloadEndpoint, ConfigError> {
        let given = self.keys.spire.socket_path.as_ref();
        let Some(text) = given.or(self.standard_endpoint.as_ref()) else {
            let reason = "it is missing, and so is the variable SPIFFE_ENDPOINT_SOCKET; say where \
                          the Workload API listens, like unix:///run/spire/agent/api.sock";
            return Err(self.wrong(SOCKET_PATH, reason));
        };
        text.parse().map_err(|error| ConfigError::Value {
            place: match given {
                Some(_) => self.place(SOCKET_PATH),
                None => Place::Variable("SPIFFE_ENDPOINT_SOCKET".to_owned()),
            },
            key: SOCKET_PATH,
            reason: format!("{text:?} is no address of a Workload API: {error}"),
        })
    }

    fn wrong(&self, key: &'static str, reason: impl Into<String>) -> ConfigError {
        ConfigError::Value {
            place: self.place(key),
            key,
            reason: reason.into(),
        }
    }

    fn place(&self, key: &str) -> Place {
        self.place_by(key, |path| line_of(self.yaml, path))
    }

    fn place_of_item(&self, key: &str, item: usize) -> Place {
        self.place_by(key, |path| line_of_item(self.yaml, path, item))
    }

    fn place_by(&self, key: &str, line: impl FnOnce(&[&str]) -> Option<usize>) -> Place {
        let variable = variable_of(key);
        if self.variables.contains_key(&variable) {
            return Place::Variable(variable);
        }
        let name = self.name.to_owned();
        match line(&key.split('.').collect::<Vec<_>>()) {
            Some(line) => Place::Line { name, line },
            None => Place::Missing { name },
        }
    }
}

/// `HOSTLER_HTTP_PORT` for `http.port`.
fn variable_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_uppercase().replace('.', "_"))
}

fn file(name: &str, yaml: &str) -> Result<File, ConfigError> {
    let nothing = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if yaml.lines().all(nothing) {
        return Ok(File::default());
    }
    serde_norway::from_str(yaml).map_err(|error| {
        let mut reason = error.to_string();
        // The reader says nothing about the place when that is where the file begins.
        if !reason.contains(" at line ") {
            reason.push_str(" at line 1 column 1");
        }
        ConfigError::Yaml {
            name: name.to_owned(),
            reason,
        }
    })
}
