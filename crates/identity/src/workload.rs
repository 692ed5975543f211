//! An identity from the SPIFFE Workload API: SPIRE's agent, or anything else that speaks it.
//!
//! The `spiffe` crate keeps the stream to the agent, reconnects, and parses; one small task
//! carries what it accepts into our [`Source`], after our stricter look at it (see `rules`).

use std::time::Duration;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use spiffe::x509_source::X509SourceError;
use spiffe::{WorkloadApiClient, WorkloadApiError, X509Source};
use tracing::{info, warn};

use crate::bundle::{BundleError, TrustBundles};
use crate::source::{Source, SourceWriter};
use crate::svid::{Svid, SvidError};

/// How long the agent may take for its first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Why the Workload API gave no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadApiFailure {
    /// Nothing that speaks the Workload API answers at the endpoint.
    #[error("no Workload API answers at {endpoint}: {source}; is the agent running there?")]
    Unreachable {
        /// The endpoint as it was given.
        endpoint: String,
        /// What went wrong.
        source: WorkloadApiError,
    },
    /// The agent answers, but has no identity for this process.
    #[error(
        "the agent at {endpoint} has no identity for this process ({reason}): register an entry \
         for it"
    )]
    NoIdentity {
        /// The endpoint as it was given.
        endpoint: String,
        /// What the agent said.
        reason: String,
    },
    /// The agent took a connection and then said nothing.
    #[error("the agent at {endpoint} gave no answer within {} s", FIRST_ANSWER.as_secs())]
    Silent {
        /// The endpoint as it was given.
        endpoint: String,
    },
    /// The agent's answer cannot be used.
    #[error("the identity from {endpoint} cannot be used: {source}")]
    Unusable {
        /// The endpoint as it was given.
        endpoint: String,
        /// What is wrong with it.
        source: MaterialError,
    },
}

/// What is wrong with an answer of the Workload API.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum MaterialError {
    /// The stream's state: withdrawn, expired, or closed.
    Source(#[from] X509SourceError),
    /// The SVID breaks a rule.
    Svid(#[from] SvidError),
    /// A bundle breaks a rule.
    Bundle(#[from] BundleError),
}

impl Source {
    /// The identity that the Workload API at `endpoint` (`unix:///path` or `tcp://IP:PORT`) gives
    /// to this process; renewed as the agent renews it, withdrawn as the agent withdraws it.
    ///
    /// Asks once before it settles down to listen, so that a wrong address or a missing entry is
    /// an error at once instead of a wait. While the agent is away later, the identity stays until
    /// it expires. A background task ends with the last clone of the source.
    pub async fn workload_api(endpoint: &str) -> Result<Self, WorkloadApiFailure> {
        match tokio::time::timeout(FIRST_ANSWER, ask_and_listen(endpoint)).await {
            Ok(answer) => answer,
            Err(_) => Err(WorkloadApiFailure::Silent {
                endpoint: endpoint.to_owned(),
            }),
        }
    }
}

async fn ask_and_listen(endpoint: &str) -> Result<Source, WorkloadApiFailure> {
    let failed = |source: WorkloadApiError| match source {
        WorkloadApiError::NoIdentityIssued => WorkloadApiFailure::NoIdentity {
            endpoint: endpoint.to_owned(),
            reason: source.to_string(),
        },
        WorkloadApiError::PermissionDenied(reason) => WorkloadApiFailure::NoIdentity {
            endpoint: endpoint.to_owned(),
            reason,
        },
        source => WorkloadApiFailure::Unreachable {
            endpoint: endpoint.to_owned(),
            source,
        },
    };
    let unusable = |source: MaterialError| WorkloadApiFailure::Unusable {
        endpoint: endpoint.to_owned(),
        source,
    };
    let client = WorkloadApiClient::connect_to(endpoint)
        .await
        .map_err(failed)?;
    client.fetch_x509_context().await.map_err(failed)?;
    let stream = X509Source::builder()
        .endpoint(endpoint)
        .build()
        .await
        .map_err(|error| unusable(error.into()))?;
    let (svid, bundles) = accepted(&stream).map_err(unusable)?;
    let (source, writer) = Source::memory(svid, bundles);
    tokio::spawn(follow(stream, writer));
    Ok(source)
}

/// Carries every accepted state of the stream into the source, until nobody uses the source or
/// the stream has ended for good. Dropping the writer then closes the source.
async fn follow(stream: X509Source, writer: SourceWriter) {
    let mut updates = stream.updated();
    loop {
        tokio::select! {
            () = writer.unused() => return,
            change = updates.changed() => if change.is_err() { return },
        }
        match accepted(&stream) {
            Ok((svid, bundles)) => {
                info!(id = %svid.id(), expires_at = %svid.not_after(), "identity renewed");
                writer.replace(svid, bundles);
            }
            Err(reason) => {
                warn!(%reason, "identity withdrawn: the Workload API's answer cannot be used");
                writer.withdraw();
            }
        }
    }
}

fn accepted(stream: &X509Source) -> Result<(Svid, TrustBundles), MaterialError> {
    let state = stream.state();
    let (svid, context) = (state.svid()?, state.context()?);
    let chain = svid
        .cert_chain()
        .iter()
        .map(|cert| CertificateDer::from(cert.as_bytes().to_vec()));
    let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes().to_vec());
    let svid = Svid::from_der(chain.collect(), PrivateKeyDer::Pkcs8(key))?;
    let mut bundles = TrustBundles::new();
    for (trust_domain, bundle) in context.bundle_set().iter() {
        let roots = bundle.authorities().iter();
        let roots = roots
            .map(|cert| CertificateDer::from(cert.as_bytes().to_vec()))
            .collect();
        bundles.insert(trust_domain.clone(), roots)?;
    }
    Ok((svid, bundles))
}
