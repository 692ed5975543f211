//! Streams over one connection that the other side made: how a server reaches whom nobody can dial.
//!
//! Whoever cannot be dialled (a machine behind NAT) connects, proves who it is, and then waits. The
//! other side opens streams on that connection, as many as it needs, and speaks on each as on a
//! connection that it has dialled: with a TLS handshake of its own, so that both prove again who
//! they are, and so that whoever passes a stream on learns nothing of what is said.
//!
//! On the wire it is HTTP/2 (RFC 9113) in which the one that was connected to is the client, and
//! each stream is a `CONNECT` (section 8.5). Pings notice a peer that has vanished.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http2 as client;
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

/// What a connection is called in the handshake (ALPN) whose maker waits for streams.
pub const ALPN_REVERSE: &[u8] = b"hostler/reverse";
/// What a connection is called whose maker opens streams that are passed on.
pub const ALPN_RELAY: &[u8] = b"hostler/relay";

/// How often a peer has to show that it lives, and how long it may take.
const PING_EVERY: Duration = Duration::from_secs(4);
const PING_TIMEOUT: Duration = Duration::from_secs(6);
/// How much may be on its way on one stream, and on all of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// How many streams may be open at one time.
const STREAMS: u32 = 512;
/// How long it may take to open one.
const OPENING: Duration = Duration::from_secs(10);

/// Any stream of bytes.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Any stream of bytes, on the heap.
pub type BoxedStream = Box<dyn ByteStream>;

/// The end of a connection on which streams are opened. Cheap to clone.
#[derive(Clone)]
pub struct Tunnel {
    send: client::SendRequest<Empty<Bytes>>,
}

impl Tunnel {
    /// Takes a connection over. The streams live as long as the second part is polled, which ends
    /// when the connection does.
    ///
    /// # Errors
    /// The peer does not speak HTTP/2.
    pub async fn over(
        connection: impl ByteStream + 'static,
    ) -> io::Result<(Self, impl Future<Output = io::Result<()>> + Send)> {
        let mut builder = client::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
        let made = builder.handshake(TokioIo::new(connection)).await;
        let (send, driven) = made.map_err(io::Error::other)?;
        let driven = async { driven.await.map_err(io::Error::other) };
        Ok((Self { send }, driven))
    }

    /// Opens a stream to what the other side calls so.
    ///
    /// # Errors
    /// The connection is gone, or the other side could not open what was asked for.
    pub async fn open(&self, to: &str) -> io::Result<BoxedStream> {
        let uri = Uri::builder().authority(to).build();
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(uri.map_err(io::Error::other)?)
            .body(Empty::new())
            .map_err(io::Error::other)?;
        let mut send = self.send.clone();
        let opening = async {
            send.ready().await.map_err(gone)?;
            let answer = send.send_request(request).await.map_err(gone)?;
            if answer.status() != StatusCode::OK {
                let said = format!("the other side could not open {to}: {}", answer.status());
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, said));
            }
            let stream = hyper::upgrade::on(answer).await.map_err(gone)?;
            Ok(Box::new(TokioIo::new(stream)) as BoxedStream)
        };
        match tokio::time::timeout(OPENING, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.send.is_closed()
    }
}

fn gone(error: hyper::Error) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, error)
}

/// Waits on a connection for streams, and joins each with what `open` makes of its name, until the
/// connection ends. Dropping the future cuts all of them.
///
/// # Errors
/// The connection broke.
pub async fn serve_streams<F, R, S>(
    connection: impl ByteStream + 'static,
    open: F,
) -> io::Result<()>
where
    F: Fn(String) -> R + Clone + Send + 'static,
    R: Future<Output = io::Result<S>> + Send + 'static,
    S: ByteStream + 'static,
{
    let cut = CancellationToken::new();
    let _cut_when_dropped = cut.clone().drop_guard();
    let service = service_fn(|request: Request<Incoming>| {
        let (open, cut) = (open.clone(), cut.clone());
        async move { Ok::<_, Infallible>(join(request, open, cut).await) }
    });
    let mut builder = server::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        // What is asked for is a name; nobody needs more.
        .max_header_list_size(4096);
    let served = builder.serve_connection(TokioIo::new(connection), service);
    served.await.map_err(io::Error::other)
}

/// Answers one `CONNECT`.
async fn join<F, R, S>(
    mut request: Request<Incoming>,
    open: F,
    cut: CancellationToken,
) -> Response<Empty<Bytes>>
where
    F: Fn(String) -> R,
    R: Future<Output = io::Result<S>>,
    S: ByteStream + 'static,
{
    let refusal = |status| {
        let mut answer = Response::new(Empty::new());
        *answer.status_mut() = status;
        answer
    };
    let name = match (request.method(), request.uri().authority()) {
        (&Method::CONNECT, Some(name)) => name.to_string(),
        _ => return refusal(StatusCode::METHOD_NOT_ALLOWED),
    };
    let mut there = match tokio::time::timeout(OPENING, open(name.clone())).await {
        Ok(Ok(there)) => there,
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "a stream could not be opened");
            return refusal(StatusCode::BAD_GATEWAY);
        }
        Err(_) => return refusal(StatusCode::GATEWAY_TIMEOUT),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(here) = upgrade.await else { return };
        let mut here = TokioIo::new(here);
        tokio::select! {
            // However it ends, both sides see the end of the other.
            _ = tokio::io::copy_bidirectional(&mut here, &mut there) => {}
            () = cut.cancelled() => {}
        }
    });
    Response::new(Empty::new())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A tunnel whose other side joins each stream with an echo, and refuses what is called so.
    async fn echoing() -> (Tunnel, tokio::task::JoinHandle<io::Result<()>>) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let open = |name: String| async move {
            if name == "nobody:1" {
                return Err(io::ErrorKind::NotFound.into());
            }
            let (mut one, other) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                one.write_all(name.as_bytes()).await?;
                let (mut read, mut write) = tokio::io::split(one);
                tokio::io::copy(&mut read, &mut write).await?;
                write.shutdown().await
            });
            Ok(other)
        };
        let serving = tokio::spawn(serve_streams(far, open));
        let (tunnel, driven) = Tunnel::over(near).await.expect("HTTP/2");
        tokio::spawn(driven);
        (tunnel, serving)
    }

    #[tokio::test]
    async fn many_streams_go_their_own_ways_over_one_connection() {
        let (tunnel, _serving) = echoing().await;
        let streams = (0..50).map(|n| {
            let tunnel = tunnel.clone();
            async move {
                let name = format!("host-{n}:1");
                let mut stream = tunnel.open(&name).await.expect("opened");
                let said = vec![u8::try_from(n).expect("small"); 100_000];
                let (mut read, mut write) = tokio::io::split(&mut stream);
                let writing = async {
                    write.write_all(&said).await.expect("written");
                    write.shutdown().await.expect("ended");
                };
                let mut heard = Vec::new();
                let reading = read.read_to_end(&mut heard);
                let (_, read) = tokio::join!(writing, reading);
                read.expect("read");
                assert_eq!(heard[..name.len()], *name.as_bytes());
                assert_eq!(heard[name.len()..], said);
            }
        });
        futures::future::join_all(streams).await;
    }

    #[tokio::test]
    async fn what_cannot_be_opened_is_refused_and_the_others_go_on() {
        let (tunnel, _serving) = echoing().await;
        let mut other = tunnel.open("a:1").await.expect("opened");
        let Err(refused) = tunnel.open("nobody:1").await else {
            panic!("it was opened");
        };
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let mut name = [0; 3];
        other.read_exact(&mut name).await.expect("it lives");
    }

    #[tokio::test]
    async fn when_the_connection_ends_so_does_everything_on_it() {
        let (tunnel, serving) = echoing().await;
        let mut stream = tunnel.open("a:1").await.expect("opened");
        serving.abort();
        let mut rest = Vec::new();
        // An end or an error, but not silence.
        let _ = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest))
            .await
            .expect("it ends");
        assert!(tunnel.open("b:1").await.is_err());
        assert!(tunnel.is_closed());
    }

    /// How soon a peer that has vanished has to be noticed.
    const SOON: Duration = Duration::from_secs(15);

    #[tokio::test]
    async fn a_waiting_peer_that_vanishes_is_noticed_within_fifteen_seconds() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let refuse =
            |_| async { Err::<tokio::io::DuplexStream, _>(io::ErrorKind::NotFound.into()) };
        let mut waiting = Box::pin(serve_streams(far, refuse));
        let (tunnel, driven) = Tunnel::over(near).await.expect("HTTP/2");
        let mut driven = Box::pin(driven);
        // Both have spoken.
        tokio::select! {
            ended = &mut waiting => panic!("it left: {ended:?}"),
            ended = &mut driven => panic!("it was left: {ended:?}"),
            refused = tunnel.open("nobody:1") => assert!(refused.is_err()),
        }
        // From here on nobody reads or writes there, and the connection stays open.
        let noticed = tokio::time::timeout(SOON, driven).await;
        noticed.expect("noticed").expect_err("it is gone");
        assert!(tunnel.is_closed());
        drop(waiting);
    }

    #[tokio::test]
    async fn who_waits_notices_within_fifteen_seconds_that_the_other_side_has_vanished() {
        let (far, mut before) = tokio::io::duplex(64 * 1024);
        let (mut behind, near) = tokio::io::duplex(64 * 1024);
        let (cut, mut is_cut) = tokio::sync::oneshot::channel::<()>();
        // A way that carries nothing any more, and that nobody closes.
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut before, &mut behind) => {}
                _ = &mut is_cut => {}
            }
            std::future::pending::<()>().await;
        });
        let refuse = |_| async { Err::<BoxedStream, _>(io::ErrorKind::NotFound.into()) };
        let waiting = tokio::spawn(serve_streams(far, refuse));
        let (tunnel, driven) = Tunnel::over(near).await.expect("HTTP/2");
        tokio::spawn(driven);
        assert!(tunnel.open("nobody:1").await.is_err(), "both have spoken");
        cut.send(()).expect("the way is there");
        let noticed = tokio::time::timeout(SOON, waiting).await;
        noticed
            .expect("noticed")
            .expect("no panic")
            .expect_err("it is gone");
    }
}
