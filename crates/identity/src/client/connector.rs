//! From a URL to a connection over TLS that HTTP can use.
//!
//! In TLS 1.3 a server judges the client's certificate after the client has finished its part, so
//! a refusal arrives as the first thing that is read from an open connection. HTTP/2 keeps only
//! the text of such an error. The connection therefore notes the alert itself, where the client
//! finds it again through the pool.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::AlertDescription;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tower_service::Service;

use crate::tunnel::BoxedStream;

/// Connects over TCP or as somebody else says, then shakes hands.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    dialer: Option<Dialer>,
    tls: TlsConnector,
}

/// The fatal alert that a connection has received, if any.
#[derive(Debug, Clone, Default)]
pub(super) struct Verdict(Arc<OnceLock<AlertDescription>>);

/// A connection over TLS that remembers how it was refused.
pub(super) struct Judged {
    stream: TokioIo<TlsStream<Either<TcpStream, BoxedStream>>>,
    verdict: Verdict,
}

/// Makes the connection to the host of a URL; `None`: it is to be dialled over TCP.
pub(super) type Dialer =
    Arc<dyn Fn(Uri) -> BoxFuture<'static, io::Result<Option<BoxedStream>>> + Send + Sync>;

type BoxError = Box<dyn StdError + Send + Sync>;

impl Connector {
    pub(super) fn new(tcp: HttpConnector, config: rustls::ClientConfig) -> Self {
        Self {
            tcp,
            dialer: None,
            tls: TlsConnector::from(Arc::new(config)),
        }
    }

    pub(super) fn with_dialer(mut self, dialer: Dialer) -> Self {
        self.dialer = Some(dialer);
        self
    }
}

impl Service<Uri> for Connector {
    type Response = Judged;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Judged, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let name = server_name(&url);
        let dialled = self.dialer.as_ref().map(|dial| dial(url.clone()));
        let mut tcp = self.tcp.clone();
        let tls = self.tls.clone();
        Box::pin(async move {
            let elsewhere = match dialled {
                Some(dialled) => dialled.await?,
                None => None,
            };
            let stream = match elsewhere {
                Some(stream) => Either::Right(stream),
                None => Either::Left(tcp.call(url).await?.into_inner()),
            };
            let stream = tls.connect(name?, stream).await?;
            Ok(Judged {
                stream: TokioIo::new(stream),
                verdict: Verdict::default(),
            })
        })
    }
}

/// The host of a URL, as TLS wants it: an IPv6 address without its brackets (RFC 3986 §3.2.2).
fn server_name(url: &Uri) -> Result<ServerName<'static>, BoxError> {
    let host = url.host().unwrap_or_default();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    Ok(ServerName::try_from(bare.to_owned())?)
}

impl Verdict {
    /// What the connection of this error has received.
    pub(super) fn of(error: &hyper_util::client::legacy::Error) -> Option<AlertDescription> {
        let mut extras = http::Extensions::new();
        error.connect_info()?.get_extras(&mut extras);
        extras.get::<Self>()?.0.get().copied()
    }

    fn note(&self, error: &io::Error) {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
        if let Some(rustls::Error::AlertReceived(alert)) = tls {
            // Only the first alert counts; it ended the connection.
            let _ = self.0.set(*alert);
        }
    }
}

impl Connection for Judged {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.verdict.clone());
        match self.stream.inner().get_ref().1.alpn_protocol() {
            Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

impl Read for Judged {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Err(error)) = &read {
            self.verdict.note(error);
        }
        read
    }
}

impl Write for Judged {
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

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }
}
