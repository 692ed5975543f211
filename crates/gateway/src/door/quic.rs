//! The same door over UDP: QUIC on the port number of its TCP listener.
//!
//! ALPN says which protocol a connection speaks, and the table [`PROTOCOLS`] who serves it. Early
//! data (0-RTT) is not offered: a request in it could be played again by whoever overheard it.
//! What one peer does ends at most its own connection, as over TCP.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use futures::future::BoxFuture;
use http::Version;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{
    Connection, Endpoint, EndpointConfig, Incoming, TokioRuntime, TransportConfig, VarInt,
};
use rustls::ServerConfig;
use tokio::sync::Semaphore;

use super::calls;
use super::crowd::Crowd;
use super::http3;
use super::one_stream;
use super::serve::Shared;
use crate::calls::ALPN;
use crate::connection::ConnectionInfo;
use crate::limits::DoorLimits;

/// What the peer of one stream may send before it is read, in bytes; and of all streams together.
const STREAM_WINDOW: u32 = 1 << 20;
const WINDOW: u32 = 8 << 20;

/// Datagrams that wait to be sorted, in bytes; older ones are lost.
const DATAGRAM_BYTES: usize = 64 << 10;

/// Streams of the peer's in one direction: HTTP/3 needs three (RFC 9114, section 6.2).
const ONE_WAY_STREAMS: u32 = 8;

type Serve = fn(Arc<Shared>, Connection, ConnectionInfo) -> BoxFuture<'static, ()>;

/// Who serves which protocol.
const PROTOCOLS: [(&[u8], Serve); 4] = [
    (b"h3", |shared, connection, info| {
        Box::pin(http3::serve(shared, connection, info))
    }),
    (ALPN, |shared, connection, info| {
        Box::pin(calls::serve(shared, connection, info))
    }),
    (b"h2", |shared, connection, info| {
        Box::pin(one_stream::serve(shared, connection, info, Version::HTTP_2))
    }),
    (b"http/1.1", |shared, connection, info| {
        Box::pin(one_stream::serve(
            shared,
            connection,
            info,
            Version::HTTP_11,
        ))
    }),
];

/// What is spoken over QUIC, and the call protocol only if it is wanted.
pub(super) fn config(
    tls: &ServerConfig,
    limits: &DoorLimits,
    with_calls: bool,
) -> io::Result<quinn::ServerConfig> {
    let spoken = PROTOCOLS.iter().map(|(name, _)| *name);
    let spoken = spoken.filter(|name| with_calls || *name != ALPN);
    let mut tls = tls.clone();
    tls.alpn_protocols = spoken.map(<[u8]>::to_vec).collect();
    tls.max_early_data_size = 0;
    let tls = QuicServerConfig::try_from(tls).map_err(io::Error::other)?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport(limits, with_calls)));
    Ok(config)
}

/// Listens on UDP.
pub(super) fn open(address: SocketAddr, config: quinn::ServerConfig) -> io::Result<Endpoint> {
    let socket = UdpSocket::bind(address)?;
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new(EndpointConfig::default(), Some(config), socket, runtime)
}

fn transport(limits: &DoorLimits, with_calls: bool) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(limits.streams.into())
        .max_concurrent_uni_streams(ONE_WAY_STREAMS.into())
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(WINDOW.into())
        .send_window(WINDOW.into())
        // Sessions have datagrams, and nothing else does (RFC 9221, section 3).
        .datagram_receive_buffer_size(with_calls.then_some(DATAGRAM_BYTES))
        // Longer than a varint of milliseconds can say is for ever, and nobody configures that.
        .max_idle_timeout(limits.idle_time.try_into().ok());
    transport
}

/// So many connections an address may have before its next must show that it is its own, which costs
/// a round trip (RFC 9000, section 8.1.2).
const UNPROVEN: usize = 8;

/// Takes connections in until the endpoint is closed.
pub(super) async fn accept(
    endpoint: &Endpoint,
    (permits, crowd): (&Arc<Semaphore>, &Crowd),
    shared: &Arc<Shared>,
) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
            // Over TCP it would wait in the kernel's queue; here there is none.
            incoming.refuse();
            continue;
        };
        // With half of the room taken, or some of its address's, only who shows that its address is
        // its own comes in: others may be many that are none, and take the places of whom they name.
        let from = incoming.remote_address().ip();
        let crowded = permits.available_permits() < shared.limits.connections / 2
            || crowd.there(from) >= UNPROVEN;
        if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
            // It may be retried, so this cannot fail.
            let _ = incoming.retry();
            continue;
        }
        let Some(place) = crowd.enter(from) else {
            incoming.refuse();
            continue;
        };
        let (shared, local) = (Arc::clone(shared), endpoint.local_addr());
        let Ok(local) = local else {
            continue; // The endpoint is going away.
        };
        let tasks = shared.tasks.clone();
        tasks.spawn(async move {
            connection(shared, incoming, local).await;
            drop((permit, place));
        });
    }
}

async fn connection(shared: Arc<Shared>, incoming: Incoming, local: SocketAddr) {
    let remote = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let handshake = tokio::time::timeout(shared.limits.handshake_time, handshake);
    let connection = tokio::select! {
        finished = handshake => match finished {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tracing::debug!(%remote, %error, "the handshake failed");
                return;
            }
            Err(_) => {
                tracing::debug!(%remote, "the handshake took too long");
                return;
            }
        },
        () = shared.shutdown.cancelled() => return,
    };
    let spoken = connection
        .handshake_data()
        .and_then(|data| data.downcast::<HandshakeData>().ok())
        .and_then(|data| data.protocol);
    let protocol = PROTOCOLS
        .iter()
        .find(|(name, _)| Some(*name) == spoken.as_deref());
    // TLS agrees on one of ours, or the handshake fails (RFC 9001, section 8.1).
    let Some((_, serve)) = protocol else {
        return;
    };
    let closing = shared.shutdown.clone();
    let info = ConnectionInfo::over_quic((local, remote), &connection, closing);
    let withdrawn = shared.withdrawn(info.peer().cloned());
    tokio::select! {
        () = serve(Arc::clone(&shared), connection.clone(), info) => {}
        () = withdrawn => {
            tracing::info!(%remote, "the peer of a connection is admitted no more; it is cut");
        }
        () = shared.cut.cancelled() => {}
    }
    connection.close(VarInt::from_u32(0), b"");
}
