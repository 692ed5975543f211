//! A connection that knows who opened it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

use super::attest::{AttestError, Peer};

/// Bytes, and whoever is on the other end.
pub(super) struct Connection {
    stream: UnixStream,
    opened_by: OpenedBy,
}

/// Who opened a connection, looked at the moment it was accepted; or why that cannot be said,
/// which the caller then learns from the answer to its first call.
pub(super) type OpenedBy = Arc<Result<Peer, AttestError>>;

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        let opened_by = Arc::new(Peer::of(&stream));
        Self { stream, opened_by }
    }
}

impl Connected for Connection {
    type ConnectInfo = OpenedBy;

    fn connect_info(&self) -> OpenedBy {
        Arc::clone(&self.opened_by)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
