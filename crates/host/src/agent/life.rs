//! An agent at work: it does what its [`Pulse`] says, and tells it how that went.

use hostler_identity::{KeyAndCsr, Svid, TrustBundles};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, error, info, warn};

use super::Agent;
use super::credentials::{Credentials, MaterialError};
use super::link::{Heartbeat, LinkError, VmSummary};
use super::pulse::{Failure, Next, Now, Proof, Pulse, Validity};
use super::reverse::Reverse;
use super::workloads::Follower;

/// Why an agent ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// The control plane does not know this host any more.
    Forgotten(Forgotten),
}

/// The host was deleted at its control plane; its credentials here have been removed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the control plane says: {message}; the credentials of {host_id} were removed, its VMs were \
     left running. To enrol this machine again, create a host and start the agent with --register"
)]
pub struct Forgotten {
    /// The id that the host had.
    pub host_id: String,
    /// What the control plane said.
    pub message: String,
}

/// An identity could not be renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Key(#[from] hostler_identity::EnrollError),
    #[error("what the control plane issued cannot be used: {0}")]
    Material(#[from] MaterialError),
}

impl RenewError {
    fn failure(&self) -> Option<Failure> {
        match self {
            Self::Link(error) => error.failure(),
            Self::Key(_) | Self::Material(_) => Some(Failure::Unreachable),
        }
    }
}

/// Says how far off this machine's clock is, if by a certificate just received it must be.
pub(crate) fn warn_of_clock(svid: &Svid, now: Timestamp) {
    if now < svid.not_before() {
        let by = svid.not_before().duration_since(now);
        warn!("this machine's clock is at least {by:#} behind the control plane's; set it right");
    }
}

impl Agent {
    /// Keeps the host a host until it is told to stop, and says goodbye then.
    pub async fn run(mut self, stop: CancellationToken) -> Ended {
        let mut pulse = self.pulse();
        let follower = self.follower.take().map(Follower::run);
        let reverse = self.reverse.take().map(Reverse::keep);
        let _reached = reverse.map(|keep| AbortOnDropHandle::new(tokio::spawn(keep)));
        let _following = follower.map(|run| AbortOnDropHandle::new(tokio::spawn(run)));
        loop {
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.say_goodbye().await;
                    Some(Ended::Stopped)
                }
                ended = self.step(&mut pulse) => ended,
            };
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    fn pulse(&self) -> Pulse {
        // An expired certificate makes the source unavailable, and a renewal due: the same as one
        // whose time has been over for ever.
        let (not_before, not_after) = match self.source.svid() {
            Ok(svid) => (svid.not_before(), svid.not_after()),
            Err(_) => (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH),
        };
        let svid = Validity {
            not_before,
            not_after,
        };
        Pulse::new(self.config.heartbeat_interval, svid, Now::read(), draw())
    }

    /// One step: a pause, a heartbeat or a renewal.
    async fn step(&mut self, pulse: &mut Pulse) -> Option<Ended> {
        match pulse.next(Now::read()) {
            Next::Wait(time) => tokio::select! {
                () = tokio::time::sleep(time) => {}
                () = self.followed.refused.notified() => pulse.heartbeat_now(Now::read()),
                // Its sender lives until this has ended.
                Ok(()) = self.followed.own.changed() => self.take_own_news(pulse).await,
            },
            Next::Heartbeat => match self.heartbeat(false).await {
                Ok(()) => {
                    if pulse.heartbeat_failures() > 0 {
                        info!("the control plane answers heartbeats again");
                    }
                    pulse.heartbeat_accepted(Now::read(), draw());
                }
                Err(error) => {
                    let Some(failure) = error.failure() else {
                        return Some(self.forget(&error));
                    };
                    report(pulse.heartbeat_failures(), "a heartbeat failed", &error);
                    pulse.heartbeat_failed(failure, Now::read(), draw());
                }
            },
            Next::Renew(proof) => match self.renew(proof).await {
                Ok(svid) => {
                    let validity = Validity {
                        not_before: svid.not_before(),
                        not_after: svid.not_after(),
                    };
                    pulse.renewed(validity, Now::read(), draw());
                }
                Err(error) => {
                    let Some(failure) = error.failure() else {
                        return Some(self.forget(&error));
                    };
                    report(
                        pulse.renewal_failures(),
                        "the identity was not renewed",
                        &error,
                    );
                    pulse.renewal_failed(proof, failure, Now::read(), draw());
                }
            },
        }
        self.host.set_takes_work(pulse.takes_work());
        None
    }

    async fn heartbeat(&self, goodbye: bool) -> Result<(), LinkError> {
        let vms = self.host.machines().list().await;
        let summaries = vms.into_iter().map(|vm| VmSummary {
            name: vm.name,
            state: vm.state,
        });
        let heartbeat = Heartbeat {
            address: self.config.address.as_deref(),
            reverse: self.config.address.is_none(),
            vms: summaries.collect(),
            goodbye,
        };
        let host_id = &self.credentials.host_id;
        self.machines_door.heartbeat(host_id, &heartbeat).await
    }

    async fn say_goodbye(&self) {
        match self.heartbeat(true).await {
            Ok(()) => info!("said goodbye to the control plane"),
            Err(error) => debug!(%error, "the control plane did not hear the goodbye"),
        }
    }

    /// Gets a certificate for a new key, keeps both, and presents them from now on.
    async fn renew(&mut self, proof: Proof) -> Result<Svid, RenewError> {
        let KeyAndCsr { key_pem, csr_pem } = KeyAndCsr::generate(None)?;
        let host_id = &self.credentials.host_id;
        let renewed = match proof {
            Proof::Svid => self.machines_door.renew(host_id, &csr_pem).await?,
            Proof::HostToken => {
                let token = &self.credentials.host_token;
                self.peoples_door.renew(host_id, token, &csr_pem).await?
            }
        };
        let credentials = Credentials {
            key_pem,
            svid_pem: renewed.svid,
            host_token: renewed.token,
            bundle_pem: renewed.bundle,
            ..self.credentials.clone()
        };
        let (svid, bundles) = credentials.material()?;
        warn_of_clock(&svid, Timestamp::now());
        self.save(&credentials).await;
        self.credentials = credentials;
        self.writer.replace(svid.clone(), bundles);
        info!(not_after = %svid.not_after(), ?proof, "renewed the identity");
        Ok(svid)
    }

    /// Takes over new roots, and gives a certificate up that another root than the present one has
    /// signed.
    async fn take_own_news(&mut self, pulse: &mut Pulse) {
        let Some(news) = self.followed.own.borrow_and_update().clone() else {
            return;
        };
        if news.bundle_pem != self.credentials.bundle_pem {
            match TrustBundles::from_pem(self.trust_domain.clone(), &news.bundle_pem) {
                Ok(bundles) => {
                    self.credentials.bundle_pem = news.bundle_pem;
                    self.save(&self.credentials).await;
                    self.writer.replace_bundles(bundles);
                    info!("new roots of the trust domain");
                }
                Err(error) => {
                    warn!(%error, "the control plane's roots cannot be used; the present ones stay");
                    return;
                }
            }
        }
        // What signed our certificate before the first news is not known, and will be renewed in
        // time: roots are trusted for as long as what they signed.
        let before = self.signer.replace(news.signer);
        if before.is_some() && before != self.signer {
            pulse.renew_soon(Now::read(), draw());
        }
    }

    /// Keeps the new credentials. When the disk refuses, the identity is used all the same: the
    /// older credentials on disk hold the host token, with which a restarted agent renews.
    async fn save(&self, credentials: &Credentials) {
        let (store, credentials) = (self.store.clone(), credentials.clone());
        let saved = tokio::task::spawn_blocking(move || store.save(&credentials)).await;
        match saved {
            Ok(Ok(())) => {}
            Ok(Err(error)) => error!(%error, "the renewed credentials were not saved"),
            Err(error) => error!(%error, "the renewed credentials were not saved"),
        }
    }

    fn forget(&self, reason: &dyn std::error::Error) -> Ended {
        if let Err(error) = self.store.forget() {
            error!(%error, "the credentials of a deleted host were not removed");
        }
        Ended::Forgotten(Forgotten {
            host_id: self.credentials.host_id.clone(),
            message: reason.to_string(),
        })
    }
}

/// The first failure of a row is told to everybody, the others to those who look closely.
fn report(failures_before: u32, what: &str, error: &dyn std::error::Error) {
    if failures_before == 0 {
        warn!(error = %error, "{what}; VMs run on, and it is tried again");
    } else {
        debug!(error = %error, failures_before, "{what} again");
    }
}

/// A random number in -1.0..=1.0.
pub(super) fn draw() -> f64 {
    rand::random_range(-1.0..=1.0)
}
