//! One request of HTTP/2, from its head to the end of its answer.

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{ALT_SVC, HeaderValue};
use http::{Method, Request};
use http_body::{Body as _, Frame};

use super::body::ReceivedBody;
use crate::door::complete::complete;
use crate::door::date;
use crate::door::serve::{ConnectionService, is_event_stream};
use crate::door::watched::{Exchange, WatchedBody};

/// An answer that the library may keep until the peer takes it, in bytes: no more than the stream itself
/// costs it, of which a peer may have so many.
const SMALL: usize = 1 << 10;

/// Why a stream ends before its answer does.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Protocol(#[from] h2::Error),
    #[error("the peer does not want it any more ({0})")]
    Unwanted(Reason),
    #[error("it is closed, and there is more to say")]
    Closed,
    #[error("the body of the answer broke: {0}")]
    Body(#[from] axum::Error),
    #[error("a CONNECT is answered with success, and there is no tunnel")]
    Tunnel,
}

/// Asks for the answer to a request. Most are there at the first look, and whole, and sent with that.
/// One that is not goes on with what is given back.
pub(super) fn begin(
    service: &ConnectionService,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    date: &HeaderValue,
    cx: &mut Context<'_>,
) -> Option<BoxFuture<'static, ()>> {
    let mut reply = Reply {
        respond,
        alt_svc: service.alt_svc.clone(),
        is_connect: request.method() == Method::CONNECT,
    };
    let (head, stream) = request.into_parts();
    let body = match stream.is_end_stream() {
        // Most requests have none, and a box for nothing is not free.
        true => Body::empty(),
        false => Body::new(ReceivedBody::new(stream, &head.headers)),
    };
    let mut answer = service.behind.answer(head, body, &service.connection);
    let Poll::Ready(response) = answer.poll_unpin(cx) else {
        let (watch, exchange) = (service.watch.clone(), Exchange::begin(&service.watch));
        return Some(waiting(async move {
            let response = tokio::select! {
                biased;
                response = answer => response,
                reason = poll_fn(|cx| reply.respond.poll_reset(cx)) => {
                    return Err(Broken::Unwanted(reason?));
                }
            };
            // What it took to make the answer is not part of writing it.
            watch.clock.look();
            exchange.write();
            match reply.send(response, &date::now(), Some(exchange))? {
                Some(sending) => sending.await,
                None => Ok(()),
            }
        }));
    };
    let sent = match reply.send(response, date, None) {
        Ok(None) => Ok(()),
        Ok(Some(mut sending)) => match sending.poll_unpin(cx) {
            Poll::Ready(sent) => sent,
            Poll::Pending => {
                service.watch.clock.look(); // As above.
                sending.body.is_written(&service.watch);
                return Some(waiting(sending));
            }
        },
        Err(error) => Err(error),
    };
    if let Err(error) = sent {
        tell(&error);
    }
    None
}

fn waiting(
    stream: impl Future<Output = Result<(), Broken>> + Send + 'static,
) -> BoxFuture<'static, ()> {
    let stream = async {
        if let Err(error) = stream.await {
            tell(&error);
        }
    };
    // A handler that panics ends its stream. The panic hook has logged it.
    AssertUnwindSafe(stream).catch_unwind().map(drop).boxed()
}

fn tell(error: &Broken) {
    tracing::debug!(%error, "a stream broke");
}

/// Where the answer to a request goes.
struct Reply {
    respond: SendResponse<Bytes>,
    alt_svc: Option<HeaderValue>,
    is_connect: bool,
}

impl Reply {
    /// Sends the head, and gives back what is left to be sent.
    fn send(
        &mut self,
        response: Response,
        date: &HeaderValue,
        exchange: Option<Exchange>,
    ) -> Result<Option<Sending>, Broken> {
        let (mut head, body) = response.into_parts();
        if self.is_connect && head.status.is_success() {
            self.respond.send_reset(Reason::CONNECT_ERROR);
            return Err(Broken::Tunnel);
        }
        if let Some(alt_svc) = self.alt_svc.take() {
            head.headers.insert(ALT_SVC, alt_svc);
        }
        complete(&mut head, &body.size_hint(), date);
        let is_stream = is_event_stream(&head.headers, &body);
        let has_ended = body.is_end_stream();
        let head = http::Response::from_parts(head, ());
        let stream = match self.respond.send_response(head, has_ended) {
            Ok(stream) => stream,
            Err(error) => {
                self.respond.send_reset(Reason::INTERNAL_ERROR);
                return Err(error.into());
            }
        };
        Ok((!has_ended).then(|| Sending {
            stream,
            body: WatchedBody::new(body, exchange, is_stream),
            piece: Bytes::new(),
            has_begun: false,
        }))
    }
}

/// The body of an answer on its way.
struct Sending {
    stream: SendStream<Bytes>,
    body: WatchedBody,
    /// What has been taken of the body and not been sent.
    piece: Bytes,
    /// Something has been sent.
    has_begun: bool,
}

impl Sending {
    /// Waits until the peer takes something of the piece, and how much. What the library was handed without
    /// room it would keep for as long as the peer likes.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
        let length = self.piece.len();
        if !self.has_begun && length <= SMALL && self.body.is_end_stream() {
            return Poll::Ready(Ok(length));
        }
        self.stream.reserve_capacity(length);
        loop {
            let room = self.stream.capacity().min(length);
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(room) => room.map(drop)?,
                None => return Poll::Ready(Err(Broken::Closed)),
            }
        }
    }
}

impl Future for Sending {
    type Output = Result<(), Broken>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            while !this.piece.is_empty() {
                let room = ready!(this.poll_room(cx))?;
                let part = this.piece.split_to(room);
                let is_last = this.piece.is_empty() && this.body.is_end_stream();
                this.has_begun = true;
                this.stream.send_data(part, is_last)?;
                if is_last {
                    return Poll::Ready(Ok(()));
                }
            }
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
                let reason = ready!(this.stream.poll_reset(cx))?;
                return Poll::Ready(Err(Broken::Unwanted(reason)));
            };
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.piece = data,
                Some(Ok(Err(other))) => {
                    if let Ok(trailers) = other.into_trailers() {
                        if let Err(error) = this.stream.send_trailers(trailers) {
                            this.stream.send_reset(Reason::INTERNAL_ERROR);
                            return Poll::Ready(Err(error.into()));
                        }
                        return Poll::Ready(Ok(()));
                    }
                }
                None => {
                    this.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => {
                    this.stream.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
    }
}
