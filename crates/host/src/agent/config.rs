//! What the agent is told when it starts.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::trust::ServerTrust;

/// How an agent finds its control plane, and how the control plane finds it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AgentConfig {
    /// The people's door of the control plane, `https://HOST:PORT`.
    pub server: Url,
    /// By what that door is recognised.
    pub server_trust: ServerTrust,
    /// Where the control plane reaches this host's door: `IP:PORT`, or `NAME:PORT`. Absent for a host
    /// that nobody can dial, behind NAT for example: it keeps a connection of its own.
    pub address: Option<String>,
    /// The machines' door of the control plane, when it is known to be elsewhere than what the
    /// control plane said at registration.
    pub machines_url: Option<Url>,
    /// The registration token, for the first start. Given again later it is not used again, as
    /// long as it is the same one.
    pub register: Option<SecretString>,
    /// The host's data directory; the credentials go into `agent/` in it.
    pub data_dir: PathBuf,
    /// Time from one heartbeat to the next (each moved by up to 10 %); 30 s.
    pub heartbeat_interval: Duration,
}

/// A setting cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The control plane's address is not a bare `https` URL.
    #[error("the server {0} is not usable; give https://HOST:PORT, without a path")]
    Server(String),
    /// The host's own address is not host and port.
    #[error(
        "the address {0:?} is not usable; give IP:PORT (an IPv6 address in brackets), where the \
         control plane reaches this host"
    )]
    Address(String),
}

impl AgentConfig {
    /// The defaults around what has none.
    pub fn new(
        server: Url,
        server_trust: ServerTrust,
        address: impl Into<String>,
        data_dir: impl Into<PathBuf>,
    ) -> Self {
        Self {
            server,
            server_trust,
            address: Some(address.into()),
            machines_url: None,
            register: None,
            data_dir: data_dir.into(),
            heartbeat_interval: Duration::from_secs(30),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let server = &self.server;
        let bare = server.path() == "/" && server.query().is_none() && server.fragment().is_none();
        let anonymous = server.username().is_empty() && server.password().is_none();
        if server.scheme() != "https" || !server.has_host() || !bare || !anonymous {
            return Err(ConfigError::Server(server.origin().ascii_serialization()));
        }
        let Some(address) = &self.address else {
            return Ok(());
        };
        // What can stand between `https://` and `/` of a URL with an explicit port is an address.
        let unusable = || ConfigError::Address(address.clone());
        let authority: http::uri::Authority = address.parse().map_err(|_| unusable())?;
        let somewhere = match address.parse::<SocketAddr>() {
            Ok(address) => !address.ip().is_unspecified(),
            Err(_) => !authority.host().is_empty() && !address.contains('@'),
        };
        match authority.port_u16() {
            Some(1..) if somewhere => Ok(()),
            _ => Err(unusable()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(server: &str, address: &str) -> Result<(), ConfigError> {
        let server = server.parse().unwrap();
        AgentConfig::new(server, ServerTrust::System, address, "/nowhere").check()
    }

    #[test]
    fn a_server_is_a_bare_https_url() {
        let address = "10.0.0.7:9443";
        assert_eq!(check("https://cp.example:8443", address), Ok(()));
        assert_eq!(check("https://[::1]:8443/", address), Ok(()));
        for bad in [
            "http://cp.example",
            "https://cp.example/v1",
            "https://a:b@cp.example",
        ] {
            let error = check(bad, address).unwrap_err();
            assert!(matches!(error, ConfigError::Server(_)), "{bad}");
            assert!(!error.to_string().contains("a:b"), "{error}");
        }
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["10.0.0.7:9443", "[fd00::7]:9443", "host-7.lan:1"] {
            assert_eq!(check("https://cp.example", good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "0.0.0.0:1",
            "[::]:1",
            "10.0.0.7",
            ":9443",
            "a:0",
            "a:65536",
            "me@a:1",
            "a:1/x",
            "a b:1",
        ] {
            let refused = ConfigError::Address(bad.to_owned());
            assert_eq!(check("https://cp.example", bad), Err(refused));
        }
    }
}
