//! The SPIFFE Workload API of a host: the agent knows the entries and asks the control plane to
//! sign, `authority` attests processes and serves the socket; here they are joined.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use hostler_authority::Bundles;
use hostler_authority::workload_api::{Entries, Entry, Issuer, IssuerError, WorkloadApi};
use hostler_host::agent::{WorkloadEntry, WorkloadRefused, WorkloadState, Workloads};
use hostler_identity::SpiffeId;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::failure::{Doing, Failure};

/// Where the socket of a host is.
#[derive(Debug, Clone)]
pub(crate) enum SocketPlace {
    /// Where somebody wants it: there, or the host does not start.
    Wanted(PathBuf),
    /// Under the host's data directory, if a socket can be there.
    Under(PathBuf),
}

/// The socket of a host, open and not yet served.
pub(crate) struct WorkloadSocket {
    api: WorkloadApi<ControlPlane>,
    /// Carries the agent's news to the socket, for as long as that is served.
    _news: AbortOnDropHandle<()>,
}

impl WorkloadSocket {
    /// Opens the socket. `None` where the data directory has no room for one, which costs the
    /// processes of this machine their identities and not its VMs their host.
    pub(crate) fn open(
        place: &SocketPlace,
        workloads: &Workloads,
    ) -> Result<Option<Self>, Failure> {
        let path = place.path()?;
        let (entries, entries_seen) = watch::channel(Entries::not_known_yet());
        let (bundles, bundles_seen) = watch::channel(Bundles::default());
        let control_plane = ControlPlane {
            workloads: workloads.clone(),
            bundles: bundles_seen,
        };
        let api = match (WorkloadApi::bind(&path, control_plane, entries_seen), place) {
            (Ok(api), _) => api,
            (Err(error), SocketPlace::Wanted(_)) => return Err(error.into()),
            (Err(error), SocketPlace::Under(_)) => {
                tracing::error!(
                    %error,
                    "no Workload API on this host; choose its place with --workload-socket PATH"
                );
                return Ok(None);
            }
        };
        if let Some(closed) = closed_to_others(&path) {
            tracing::warn!(
                socket = %path.display(), directory = %closed.display(),
                "other users cannot reach the Workload API: they may not enter this directory; run \
                 chmod o+x on it, or choose another place with --workload-socket PATH"
            );
        }
        let news = carry(workloads.state(), entries, bundles);
        Ok(Some(Self {
            api,
            _news: AbortOnDropHandle::new(tokio::spawn(news)),
        }))
    }

    /// Where clients find it, as `SPIFFE_ENDPOINT_SOCKET` wants it.
    pub(crate) fn endpoint(&self) -> String {
        self.api.endpoint()
    }

    /// Serves until it is told to stop.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        if let Err(error) = self.api.serve(stop.cancelled_owned()).await {
            tracing::error!(%error, "there is no Workload API on this host any more");
        }
    }
}

impl SocketPlace {
    fn path(&self) -> Result<PathBuf, Failure> {
        let path = match self {
            Self::Wanted(path) => path.clone(),
            Self::Under(data_dir) => data_dir.join("workload/api.sock"),
        };
        std::path::absolute(&path).doing(|| format!("cannot tell where {} is", path.display()))
    }
}

/// Makes a host's data directory, and those above it, so that other users may pass through to the
/// socket. What else lies in it is for its owner alone.
pub(crate) fn make_passable_dir(path: &Path) -> Result<(), Failure> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(path)
        .doing(|| format!("cannot make {}", path.display()))
}

/// The first directory on the way to `path` that not everybody may enter.
fn closed_to_others(path: &Path) -> Option<&Path> {
    let closed = |directory: &&Path| {
        fs::metadata(directory).is_ok_and(|metadata| metadata.mode() & 0o001 == 0)
    };
    path.ancestors().skip(1).find(closed)
}

/// Signs for the processes of this host by asking the control plane.
#[derive(Debug)]
struct ControlPlane {
    workloads: Workloads,
    bundles: watch::Receiver<Bundles>,
}

impl Issuer for ControlPlane {
    async fn sign(&self, id: SpiffeId, csr_pem: String) -> Result<String, IssuerError> {
        let signed = self.workloads.sign(&id, &csr_pem).await;
        signed.map_err(issuer_error)
    }

    async fn mint(&self, id: SpiffeId, audience: Vec<String>) -> Result<SecretString, IssuerError> {
        let minted = self.workloads.mint(&id, &audience).await;
        minted.map_err(issuer_error)
    }

    fn bundles(&self) -> watch::Receiver<Bundles> {
        self.bundles.clone()
    }
}

fn issuer_error(refused: WorkloadRefused) -> IssuerError {
    match refused {
        WorkloadRefused::Refused(reason) => IssuerError::Refused(reason),
        other => IssuerError::Unavailable(other.to_string()),
    }
}

/// Passes on what the agent hears, until the agent has ended. Entries and bundles end with it:
/// nobody is given an identity by a host that is none.
async fn carry(
    mut news: watch::Receiver<Option<std::sync::Arc<WorkloadState>>>,
    entries: watch::Sender<Entries>,
    bundles: watch::Sender<Bundles>,
) {
    while news.changed().await.is_ok() {
        let Some(state) = news.borrow_and_update().clone() else {
            continue;
        };
        // Bundles first: an identity is of no use without its roots.
        bundles.send_replace(Bundles {
            x509: state.x509.clone(),
            jwt: state.jwt.clone(),
            signer: state.signer.clone(),
        });
        entries.send_replace(state.entries.iter().filter_map(entry).collect());
    }
}

/// An entry that cannot be used here gives nobody an identity, and costs no other entry.
fn entry(told: &WorkloadEntry) -> Option<Entry> {
    let selectors: Result<Vec<_>, _> = told.selectors.iter().map(|text| text.parse()).collect();
    let entry = match selectors {
        Ok(selectors) => Entry::new(told.id.clone(), selectors)
            .and_then(|entry| entry.with_hint(told.hint.clone().unwrap_or_default()))
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    entry
        .inspect_err(|reason| tracing::warn!(id = %told.id, reason, "an entry is left out"))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn told(selectors: &[&str]) -> WorkloadEntry {
        WorkloadEntry {
            id: "spiffe://a.example/web".parse().expect("an id"),
            selectors: selectors.iter().map(|s| (*s).to_owned()).collect(),
            hint: None,
        }
    }

    #[test]
    fn an_entry_that_is_not_understood_matches_nobody() {
        assert!(entry(&told(&["unix:uid:0"])).is_some());
        // Leaving out only the unknown selector would make the entry match more than it should.
        assert!(entry(&told(&["unix:uid:0", "tpm:key:1"])).is_none());
        assert!(entry(&told(&[])).is_none());
    }

    #[test]
    fn a_directory_that_others_may_not_enter_is_found() {
        let base = tempfile::tempdir().expect("a directory");
        // A temporary directory is its owner's alone.
        fs::set_permissions(base.path(), fs::Permissions::from_mode(0o755)).expect("set");
        let data = base.path().join("a/b");
        make_passable_dir(&data).expect("made");
        let socket = data.join("api.sock");
        assert_eq!(closed_to_others(&socket), None);
        fs::set_permissions(base.path().join("a"), fs::Permissions::from_mode(0o700)).expect("set");
        assert_eq!(closed_to_others(&socket), Some(&*base.path().join("a")));
    }
}
