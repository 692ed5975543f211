//! HTTP/1.1 and HTTP/2 on one bidirectional stream of a QUIC connection, as if it were a TCP
//! connection: for programs that have a QUIC connection and a client for one of these.
//!
//! The client opens the stream; it is the only one, for the connection is as one of TCP is.

use std::pin::pin;
use std::sync::Arc;

use http::Version;

use super::serve::{Carrier, Shared};
use crate::connection::ConnectionInfo;

/// Serves a connection to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    connection: quinn::Connection,
    info: ConnectionInfo,
    version: Version,
) {
    let opened = tokio::time::timeout(shared.limits.head_time, connection.accept_bi());
    let (send, recv) = tokio::select! {
        opened = opened => match opened {
            Ok(Ok(stream)) => stream,
            _ => return, // It is gone, or nothing comes.
        },
        () = shared.shutdown.cancelled() => return,
    };
    // Resolves when the end of what was written has arrived, or the peer wants nothing more.
    let mut stopped = pin!(send.stopped());
    let stream = tokio::io::join(recv, send);
    let others = async {
        // Dropping a stream refuses it.
        while connection.accept_bi().await.is_ok() {}
    };
    tokio::select! {
        () = shared.http(stream, version, info, Carrier::QuicStream) => {
            // A stream that is finished is not yet delivered, and closing the connection forgets what
            // is not (RFC 9000, section 10.2).
            let _ = tokio::time::timeout(shared.limits.write_time, stopped).await;
        }
        // One that leaves is noticed though there is nothing to write.
        _ = stopped.as_mut() => {}
        () = others => {}
    }
}
