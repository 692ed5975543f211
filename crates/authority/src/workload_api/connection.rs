//! A connection that knows who opened it, and overlooks what clients call our host.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::Connected;

use super::attest::{AttestError, Peer};
use super::localhost::Localhost;

/// Requests are short.
const READ_BYTES: usize = 4096;

/// Bytes, and whoever is on the other end.
pub(super) struct Connection {
    stream: UnixStream,
    opened_by: OpenedBy,
    localhost: Localhost,
    /// What has come, is mended, and has not been read yet.
    mended: Vec<u8>,
}

/// Who opened a connection, looked at the moment it was accepted; or why that cannot be said,
/// which the caller then learns from the answer to its first call.
pub(super) type OpenedBy = Arc<Result<Peer, AttestError>>;

impl Connection {
    pub(super) fn new(stream: UnixStream) -> Self {
        let opened_by = Arc::new(Peer::of(&stream));
        Self {
            stream,
            opened_by,
            localhost: Localhost::new(),
            mended: Vec::new(),
        }
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
        let this = &mut *self;
        // What was read may all be held back; the end of the stream is what adds nothing.
        while this.mended.is_empty() {
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.localhost.mend(read.filled(), &mut this.mended);
        }
        let fits = this.mended.len().min(buffer.remaining());
        buffer.put_slice(&this.mended[..fits]);
        // Given back when it is empty: connections are many, and idle for most of their lives.
        this.mended = this.mended.split_off(fits);
        Poll::Ready(Ok(()))
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
