//! From a configuration to something that runs.

use std::io;
use std::net::SocketAddr;

use spiffe::{SpiffeId, TrustDomain};

use super::Config;
use crate::client::Client;
use crate::server::Server;
use crate::source::{Source, Unavailable};
use crate::workload::WorkloadApiFailure;

/// Why what a configuration describes does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The Workload API gives us no identity.
    #[error(transparent)]
    Identity(#[from] WorkloadApiFailure),
    /// The identity was there for a moment.
    #[error(transparent)]
    Gone(#[from] Unavailable),
    /// We are somebody else than the configuration says.
    #[error("we are {id}, but spire.trust_domain says {expected}; is this the right agent?")]
    OtherTrustDomain {
        /// Who we are.
        id: SpiffeId,
        /// Where we should be from.
        expected: TrustDomain,
    },
    /// `http.enabled` is false.
    #[error("http.enabled is false, so there is nothing to serve")]
    Disabled,
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl Config {
    /// Our identity, from the Workload API.
    pub async fn source(&self) -> Result<Source, StartError> {
        let source = Source::workload_api(&self.spire.socket_path.to_string()).await?;
        if let Some(expected) = &self.spire.trust_domain {
            let id = source.id()?;
            if !id.is_member_of(expected) {
                let expected = expected.clone();
                return Err(StartError::OtherTrustDomain { id, expected });
            }
        }
        Ok(source)
    }

    /// Our identity, and the server that the configuration describes, listening.
    pub async fn server(&self) -> Result<(Source, Server), StartError> {
        if !self.http.enabled {
            return Err(StartError::Disabled);
        }
        let source = self.source().await?;
        let at = |port| SocketAddr::new(self.http.address, port);
        let failed = |address| move |source| StartError::Listen { address, source };
        let address = at(self.http.port);
        let mut server = Server::bind(address, &source, self.authorizer())
            .await
            .map_err(failed(address))?;
        if let Some(address) = self.http.health_port.map(at) {
            server = server.with_health(address).await.map_err(failed(address))?;
        }
        Ok((source, server))
    }

    /// Our identity, and a client that talks to whom the policy accepts.
    pub async fn client(&self) -> Result<(Source, Client), StartError> {
        let source = self.source().await?;
        let client = Client::new(&source, self.authorizer()).with_timeout(self.http.timeout);
        Ok((source, client))
    }
}
