//! A WebTransport session for calls (draft-ietf-webtrans-http3): a request that is answered and
//! then stays open, with streams and datagrams beside it that bear its id.

use std::pin::pin;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use h3::error::StreamError;
use h3::ext::Protocol;
use hostler_operations::RequestId;
use http::{Method, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use super::answering::{send, write_out};
use super::capsules::{self, Capsules};
use super::sessions::Sessions;
use super::{DELIVERY, Receiver, Sender};
use crate::answer::{Failure, Surface};
use crate::calls::{CallAdapter, Link, Reason, Session};
use crate::connection::ConnectionInfo;
use crate::door::serve::Shared;
use crate::door::watched::{Exchange, WatchedBody};
use crate::within::within;

/// Where the sessions are.
const PATH: &str = "/call";

/// What the sessions of a connection share.
pub(super) struct Hall {
    pub(super) calls: CallAdapter,
    pub(super) sessions: Sessions,
    pub(super) connection: quinn::Connection,
    /// The connection takes leave.
    pub(super) leaving: CancellationToken,
}

/// Whether a session for calls is asked for (RFC 9220, section 3).
pub(super) fn is_asked_for(request: &Request<()>) -> bool {
    request.method() == Method::CONNECT
        && request.extensions().get() == Some(&Protocol::WEB_TRANSPORT)
        && request.uri().path() == PATH
}

/// Serves a session to its end.
pub(super) async fn serve(
    hall: &Hall,
    shared: &Shared,
    request: &Request<()>,
    (mut sender, receiver): (Sender, Receiver),
    info: ConnectionInfo,
    exchange: Exchange,
) -> Result<(), StreamError> {
    let shown = match hall.calls.shown(request.headers(), &info).await {
        Ok(shown) => shown,
        Err(error) => {
            let refusal =
                Failure::auth(error).into_response(Surface::Operation, &RequestId::generate());
            exchange.write();
            let refusal = refusal.map(|body| WatchedBody::new(body, exchange, false));
            return send(&mut sender, refusal).await.map(drop);
        }
    };
    let id = receiver.id().into_inner();
    let Some((_open, streams, datagrams)) = hall.sessions.open(id) else {
        let mut full = Response::new(());
        *full.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        sender.send_response(full).await?;
        return sender.finish().await;
    };
    // Who takes none of it does not hold the place for ever.
    let time = shared.limits.write_time;
    let opening = async {
        sender.send_response(Response::new(())).await?;
        write_out(&mut sender).await
    };
    match within(time, opening).await {
        Some(opened) => opened?,
        None => return Ok(()),
    }
    let session = Session::new(id);
    let link = Link::session(hall.connection.clone(), Arc::clone(&session));
    let leave = hall.leaving.cancelled();
    let carried = (link, streams, datagrams);
    let mut left = pin!(left(receiver));
    tokio::select! {
        () = hall.calls.in_a_session(carried, shown, info, &shared.limits, leave) => {}
        () = left.as_mut() => {
            // It says why, and wants to hear nothing more than the end.
            return sender.finish().await;
        }
    }
    let words = match session.why() {
        Reason::Unproven => "send a valid auth_token in the first frame, within 5 s",
        _ => "",
    };
    let close = capsules::close(session.why() as u32, words);
    let closing = async {
        sender.send_data(Bytes::from(close)).await?;
        sender.finish().await
    };
    match within(time, closing).await {
        Some(closed) => closed?,
        None => return Ok(()),
    }
    // A peer that is told to stop before it has read this takes the connection for lost.
    let _ = tokio::time::timeout(DELIVERY, left).await;
    Ok(())
}

/// Resolves when the peer has closed the session, or its tab.
async fn left(mut receiver: Receiver) {
    let mut capsules = Capsules::default();
    while let Ok(Some(mut data)) = receiver.recv_data().await {
        if capsules.push(&data.copy_to_bytes(data.remaining())) {
            return;
        }
    }
}
