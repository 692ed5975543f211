//! One request of HTTP/3, from its head to the end of its answer.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::body::Body;
use bytes::Bytes;
use futures::poll;
use h3::error::{Code, StreamError};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt as _;

use super::body::ReceivedBody;
use super::{Common, Resolver, Sender, webtransport};
use crate::door::complete::complete;
use crate::door::date;
use crate::door::watched::{Exchange, PIECE_BYTES, WatchedBody};
use crate::within::within;

/// Answers a request. `over` resolves when its stream is.
pub(super) async fn answer(
    resolver: Resolver,
    common: Arc<Common>,
    over: impl Future<Output = ()>,
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
    let mut over = pin!(over);
    let undelivered = tokio::select! {
        biased;
        sent = answering => sent?,
        () = over.as_mut() => return Ok(()),
    };
    // What is on its way is lost with the connection, and counts as being written.
    if let Some(_exchange) = undelivered {
        over.await;
    }
    Ok(())
}

/// Sends an answer to its end, and gives back what is left of one that is not delivered with that: what
/// fits into a piece is as good as delivered.
pub(super) async fn send(
    sender: &mut Sender,
    response: Response<WatchedBody>,
) -> Result<Option<WatchedBody>, StreamError> {
    let (mut head, mut body) = response.into_parts();
    complete(&mut head, &http_body::Body::size_hint(&body), &date::now());
    write_out(sender).await?;
    sender.send_response(Response::from_parts(head, ())).await?;
    let mut length = 0;
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
            sender.finish().await?;
            return Ok((length > PIECE_BYTES).then_some(body));
        };
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                length += data.len();
                sender.send_data(data).await?;
            }
            Ok(Err(frame)) => {
                if let Ok(trailers) = frame.into_trailers() {
                    sender.send_trailers(trailers).await?;
                }
            }
            Err(_) => {
                sender.stop_stream(Code::H3_INTERNAL_ERROR);
                return Ok(None);
            }
        }
    }
}

/// Writes what the [stream](super::backend::Sent) holds back, of an answer that is ours.
pub(super) async fn write_out(sender: &mut Sender) -> Result<(), StreamError> {
    sender.send_data(Bytes::new()).await
}
