//! HTTP/3 on a QUIC connection (RFC 9114): each request goes to the router that answers over TCP too.
//!
//! The library beneath is young and stays in this room. Beside the requests a connection may carry
//! WebTransport sessions, if calls are served.

mod backend;
mod capsules;
mod date;
mod leaving;
mod sessions;
mod sorting;
mod webtransport;

use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf, Bytes};
use futures::future::FusedFuture as _;
use futures::{FutureExt as _, poll};
use h3::error::{Code, ConnectionError, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::header::{CONTENT_LENGTH, DATE, Entry, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::backend::Backend;
use self::leaving::Leaver;
use self::sessions::{SESSIONS, Sessions};
use self::sorting::Library;
use self::webtransport::Hall;
use super::ledger::{Overdue, Patience};
use super::serve::{ConnectionService, FAREWELL, Shared, almost_expired};
use super::watched::{Exchange, Watch, WatchedBody};
use crate::connection::ConnectionInfo;
use crate::within::within;

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
    let leaver = Leaver::default();
    let backend = Backend::new(connection.clone(), bidi_sorted, uni_sorted, leaver.clone());
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
                let answering = answer(resolver, Arc::clone(&common), leaver.left());
                begin(answering, &watch, &gone, &under_way).await;
            }
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
        h3.shutdown(0).await?;
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

async fn answer(
    resolver: Resolver,
    common: Arc<Common>,
    left: impl Future<Output = ()>,
) -> Result<(), StreamError> {
    let Common {
        shared,
        service,
        hall,
    } = &*common;
    let Some(resolved) = within(shared.limits.head_time, resolver.resolve_request()).await else {
        return Ok(()); // Its head does not come; the stream is reset when it is dropped.
    };
    let (request, stream) = resolved?;
    let (mut sender, receiver) = stream.split();
    if let Some(hall) = hall.as_ref()
        && webtransport::is_asked_for(&request)
    {
        let (info, exchange) = (service.connection.clone(), Exchange::begin(&service.watch));
        let stream = (sender, receiver);
        let session = webtransport::serve(hall, shared, &request, stream, info, exchange);
        return Box::pin(session).await;
    }
    let body = ReceivedBody::new(receiver, request.headers());
    let request: Request<Body> = request.map(|()| Body::new(body));
    let answering = async {
        let Ok(response) = service.answer(request).await;
        send(&mut sender, response).await
    };
    tokio::select! {
        biased;
        answered = answering => answered,
        () = left => Ok(()),
    }
}

async fn send(sender: &mut Sender, response: Response<WatchedBody>) -> Result<(), StreamError> {
    let (mut head, mut body) = response.into_parts();
    complete(
        head.status,
        &mut head.headers,
        &http_body::Body::size_hint(&body),
    );
    sender.send_response(Response::from_parts(head, ())).await?;
    loop {
        let frame = match poll!(body.frame()) {
            Poll::Ready(frame) => frame,
            // What there is of it is not to wait for what is not.
            Poll::Pending => {
                write_out(sender).await?;
                body.frame().await
            }
        };
        let Some(frame) = frame else {
            return sender.finish().await;
        };
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => sender.send_data(data).await?,
            Ok(Err(frame)) => {
                if let Ok(trailers) = frame.into_trailers() {
                    sender.send_trailers(trailers).await?;
                }
            }
            Err(_) => {
                sender.stop_stream(Code::H3_INTERNAL_ERROR);
                return Ok(());
            }
        }
    }
}

/// Writes what the [stream](backend::Sent) holds back.
async fn write_out(sender: &mut Sender) -> Result<(), StreamError> {
    sender.send_data(Bytes::new()).await
}

/// What hyper adds over TCP.
fn complete(status: StatusCode, headers: &mut HeaderMap, size: &SizeHint) {
    if let Some(length) = size.exact()
        && length > 0
        && status != StatusCode::NO_CONTENT
    {
        headers
            .entry(CONTENT_LENGTH)
            .or_insert(HeaderValue::from(length));
    }
    if let Entry::Vacant(date) = headers.entry(DATE) {
        date.insert(date::now());
    }
}

/// A request's body as it comes in. It is as long as it said it would be, or it is broken.
struct ReceivedBody {
    receiver: Receiver,
    announced: Option<u64>,
    received: u64,
    ended: bool,
}

#[derive(Debug, thiserror::Error)]
enum ReceivedError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("the body is not as long as its content-length says")]
    Length,
}

impl ReceivedBody {
    fn new(receiver: Receiver, headers: &HeaderMap) -> Self {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse().ok());
        Self {
            receiver,
            announced,
            received: 0,
            ended: false,
        }
    }
}

impl http_body::Body for ReceivedBody {
    type Data = Bytes;
    type Error = ReceivedError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceivedError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let data = match ready!(self.receiver.poll_recv_data(cx)) {
            Ok(data) => data.map(|mut data| data.copy_to_bytes(data.remaining())),
            Err(error) => {
                self.ended = true;
                return Poll::Ready(Some(Err(error.into())));
            }
        };
        self.ended = data.is_none();
        self.received += data.as_ref().map_or(0, |data| data.len() as u64);
        let fits = |announced| match self.ended {
            true => self.received == announced,
            false => self.received <= announced,
        };
        if !self.announced.is_none_or(fits) {
            self.ended = true;
            return Poll::Ready(Some(Err(ReceivedError::Length)));
        }
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        if let Some(announced) = self.announced {
            hint.set_lower(announced.saturating_sub(self.received));
        }
        hint
    }
}
