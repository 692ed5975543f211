//! Why the Workload API gave no identity, sorted by what its reader can do about it.

use spiffe::WorkloadApiError;
use spiffe::x509_source::X509SourceError;

use super::FIRST_ANSWER;
use super::choice::{SvidChoice, SvidName};
use crate::bundle::BundleError;
use crate::cause::root_cause;
use crate::endpoint::EndpointError;
use crate::svid::SvidError;

/// Why the Workload API gave no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadApiFailure {
    /// The address is none.
    #[error("{endpoint:?} is no address of a Workload API: {source}")]
    Endpoint {
        /// The endpoint as it was given.
        endpoint: String,
        /// What is wrong with it.
        source: EndpointError,
    },
    /// The environment does not say where the Workload API is.
    #[error("where is the Workload API? {0}")]
    Environment(#[source] EndpointError),
    /// Nothing that speaks the Workload API answers at the endpoint.
    #[error(
        "no Workload API answers at {endpoint}: {}; is the agent running there?",
        root_cause(source)
    )]
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
    /// The agent gives this process identities, but not the one that was chosen.
    #[error(
        "the agent at {endpoint} gives this process no identity {wanted}; it gives {}",
        listed(given)
    )]
    NotGiven {
        /// The endpoint as it was given.
        endpoint: String,
        /// The one that was chosen.
        wanted: SvidChoice,
        /// Those that there are.
        given: Vec<SvidName>,
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

fn listed(names: &[SvidName]) -> String {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

/// Sorts what the first question was answered with.
pub(super) fn of_first_answer(endpoint: &str, source: WorkloadApiError) -> WorkloadApiFailure {
    let endpoint = endpoint.to_owned();
    match source {
        WorkloadApiError::NoIdentityIssued => WorkloadApiFailure::NoIdentity {
            endpoint,
            reason: source.to_string(),
        },
        WorkloadApiError::PermissionDenied(reason) => {
            WorkloadApiFailure::NoIdentity { endpoint, reason }
        }
        source => WorkloadApiFailure::Unreachable { endpoint, source },
    }
}
