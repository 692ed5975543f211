//! The Workload API over real sockets, asked by an implementation that is not ours: the crate
//! `spiffe`. The process that runs the tests is the workload.

mod callers;
mod issuers;
mod jwt;
mod raw;
mod socket;
mod x509;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use hostler_authority::Authority;
use hostler_authority::workload_api::{Entries, Entry, Issuer, Selector, WorkloadApi};
use spiffe::WorkloadApiClient;
use tempfile::TempDir;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::support::{domain, id};

/// Far beyond what anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .expect("it takes far too long")
}

/// An entry for the process that runs the tests.
fn entry(path: &str) -> Entry {
    Entry::new(id(path), [my_uid()]).unwrap()
}

fn my_uid() -> Selector {
    Selector::Uid(rustix::process::geteuid().as_raw())
}

fn web() -> Entries {
    Entries::from_iter([entry("/web")])
}

/// A Workload API on a socket of its own.
struct Running {
    endpoint: String,
    path: PathBuf,
    entries: watch::Sender<Entries>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    _dir: TempDir,
}

impl Running {
    /// Over an embedded authority, with these entries.
    fn new(authority: &Authority, entries: Entries) -> Self {
        assert_eq!(authority.trust_domain(), &domain());
        Self::with_issuer(authority.clone(), entries)
    }

    fn with_issuer(issuer: impl Issuer, entries: Entries) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("workload/api.sock");
        let (entries, seen) = watch::channel(entries);
        let api = WorkloadApi::bind(&path, issuer, seen).unwrap();
        let endpoint = api.endpoint();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            api.serve(async { drop(stopped.await) }).await.unwrap();
        });
        Self {
            endpoint,
            path,
            entries,
            stop: Some(stop),
            task,
            _dir: dir,
        }
    }

    async fn client(&self) -> WorkloadApiClient {
        soon(WorkloadApiClient::connect_to(&self.endpoint))
            .await
            .unwrap()
    }

    async fn stop(mut self) {
        drop(self.stop.take());
        soon(&mut self.task).await.unwrap();
        assert!(!self.path.exists(), "the socket is gone with its server");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}
