//! The processes on this host: who they are, as the control plane has it, and the way to get their
//! identities signed.
//!
//! The agent follows the control plane: it asks for the state beyond the one that it has, and the
//! answer comes when there is one. What it knows stays while the control plane is away. Whoever
//! serves the SPIFFE Workload API on this host takes it from [`Workloads`], which speaks of SPIFFE
//! IDs and certificates only.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hostler_identity::{
    BundleDocument, JwtBundles, SpiffeId, SpiffeIdError, TrustBundles, TrustDomain,
};
use secrecy::SecretString;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::life::draw;
use super::link::{LinkError, MachinesDoor, WorkloadsTold};
use super::pulse::Failure;

/// A control plane that was away is asked again after about this, then more and more seldom.
const RETRY: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
/// An answer without news should have taken longer. If it did not, this keeps the pace.
const LEAST_PACE: Duration = Duration::from_secs(1);

/// One registration entry that holds on this host: a process that matches all selectors is `id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadEntry {
    /// Who a matching process is.
    pub id: SpiffeId,
    /// What a process must match, in the control plane's words (`unix:uid:33`).
    pub selectors: Vec<String>,
    /// By what a process that has several identities tells them apart.
    pub hint: Option<String>,
}

/// What the control plane says of the processes on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkloadState {
    /// The entries, in their order.
    pub entries: Vec<WorkloadEntry>,
    /// By which roots processes recognise others: of our own trust domain and of federated ones.
    pub x509: TrustBundles,
    /// By which keys they recognise the tokens of others.
    pub jwt: JwtBundles,
    /// Which root signs at present. When it is another one, identities are to be made anew.
    pub signer: String,
}

/// Why no identity was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadRefused {
    /// The control plane will not sign this.
    #[error("the control plane refuses: {0}")]
    Refused(String),
    /// The control plane gives no answer at present.
    #[error("no answer from the control plane: {0}")]
    Unavailable(String),
}

/// What an enrolled host does for the processes on it. Cheap to clone; it is of use while the agent
/// runs.
#[derive(Debug, Clone)]
pub struct Workloads {
    host_id: String,
    door: MachinesDoor,
    state: watch::Receiver<Option<Arc<WorkloadState>>>,
}

impl Workloads {
    /// The state as the control plane has told it, and every change of it. `None` until it has told
    /// one; closed when the agent has ended.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<Option<Arc<WorkloadState>>> {
        self.state.clone()
    }

    /// Has an X.509-SVID of this ID signed for the key of a certificate request (PEM). The answer
    /// is the chain (PEM, leaf first).
    ///
    /// # Errors
    /// [`WorkloadRefused`]
    pub async fn sign(&self, id: &SpiffeId, csr_pem: &str) -> Result<String, WorkloadRefused> {
        let id = id.to_string();
        Ok(self.door.sign(&self.host_id, &id, csr_pem).await?)
    }

    /// Has a JWT-SVID of this ID issued for these audiences.
    ///
    /// # Errors
    /// [`WorkloadRefused`]
    pub async fn mint(
        &self,
        id: &SpiffeId,
        audience: &[String],
    ) -> Result<SecretString, WorkloadRefused> {
        let id = id.to_string();
        Ok(self.door.mint(&self.host_id, &id, audience).await?)
    }
}

impl From<LinkError> for WorkloadRefused {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Refused { message, .. } | LinkError::NoSuchHost { message } => {
                Self::Refused(message)
            }
            other => Self::Unavailable(other.to_string()),
        }
    }
}

/// What the agent itself takes from the news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnNews {
    /// The roots of our own trust domain (PEM).
    pub(super) bundle_pem: String,
    /// Which root signs at present.
    pub(super) signer: String,
}

/// Follows what the control plane says. One for each agent.
pub(super) struct Follower {
    host_id: String,
    door: MachinesDoor,
    state: watch::Sender<Option<Arc<WorkloadState>>>,
    own: watch::Sender<Option<OwnNews>>,
    refused: Arc<Notify>,
}

/// What the agent holds of its [`Follower`].
pub(super) struct Followed {
    pub(super) own: watch::Receiver<Option<OwnNews>>,
    /// Notified when the control plane does not accept us any more.
    pub(super) refused: Arc<Notify>,
}

/// An answer of the control plane that cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("{0:?} is no trust domain: {1}")]
    TrustDomain(String, SpiffeIdError),
    #[error("the bundle of {0} cannot be used: {1}")]
    Bundle(TrustDomain, Box<dyn std::error::Error + Send + Sync>),
    #[error("{0:?} is no SPIFFE ID: {1}")]
    Id(String, SpiffeIdError),
}

pub(super) fn follow(host_id: &str, door: &MachinesDoor) -> (Workloads, Follower, Followed) {
    let (state, seen) = watch::channel(None);
    let (own, own_seen) = watch::channel(None);
    let refused = Arc::new(Notify::new());
    let workloads = Workloads {
        host_id: host_id.to_owned(),
        door: door.clone(),
        state: seen,
    };
    let follower = Follower {
        host_id: host_id.to_owned(),
        door: door.clone(),
        state,
        own,
        refused: Arc::clone(&refused),
    };
    let own = own_seen;
    (workloads, follower, Followed { own, refused })
}

impl Follower {
    /// Asks, and asks again, for ever.
    pub(super) async fn run(self) {
        let mut revision: Option<String> = None;
        let (mut failures, mut refused) = (0, false);
        loop {
            let asked = Instant::now();
            match self
                .door
                .workloads(&self.host_id, revision.as_deref())
                .await
            {
                Ok(told) => {
                    if failures > 0 {
                        info!("the control plane tells of the processes on this host again");
                    }
                    (failures, refused) = (0, false);
                    if revision.as_ref() != Some(&told.revision) {
                        revision = Some(told.revision.clone());
                        self.publish(told);
                    } else if asked.elapsed() < LEAST_PACE {
                        tokio::time::sleep(LEAST_PACE).await;
                    }
                }
                Err(error) => {
                    self.report(&error, failures);
                    failures = failures.saturating_add(1);
                    if matches!(error.failure(), None | Some(Failure::Refused)) && !refused {
                        // A heartbeat finds out what that means. Once in a row: it has a pace of
                        // its own.
                        refused = true;
                        self.refused.notify_one();
                    }
                    tokio::time::sleep(RETRY.delay(failures, draw())).await;
                }
            }
        }
    }

    fn publish(&self, told: WorkloadsTold) {
        self.own.send_replace(Some(OwnNews {
            bundle_pem: told.bundle.clone(),
            signer: told.signer.clone(),
        }));
        let state = WorkloadState::from(told);
        debug!(
            entries = state.entries.len(),
            "news of the processes on this host"
        );
        self.state.send_if_modified(|now| {
            let changed = now.as_deref() != Some(&state);
            *now = Some(Arc::new(state));
            changed
        });
    }

    fn report(&self, error: &LinkError, failures_before: u32) {
        if error.failure().is_none() {
            // Deleted: nobody here is anybody any more, whatever else happens.
            self.state.send_replace(Some(Arc::default()));
        }
        if failures_before == 0 {
            warn!(%error, "no news of the processes on this host; what is known stays");
        } else {
            debug!(%error, failures_before, "again no news of the processes on this host");
        }
    }
}

impl From<WorkloadsTold> for WorkloadState {
    /// What cannot be used costs itself and nothing else: a foreign bundle of a kind that this
    /// version does not know must not take anybody's identity.
    fn from(told: WorkloadsTold) -> Self {
        let mut state = Self {
            signer: told.signer,
            ..Self::default()
        };
        for entry in told.entries {
            match entry.spiffe_id.parse() {
                Ok(id) => state.entries.push(WorkloadEntry {
                    id,
                    selectors: entry.selectors,
                    hint: entry.hint,
                }),
                Err(error) => warn_of(&Unusable::Id(entry.spiffe_id, error)),
            }
        }
        for (name, document) in told.bundles {
            if let Err(unusable) = state.take_bundle(name, &document) {
                warn_of(&unusable);
            }
        }
        state
    }
}

fn warn_of(unusable: &Unusable) {
    warn!(%unusable, "part of what the control plane says is left out; see that both run one version");
}

impl WorkloadState {
    fn take_bundle(&mut self, name: String, document: &serde_json::Value) -> Result<(), Unusable> {
        let domain = match TrustDomain::new(&name) {
            Ok(domain) => domain,
            Err(error) => return Err(Unusable::TrustDomain(name, error)),
        };
        let document = BundleDocument::parse(document.to_string().as_bytes())
            .map_err(|error| Unusable::Bundle(domain.clone(), error.into()))?;
        self.x509
            .insert(domain.clone(), document.roots)
            .map_err(|error| Unusable::Bundle(domain.clone(), error.into()))?;
        self.jwt.insert(domain, document.jwt);
        Ok(())
    }
}
