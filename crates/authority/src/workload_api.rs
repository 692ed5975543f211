//! The SPIFFE Workload API: local processes learn who they are, by asking a Unix socket.
//!
//! A process connects and asks; it has no secret to show. The kernel says who it is (user, group,
//! process), the process's own entry in `/proc` says which program it runs, and the registration
//! [`Entries`] say which identity that program has here. Nobody can ask on another's behalf, and
//! a process without an entry is told so at once, and why.
//!
//! ```text
//! process ── socket ──▶ attest (who asks?) ──▶ entries (who is that here?) ──▶ Issuer
//!    ▲                                                                            │
//!    └────────────── X.509-SVID and key, JWT-SVID, bundles ◀──────────────────────┘
//! ```
//!
//! The [`Issuer`] is the embedded [`Authority`](crate::Authority) on a laptop, and on a host
//! whoever asks the control plane; private keys are made here, so only requests leave the host.
//! Every answer of a stream is the whole state: entries, bundles and renewals each lead to a new
//! one. What is offered to callers is the standard's, all five calls of it
//! ([Workload API](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md)).
//!
//! ```no_run
//! use hostler_authority::Authority;
//! use hostler_authority::workload_api::{Entries, Entry, WorkloadApi};
//! use tokio::sync::watch;
//!
//! # async fn run(authority: Authority) -> Result<(), Box<dyn std::error::Error>> {
//! let selectors = ["unix:uid:33".parse()?, "unix:path:/usr/sbin/nginx".parse()?];
//! let nginx = Entry::new("spiffe://example.org/web".parse()?, selectors)?;
//! // Whoever holds `entries` changes who is who, and every stream hears of it.
//! let (entries, seen) = watch::channel(Entries::from_iter([nginx]));
//!
//! let socket = "/var/lib/hostler/workload/api.sock".as_ref();
//! let api = WorkloadApi::bind(socket, authority, seen)?;
//! println!("export SPIFFE_ENDPOINT_SOCKET={}", api.endpoint());
//! api.serve(std::future::pending()).await?;
//! # drop(entries);
//! # Ok(()) }
//! ```

mod attest;
mod connection;
mod entries;
mod follow;
mod identities;
mod issuer;
mod jwt;
mod localhost;
mod service;
mod socket;
mod x509;

use std::path::Path;
use std::time::Duration;

use futures::stream;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::{info, warn};

use connection::Connection;
pub use entries::{Entries, Entry, EntryError, Selector, SelectorError};
pub use issuer::{Issuer, IssuerError};
use proto::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use service::Service;
use socket::Socket;
pub use socket::SocketError;

/// The messages and the server's frame, generated from `proto/workload.proto`.
mod proto {
    #![allow(unreachable_pub, clippy::all, reason = "generated")]
    tonic::include_proto!("_");
}

/// Far above any request: a token and an audience.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Concurrent calls on one connection; a client library needs two or three.
const MAX_CALLS: u32 = 64;
/// What is in flight when the server is told to stop has this long to finish.
const GRACE: Duration = Duration::from_secs(5);
/// A listener that is out of file descriptors waits this long before it accepts again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A Workload API that listens on a Unix socket.
#[derive(Debug)]
pub struct WorkloadApi<I> {
    socket: Socket,
    service: Service<I>,
    stopping: CancellationToken,
}

/// The Workload API ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("the Workload API failed: {0}")]
pub struct WorkloadApiError(#[source] tonic::transport::Error);

impl<I: Issuer> WorkloadApi<I> {
    /// Listens at `path`, for every local process that can reach it. The directory is made if
    /// need be (0755); one in which anybody may write, such as `/tmp`, is refused, because there
    /// anybody could put a socket of their own in this one's place. What a crash left behind is
    /// replaced, a living server is not. Must be called within a tokio runtime.
    ///
    /// Whoever holds the other end of `entries` replaces them at any time; when it is dropped,
    /// nobody is given an identity any more.
    pub fn bind(
        path: &Path,
        issuer: I,
        entries: watch::Receiver<Entries>,
    ) -> Result<Self, SocketError> {
        let socket = Socket::bind(path)?;
        let stopping = CancellationToken::new();
        let service = Service::new(issuer, entries, stopping.clone());
        info!(path = %path.display(), "the Workload API listens");
        Ok(Self {
            socket,
            service,
            stopping,
        })
    }

    /// Where clients find it, as `SPIFFE_ENDPOINT_SOCKET` wants it: `unix:///path`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.path().display())
    }

    /// Serves until `stop` completes; then ends every stream with `Unavailable`, so that clients
    /// keep what they have and come back, removes the socket, and returns.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), WorkloadApiError> {
        let Self {
            socket,
            service,
            stopping,
        } = self;
        let (listener, _file) = socket.into_parts();
        let service =
            SpiffeWorkloadApiServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
        let serving = Server::builder()
            .max_concurrent_streams(MAX_CALLS)
            .add_service(service)
            .serve_with_incoming_shutdown(accepted(listener), stopping.clone().cancelled_owned());
        let mut serving = std::pin::pin!(serving);
        tokio::select! {
            ended = serving.as_mut() => return ended.map_err(WorkloadApiError),
            () = stop => stopping.cancel(),
        }
        match tokio::time::timeout(GRACE, serving).await {
            Ok(ended) => ended.map_err(WorkloadApiError),
            Err(_) => {
                warn!("stopped with calls of the Workload API still in flight");
                Ok(())
            }
        }
    }
}

/// Connections as they come, each with whoever opened it. It never ends and never fails.
fn accepted(
    listener: UnixListener,
) -> impl futures::Stream<Item = Result<Connection, std::convert::Infallible>> {
    stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(Connection::new(stream)), listener)),
                Err(reason) => {
                    warn!(%reason, "cannot accept a connection to the Workload API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}
