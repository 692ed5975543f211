//! HTTP/3 on a QUIC connection (RFC 9114): each request goes to what answers over TCP too.
//!
//! The library beneath is young and stays in this room. Beside the requests a connection may carry
//! WebTransport sessions, if calls are served.

mod accepted;
mod answering;
mod backend;
mod body;
mod capsules;
mod sessions;
mod sorting;
mod webtransport;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::FusedFuture as _;
use futures::{FutureExt as _, poll};
use h3::error::{ConnectionError, StreamError};
use h3::server::{RequestResolver, RequestStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::accepted::Accepted;
use self::answering::answer;
use self::backend::Backend;
use self::sessions::{SESSIONS, Sessions};
use self::sorting::Library;
use self::webtransport::Hall;
use super::ledger::{Overdue, Patience};
use super::serve::{ConnectionService, FAREWELL, Shared, almost_expired};
use super::watched::Watch;
use crate::connection::ConnectionInfo;

/// How long a peer has to take the end of the last answer before the connection is closed: a stream
/// that is finished is not yet delivered.
const DELIVERY: Duration = Duration::from_secs(1);

type Connection = h3::server::Connection<Backend, Bytes>;
type Resolver = RequestResolver<Backend, Bytes>;
type Sender = RequestStream<backend::Sent, Bytes>;
type Receiver = RequestStream<backend::Received, Bytes>;

/// Serves a connection to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    connection: quinn::Connection,
    info: ConnectionInfo,
) {
    let remote = info.remote();
    let watch = Watch::new(Patience {
        head: None,
        write: shared.limits.write_time,
        idle: shared.limits.idle_time,
    });
    let requests = requests(shared, connection, info, Arc::clone(&watch));
    if let Err(error) = watch.clock.during(requests).await
        && !error.is_h3_no_error()
    {
        tracing::debug!(%remote, %error, "the connection broke");
    }
}

/// What the requests of one connection have in common.
struct Common {
    shared: Arc<Shared>,
    service: ConnectionService,
    hall: Option<Hall>,
}

async fn requests(
    shared: Arc<Shared>,
    connection: quinn::Connection,
    info: ConnectionInfo,
    watch: Arc<Watch>,
) -> Result<(), ConnectionError> {
    let leaving = CancellationToken::new();
    let hall = shared.calls.clone().map(|calls| Hall {
        calls,
        sessions: Sessions::default(),
        connection: connection.clone(),
        leaving: leaving.clone(),
    });
    let mut expiring = pin!(almost_expired(info.expires_at()));
    let service = ConnectionService {
        behind: shared.behind.clone(),
        connection: info,
        watch: Arc::clone(&watch),
        alt_svc: None,
    };
    let common = Arc::new(Common {
        shared: Arc::clone(&shared),
        service,
        hall,
    });
    let ((bidi, bidi_sorted), (uni, uni_sorted)) = (unbounded_channel(), unbounded_channel());
    let library = Library { bidi, uni };
    let sessions = common.hall.as_ref().map(|hall| &hall.sessions);
    let sorting = sorting::sort(&connection, library, sessions, shared.limits.head_time);
    let mut sorting = pin!(sorting.fuse());
    let mut settings = h3::server::builder();
    settings.max_field_section_size(shared.limits.head_bytes as u64);
    if sessions.is_some() {
        settings
            .enable_extended_connect(true)
            .enable_datagram(true)
            .enable_webtransport(true)
            .max_webtransport_sessions(SESSIONS as u64);
    }
    let accepted = Accepted::default();
    let backend = Backend::new(
        connection.clone(),
        bidi_sorted,
        uni_sorted,
        accepted.clone(),
    );
    let mut h3: Connection = settings.build(backend).await?;
    // Handlers end with their connection, also those that have nothing to write.
    let gone = CancellationToken::new();
    let _gone_at_the_end = gone.clone().drop_guard();
    let under_way = TaskTracker::new();
    let mut look = pin!(sleep_until(Instant::now()));
    let mut closing = false;
    loop {
        let taking = async {
            while let Some(resolver) = h3.accept().await? {
                let answering = answer(resolver, Arc::clone(&common), accepted.over());
                begin(answering, &watch, &gone, &under_way).await;
            }
            // The peer asks for nothing more, and has what was large. It closes when it has the rest.
            let _ = tokio::time::timeout(DELIVERY, connection.closed()).await;
            Ok(())
        };
        tokio::select! {
            // In this order: most often there is a request.
            biased;
            ended = taking => return ended,
            () = sorting.as_mut(), if !sorting.is_terminated() => continue,
            () = shared.shutdown.cancelled(), if !closing => {}
            () = expiring.as_mut(), if !closing => {}
            () = under_way.wait(), if closing => {
                // Until the peer, which was told that this is the end, closes.
                let closed = async { while let Ok(Some(_)) = h3.accept().await {} };
                let _ = tokio::time::timeout(DELIVERY, closed).await;
                return Ok(());
            }
            () = look.as_mut() => {
                match watch.ledger.check(Instant::now()) {
                    Ok(next) => {
                        look.as_mut().reset(next);
                        continue;
                    }
                    Err(Overdue::Idle) if !closing => look.as_mut().reset(Instant::now() + FAREWELL),
                    Err(overdue) => {
                        tracing::debug!(?overdue, "the connection is cut");
                        return Ok(());
                    }
                }
            }
        }
        // Whatever it was, it is time to take leave.
        closing = true;
        leaving.cancel();
        under_way.close();
        h3.shutdown(accepted.close()).await?;
    }
}

/// Begins to answer a request. Most are answered at once; one that is not goes on in a task of its own.
async fn begin(
    answering: impl Future<Output = Result<(), StreamError>> + Send + 'static,
    watch: &Arc<Watch>,
    gone: &CancellationToken,
    under_way: &TaskTracker,
) {
    let answering = async {
        if let Err(error) = answering.await {
            tracing::debug!(%error, "a stream broke");
        }
    };
    // A handler that panics ends its stream. The panic hook has logged it.
    let mut answering = AssertUnwindSafe(answering).catch_unwind().boxed();
    if poll!(answering.as_mut()).is_pending() {
        let (gone, watch) = (gone.clone(), Arc::clone(watch));
        under_way.spawn(async move {
            tokio::select! {
                biased;
                _ = watch.clock.during(answering) => {}
                () = gone.cancelled() => {}
            }
        });
    }
}
