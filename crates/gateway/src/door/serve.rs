//! One connection, from the handshake to its end.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{FuturesUnordered, StreamExt as _};
use hostler_identity::{PeerIdentity, wait_until};
use http::header::{ALT_SVC, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Version};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::behind::Behind;
use super::handed::{Handed, Handlers};
use super::http2::Http2;
use super::ledger::{Overdue, Patience};
use super::watched::{Exchange, Watch, WatchedBody, WatchedStream};
use crate::calls::CallAdapter;
use crate::connection::ConnectionInfo;
use crate::limits::DoorLimits;
use crate::sse::EVENT_STREAM;

/// How long a connection that was closed politely may take to notice.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// A connection is closed politely so long before its peer's certificate expires, or a tenth of
/// what is left of that certificate's life, so that the peer comes back with a newer one in time.
const BEFORE_EXPIRY: SignedDuration = SignedDuration::from_secs(30);

/// How many header fields hyper takes over HTTP/1.1 when it is not told.
const HEADERS: usize = 100;

/// How long, and how much of, what a refused peer still sends is read.
const LINGER: Duration = Duration::from_millis(500);
const LINGER_BYTES: u64 = 64 << 10;

/// What carries HTTP/1.1 or HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// A TCP connection, on which others may be told of HTTP/3.
    Tcp,
    /// A stream, of which either end can be closed.
    QuicStream,
}

/// What all connections of a door share.
pub(super) struct Shared {
    pub(super) acceptor: TlsAcceptor,
    pub(super) behind: Behind,
    pub(super) limits: DoorLimits,
    pub(super) admission: Option<Admission>,
    pub(super) handlers: Handlers,
    pub(super) calls: Option<CallAdapter>,
    /// Where the same is served over HTTP/3, as those who come over TCP are told.
    pub(super) alt_svc: Option<HeaderValue>,
    /// Finish what is in flight.
    pub(super) shutdown: CancellationToken,
    /// Finish nothing.
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Shared {
    /// Serves one connection to its end. What goes wrong on it is of interest to those who look
    /// for it; the internet is full of it.
    pub(super) async fn connection(self: Arc<Self>, stream: TcpStream, remote: SocketAddr) {
        // Answers are written whole; waiting to fill a packet would only delay them.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else {
            return; // It was reset already.
        };
        let handshake = tokio::time::timeout(self.limits.handshake_time, self.shake_hands(stream));
        let stream = tokio::select! {
            finished = handshake => match finished {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%remote, %error, "the handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(%remote, "the handshake took too long");
                    return;
                }
            },
            () = self.shutdown.cancelled() => return,
        };
        let tls = stream.get_ref().1;
        if let Some(handler) = self.handlers.of(tls.alpn_protocol()) {
            let connection = ConnectionInfo::new((local, remote), tls, self.shutdown.clone());
            let (peer, expires_at) = (connection.peer().cloned(), connection.expires_at());
            let stream = Box::new(stream);
            return tokio::select! {
                () = handler(Handed { stream, connection }) => {}
                () = almost_expired(expires_at) => {
                    tracing::debug!(%remote, "the certificate of a connection is about to expire");
                }
                () = self.withdrawn(peer) => {
                    tracing::info!(%remote, "the peer of a connection is admitted no more; it is cut");
                }
                () = self.shutdown.cancelled() => {}
            };
        }
        let version = match tls.alpn_protocol() {
            Some(b"h2") => Version::HTTP_2,
            _ => Version::HTTP_11,
        };
        let info = ConnectionInfo::new((local, remote), tls, self.shutdown.clone());
        let withdrawn = self.withdrawn(info.peer().cloned());
        tokio::select! {
            biased;
            () = self.http(stream, version, info, Carrier::Tcp) => {}
            () = withdrawn => {
                tracing::info!(%remote, "the peer of a connection is admitted no more; it is cut");
            }
        }
    }

    /// Serves HTTP/1.1 or HTTP/2 on a stream of bytes to its end.
    pub(super) async fn http<S>(
        &self,
        stream: S,
        version: Version,
        connection: ConnectionInfo,
        carrier: Carrier,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let is_h2 = version == Version::HTTP_2;
        let patience = Patience {
            head: (!is_h2).then_some(self.limits.head_time),
            write: self.limits.write_time,
            idle: self.limits.idle_time,
        };
        let (remote, expires_at) = (connection.remote(), connection.expires_at());
        let watch = Watch::new(patience);
        let service = ConnectionService {
            behind: self.behind.clone(),
            connection,
            watch: Arc::clone(&watch),
            alt_svc: self.alt_svc.clone().filter(|_| carrier == Carrier::Tcp),
        };
        let stream = WatchedStream::new(stream, Arc::clone(&watch));
        if is_h2 {
            let (connection, silence) = Http2::new(stream, service, &self.limits);
            let driving = self.drive(connection, silence, &watch, expires_at);
            told(remote, watch.clock.during(driving).await);
        } else {
            let connection = self
                .http1(carrier)
                .serve_connection(TokioIo::new(stream), service);
            let driving = self.drive(connection, pending(), &watch, expires_at);
            told(remote, watch.clock.during(driving).await);
        }
    }

    /// Waits until the peer of this connection is admitted no more.
    pub(super) async fn withdrawn(&self, peer: Option<PeerIdentity>) {
        match self.admission.clone() {
            Some(admission) => admission.withdrawn(peer).await,
            None => std::future::pending().await,
        }
    }

    /// Shakes hands. A refused peer gets its alert: closing a socket on which bytes lie unread
    /// makes the kernel send a reset, which can overtake the alert, so what is left is read first.
    async fn shake_hands(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        match self.acceptor.accept(stream).into_fallible().await {
            Ok(stream) => Ok(stream),
            Err((reason, mut stream)) => {
                let farewell = async {
                    stream.shutdown().await?;
                    let mut rest = stream.take(LINGER_BYTES);
                    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
                };
                // However the farewell goes, the reason stays the same.
                let _ = tokio::time::timeout(LINGER, farewell).await;
                Err(reason)
            }
        }
    }

    fn http1(&self, carrier: Carrier) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            // The ledger keeps this time: hyper's would also run while a connection is idle.
            .header_read_timeout(None)
            // Over TCP a client that says nothing more has left; a stream's other half says so itself.
            .half_close(carrier == Carrier::QuicStream)
            .max_header_size(self.limits.head_bytes);
        // Said again, hyper's own number costs it room on the heap for each request.
        if self.limits.headers != HEADERS {
            builder.max_headers(self.limits.headers);
        }
        builder
    }

    /// Runs a connection until it ends by itself, its time is up, or its peer is silent.
    async fn drive<C: Served>(
        &self,
        connection: C,
        silence: impl Future<Output = ()> + Send,
        watch: &Watch,
        expires_at: Option<Timestamp>,
    ) -> Result<(), C::Error> {
        let mut connection = pin!(connection);
        // Together they are asked only when one of them has something to say, and not with each request.
        let mut events = FuturesUnordered::<BoxFuture<'_, Event>>::new();
        events.push(Box::pin(self.cut.cancelled().map(|()| Event::Cut)));
        events.push(Box::pin(silence.map(|()| Event::Silence)));
        events.push(Box::pin(self.shutdown.cancelled().map(|()| Event::Leave)));
        events.push(Box::pin(almost_expired(expires_at).map(|()| Event::Leave)));
        let look = |at| Box::pin(sleep_until(at).map(|()| Event::Look));
        events.push(look(Instant::now()));
        let mut closing = false;
        loop {
            let event = tokio::select! {
                // In this order: most often there is a request.
                biased;
                ended = connection.as_mut() => return ended,
                Some(event) = events.next() => event,
            };
            let leave = match event {
                Event::Cut => return Ok(()),
                Event::Silence => {
                    tracing::debug!("the peer of a connection does not answer any more; it is cut");
                    return Ok(());
                }
                Event::Leave => true,
                Event::Look => {
                    let now = Instant::now();
                    match watch.ledger.check(now) {
                        Ok(next) => {
                            events.push(look(next));
                            false
                        }
                        Err(Overdue::Idle) if !closing => {
                            events.push(look(now + FAREWELL));
                            true
                        }
                        Err(overdue) => {
                            tracing::debug!(?overdue, "the connection is cut");
                            return Ok(());
                        }
                    }
                }
            };
            if leave && !closing {
                closing = true;
                connection.as_mut().leave();
            }
        }
    }
}

/// Tells those who look for it that a connection broke.
fn told<E: std::fmt::Display>(remote: SocketAddr, ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(%remote, %error, "the connection broke");
    }
}

/// A connection that is served for as long as it is polled.
pub(super) trait Served: Future<Output = Result<(), Self::Error>> {
    type Error;

    /// Takes no further requests, and ends when those under way have their answers.
    fn leave(self: Pin<&mut Self>);
}

impl<I> Served for http1::Connection<I, ConnectionService>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    type Error = hyper::Error;

    fn leave(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

/// What happens to a connection from this side.
enum Event {
    /// It is cut off.
    Cut,
    /// It is time to take leave.
    Leave,
    /// Its peer answers nothing any more.
    Silence,
    /// It is time to look at the ledger.
    Look,
}

/// Waits until the peer's certificate has almost expired.
pub(super) async fn almost_expired(expires_at: Option<Timestamp>) {
    let Some(expires_at) = expires_at else {
        return std::future::pending().await;
    };
    let left = expires_at.duration_since(Timestamp::now());
    wait_until(expires_at - BEFORE_EXPIRY.min(left / 10)).await;
}

/// What is behind the door, as one connection sees it.
pub(super) struct ConnectionService {
    pub(super) behind: Behind,
    pub(super) connection: ConnectionInfo,
    pub(super) watch: Arc<Watch>,
    pub(super) alt_svc: Option<HeaderValue>,
}

impl ConnectionService {
    /// Answers one request, whichever version of HTTP brought it.
    pub(super) fn answer(&self, request: Request<Body>) -> Answering {
        let (head, body) = request.into_parts();
        Answering {
            stage: Stage::New(Arc::clone(&self.watch)),
            answer: self.behind.answer(head, body, &self.connection),
            alt_svc: self.alt_svc.clone(),
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<WatchedBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        self.answer(request.map(|body| match body.is_end_stream() {
            // Most requests have none, and a box for nothing is not free.
            true => Body::empty(),
            false => Body::new(body),
        }))
    }
}

/// An answer on its way. Small, because it is moved about until it is polled.
pub(super) struct Answering {
    answer: BoxFuture<'static, Response<Body>>,
    stage: Stage,
    alt_svc: Option<HeaderValue>,
}

/// How far the ledger has been told. It is told once of an answer that is there at the first look:
/// nobody reads it before that is over.
enum Stage {
    New(Arc<Watch>),
    Waiting(Exchange),
    Over,
}

impl Future for Answering {
    type Output = Result<Response<WatchedBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = self.answer.as_mut().poll(cx);
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        let Poll::Ready(mut response) = answered else {
            self.stage = match stage {
                Stage::New(watch) => Stage::Waiting(Exchange::begin(&watch)),
                stage => stage,
            };
            return Poll::Pending;
        };
        let exchange = match stage {
            Stage::New(watch) => Exchange::answered(watch),
            Stage::Waiting(exchange) => {
                exchange.write();
                exchange
            }
            // Nobody polls what has answered.
            Stage::Over => return Poll::Pending,
        };
        if let Some(alt_svc) = self.alt_svc.take() {
            response.headers_mut().insert(ALT_SVC, alt_svc);
        }
        let is_stream = is_event_stream(response.headers(), response.body());
        Poll::Ready(Ok(
            response.map(|body| WatchedBody::new(body, exchange, is_stream))
        ))
    }
}

/// Whether an answer is a stream without a known end.
pub(super) fn is_event_stream(headers: &HeaderMap, body: &Body) -> bool {
    let kind = || headers.get(CONTENT_TYPE);
    body.size_hint().exact().is_none() && kind().is_some_and(|kind| kind == EVENT_STREAM)
}
