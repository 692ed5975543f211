//! The agent: what makes a machine a host of a control plane, and keeps it one.
//!
//! [`Agent::start`] enrols the machine with a one-time token, or resumes with the credentials of
//! an earlier enrolment. From then on the agent has an identity, a [`Source`] that serves the host
//! door too; [`Agent::run`] sends the heartbeats, renews the identity at half of its life, follows
//! what the control plane says of the processes on this host ([`Workloads`]), and ends when it is
//! told to, or when the control plane has forgotten the host.
//!
//! VMs do not depend on any of this: they run on while the control plane is away, and while the
//! agent is.

mod backoff;
mod config;
mod credentials;
mod enroll;
mod life;
mod link;
mod machine;
mod pin;
mod pulse;
mod reverse;
mod trust;
mod workloads;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use hostler_identity::{Authorizer, Source, SourceWriter, TrustDomain};
use hostler_vmm::StorageError;
use jiff::Timestamp;
use tracing::info;
use url::Url;

pub use config::{AgentConfig, ConfigError};
pub use credentials::{MaterialError, StoreError};
pub use enroll::EnrollError;
pub use life::{Ended, Forgotten};
pub use pin::{InvalidPin, ServerPin};
pub use trust::{ServerTrust, TrustError};
pub use workloads::{WorkloadEntry, WorkloadRefused, WorkloadState, Workloads};

use crate::host::Host;
use credentials::{Credentials, Store};
use link::{MachinesDoor, PeoplesDoor};
use machine::Machine;
use reverse::Reverse;
use workloads::{Followed, Follower};

/// An enrolled host's tie to its control plane.
pub struct Agent {
    host: Arc<Host>,
    config: AgentConfig,
    store: Store,
    credentials: Credentials,
    source: Source,
    writer: SourceWriter,
    trust_domain: TrustDomain,
    peoples_door: PeoplesDoor,
    machines_url: Url,
    machines_door: MachinesDoor,
    workloads: Workloads,
    /// Until the agent runs.
    follower: Option<Follower>,
    followed: Followed,
    /// Which root signs, as far as the control plane has said.
    signer: Option<String>,
    /// For a host that nobody can dial.
    reverse: Option<Reverse>,
}

/// The agent could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// What was given to recognise the server by cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Credentials could not be read or kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This machine cannot be measured.
    #[error("cannot tell the size of this machine: {0}")]
    Machine(#[source] StorageError),
    /// There are no credentials, and no token to get some.
    #[error(
        "this machine is not enrolled ({} does not exist); create a host at the control plane \
         with `hostler host create`, and start the agent once with --register TOKEN", path.display()
    )]
    #[allow(missing_docs)]
    NotEnrolled { path: PathBuf },
    /// There are credentials, and a token to get others.
    #[error(
        "this machine is enrolled already, as {host_id}; start the agent without --register, or \
         delete {} to make it another host", path.display()
    )]
    #[allow(missing_docs)]
    AlreadyEnrolled { host_id: String, path: PathBuf },
    /// Enrolment failed.
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    /// The saved credentials cannot be used.
    #[error(
        "the credentials in {} cannot be used: {source}; delete the file and enrol anew",
        path.display()
    )]
    #[allow(missing_docs)]
    Credentials {
        path: PathBuf,
        source: MaterialError,
    },
}

impl Agent {
    /// Enrols this machine, or resumes as the host that it is. A resumed agent does not need the
    /// control plane to be there.
    ///
    /// # Errors
    /// [`StartError`], each with what to do. A failed enrolment leaves no credentials.
    pub async fn start(config: AgentConfig, host: Arc<Host>) -> Result<Self, StartError> {
        config.check()?;
        let peoples_door = PeoplesDoor::new(config.server.clone(), config.server_trust.tls()?);
        let store = Store::open(&config.data_dir)?;
        let credentials = match (store.load()?, &config.register) {
            (Some(saved), None) => saved,
            (Some(saved), Some(token)) if enroll::got_with(&saved, token) => saved,
            (Some(saved), Some(_)) => {
                return Err(StartError::AlreadyEnrolled {
                    host_id: saved.host_id,
                    path: store.path(),
                });
            }
            (None, Some(token)) => {
                let status = host.machines().status().await;
                let machine = Machine::from(status.map_err(StartError::Machine)?);
                let fresh = enroll::enroll(&config, &machine, token, &peoples_door).await?;
                store.save(&fresh)?;
                info!(host = fresh.host_id, "enrolled");
                fresh
            }
            (None, None) => return Err(StartError::NotEnrolled { path: store.path() }),
        };
        Self::with_credentials(config, host, store, credentials, peoples_door)
    }

    fn with_credentials(
        config: AgentConfig,
        host: Arc<Host>,
        store: Store,
        credentials: Credentials,
        peoples_door: PeoplesDoor,
    ) -> Result<Self, StartError> {
        let (svid, bundles) = match credentials.material() {
            Ok(material) => material,
            Err(source) => {
                let path = store.path();
                return Err(StartError::Credentials { path, source });
            }
        };
        life::warn_of_clock(&svid, Timestamp::now());
        let trust_domain = svid.id().trust_domain().clone();
        let (source, writer) = Source::memory(svid, bundles);
        let control_plane = control_plane_of(trust_domain.clone());
        let machines_url = config.machines_url.as_ref();
        let machines_url = machines_url.unwrap_or(&credentials.machines_url).clone();
        let machines_door = MachinesDoor::new(machines_url.clone(), &source, control_plane);
        let (workloads, follower, followed) =
            workloads::follow(&credentials.host_id, &machines_door);
        Ok(Self {
            host,
            config,
            store,
            credentials,
            source,
            writer,
            trust_domain,
            peoples_door,
            machines_url,
            machines_door,
            workloads,
            follower: Some(follower),
            followed,
            signer: None,
            reverse: None,
        })
    }

    /// The host's id at the control plane.
    pub fn host_id(&self) -> &str {
        &self.credentials.host_id
    }

    /// The host's identity, as the host door presents it. It renews itself while
    /// [`run`](Self::run) runs, and is closed when that has ended.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What this host does for the processes on it. It is of use while [`run`](Self::run) runs.
    pub fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    /// While the agent runs, it keeps a connection to the control plane, over which this host's door
    /// is reached; for a host without an address. `door` is where it listens on this machine.
    #[must_use]
    pub fn reached_through_a_connection_of_its_own(mut self, door: SocketAddr) -> Self {
        self.reverse = Some(Reverse {
            machines_url: self.machines_url.clone(),
            source: self.source.clone(),
            control_plane: self.callers(),
            door,
        });
        self
    }

    /// Who may call the host door: the control plane of this host's trust domain, every replica
    /// of it, and nobody else.
    pub fn callers(&self) -> Authorizer {
        control_plane_of(self.trust_domain.clone())
    }
}

/// Accepts `spiffe://<trust domain>/control-plane/<replica>`.
fn control_plane_of(trust_domain: TrustDomain) -> Authorizer {
    Authorizer::matcher(move |id| {
        id.is_member_of(&trust_domain)
            && id
                .path()
                .strip_prefix("/control-plane/")
                .is_some_and(|replica| !replica.is_empty())
    })
}
