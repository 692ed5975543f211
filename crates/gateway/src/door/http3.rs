//! HTTP/3 on a QUIC connection (RFC 9114): each request goes to the router that answers over TCP too.
//!
//! The library beneath is young and stays in this room. Beside the requests a connection may carry
//! WebTransport sessions, if calls are served.

mod backend;
mod capsules;
mod leaving;
mod sessions;
mod sorting;
mod webtransport;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf, Bytes};
use futures::FutureExt as _;
use futures::future::FusedFuture as _;
use h3::error::{Code, ConnectionError, StreamError};
use h3::server::{RequestResolver, RequestStream};
use http::header::{CONTENT_LENGTH, DATE, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::backend::Backend;
use self::leaving::Leavers;
use self::sessions::{SESSIONS, Sessions};
use self::sorting::Library;
use self::webtransport::Hall;
use super::ledger::{Overdue, Patience};
use super::serve::{ConnectionService, FAREWELL, Shared, almost_expired};
use super::watched::{Exchange, Watch, WatchedBody};
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
    if let Err(error) = requests(shared, connection, info).await
        && !error.is_h3_no_error()
    {
        tracing::debug!(%remote, %error, "the connection broke");
    }
}

async fn requests(
    shared: Arc<Shared>,
    connection: quinn::Connection,
    info: ConnectionInfo,
) -> Result<(), ConnectionError> {
    let leaving = CancellationToken::new();
    let hall = shared.calls.clone().map(|calls| {
        Arc::new(Hall {
            calls,
            sessions: Sessions::default(),
            connection: connection.clone(),
            leaving: leaving.clone(),
        })
    });
    let ((bidi, bidi_sorted), (uni, uni_sorted)) = (unbounded_channel(), unbounded_channel());
    let library = Library { bidi, uni };
    let sessions = hall.as_ref().map(|hall| &hall.sessions);
    let sorting = sorting::sort(&connection, library, sessions, shared.limits.head_time);
    let mut sorting = pin!(sorting.fuse());
    let mut settings = h3::server::builder();
    settings.max_field_section_size(shared.limits.head_bytes as u64);
    if hall.is_some() {
        settings
            .enable_extended_connect(true)
            .enable_datagram(true)
            .enable_webtransport(true)
            .max_webtransport_sessions(SESSIONS as u64);
    }
    let leavers = Leavers::default();
    let backend = Backend::new(connection.clone(), bidi_sorted, uni_sorted, leavers.clone());
    let mut h3: Connection = settings.build(backend).await?;
    let patience = Patience {
        head: None,
        write: shared.limits.write_time,
        idle: shared.limits.idle_time,
    };
    let mut expiring = pin!(almost_expired(info.expires_at()));
    let watch = Watch::new(patience);
    let service = Arc::new(ConnectionService {
        behind: shared.behind.clone(),
        connection: info,
        watch: Arc::clone(&watch),
        alt_svc: None,
    });
    // Handlers end with their connection, also those that have nothing to write.
    let gone = CancellationToken::new();
    let _gone_at_the_end = gone.clone().drop_guard();
    let under_way = TaskTracker::new();
    let mut look_at = Instant::now();
    let mut closing = false;
    loop {
        tokio::select! {
            accepted = h3.accept() => {
                let Some(resolver) = accepted? else {
                    return Ok(());
                };
                let (service, hall) = (Arc::clone(&service), hall.clone());
                let beside = (hall, leavers.clone());
                let answering = answer(resolver, service, beside, Arc::clone(&shared));
                let (gone, watch) = (gone.clone().cancelled_owned(), Arc::clone(&watch));
                under_way.spawn(async move {
                    tokio::select! {
                        answered = watch.clock.during(answering) => if let Err(error) = answered {
                            tracing::debug!(%error, "a stream broke");
                        },
                        () = gone => {}
                    }
                });
                continue;
            }
            () = sorting.as_mut(), if !sorting.is_terminated() => continue,
            () = shared.shutdown.cancelled(), if !closing => {}
            () = expiring.as_mut(), if !closing => {}
            () = under_way.wait(), if closing => {
                // Until the peer, which was told that this is the end, closes.
                let closed = async { while let Ok(Some(_)) = h3.accept().await {} };
                let _ = tokio::time::timeout(DELIVERY, closed).await;
                return Ok(());
            }
            () = tokio::time::sleep_until(look_at) => {
                match watch.ledger.check(Instant::now()) {
                    Ok(next) => {
                        look_at = next;
                        continue;
                    }
                    Err(Overdue::Idle) if !closing => look_at = Instant::now() + FAREWELL,
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

async fn answer(
    resolver: Resolver,
    service: Arc<ConnectionService>,
    (hall, leavers): (Option<Arc<Hall>>, Leavers),
    shared: Arc<Shared>,
) -> Result<(), StreamError> {
    let Ok(resolved) =
        tokio::time::timeout(shared.limits.head_time, resolver.resolve_request()).await
    else {
        return Ok(()); // Its head does not come; the stream is reset when it is dropped.
    };
    let (request, stream) = resolved?;
    let (mut sender, receiver) = stream.split();
    if let Some(hall) = hall.filter(|_| webtransport::is_asked_for(&request)) {
        let (info, exchange) = (service.connection.clone(), Exchange::begin(&service.watch));
        let stream = (sender, receiver);
        return webtransport::serve(&hall, &shared, &request, stream, info, exchange).await;
    }
    let left = leavers.left(receiver.id().into_inner());
    let body = ReceivedBody::new(receiver, request.headers());
    let request: Request<Body> = request.map(|()| Body::new(body));
    let answering = async {
        let Ok(response) = service.answer(request).await;
        send(&mut sender, response).await
    };
    tokio::select! {
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
    while let Some(frame) = body.frame().await {
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
    sender.finish().await
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
    let now = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
    if let Some(now) = now.ok().and_then(|now| HeaderValue::try_from(now).ok()) {
        headers.entry(DATE).or_insert(now);
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
