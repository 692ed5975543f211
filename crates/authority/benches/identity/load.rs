//! A load that costs its own side as little as it can, so that the server has enough to do:
//! requests are bytes that were put together once, answers are counted and hardly looked at.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::cpu;

/// What is asked of the server.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// A connection, a full handshake, and the end.
    Handshakes,
    /// One request after the other on each connection.
    Http1,
    /// Ten requests at a time on each connection.
    Http2,
}

impl Question {
    fn over_http1(&self) -> String {
        let authorization = self.authorization.as_ref();
        let authorization = authorization.map(|value| format!("authorization: {value}\r\n"));
        let (path, authorization) = (self.path, authorization.unwrap_or_default());
        format!("GET {path} HTTP/1.1\r\nhost: bench\r\n{authorization}\r\n")
    }

    /// The header block: names by the static table, values as literals that no table keeps, as
    /// clients send credentials (RFC 7541, sections 6.2.2 and 7.1.3).
    pub(crate) fn over_http2(&self) -> Vec<u8> {
        // `:method: GET` and `:scheme: https`.
        let mut head = vec![0x82, 0x87];
        let mut literal = |name: &[u8], value: &str| {
            let length = u8::try_from(value.len())
                .ok()
                .filter(|length| *length < 127);
            head.extend_from_slice(name);
            head.push(length.expect("a short value"));
            head.extend_from_slice(value.as_bytes());
        };
        literal(&[0x01], "bench");
        literal(&[0x04], self.path);
        if let Some(value) = &self.authorization {
            literal(&[0x1f, 0x08], value);
        }
        head
    }
}

/// Connections at a time, as wrk and h2load are commonly run.
const HANDSHAKES: usize = 16;
const HTTP1: usize = 32;
const HTTP2: usize = 16;
const STREAMS: u32 = 10;
/// Before the measurement begins.
const WARM_UP: Duration = Duration::from_millis(500);

/// The request, which is always the same, and what its answer ends with.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) path: &'static str,
    /// The credential, `Bearer …`.
    pub(crate) authorization: Option<String>,
    pub(crate) ending: &'static str,
}

#[derive(Clone)]
pub(crate) struct Load {
    kind: Kind,
    question: Rc<Question>,
    address: SocketAddr,
    tls: TlsConnector,
    done: Rc<Cell<u64>>,
}

type Connection = TlsStream<TcpStream>;

impl Load {
    pub(crate) fn new(
        kind: Kind,
        address: SocketAddr,
        mut config: ClientConfig,
        question: Question,
    ) -> Self {
        config.alpn_protocols = match kind {
            Kind::Http2 => vec![b"h2".to_vec()],
            Kind::Http1 | Kind::Handshakes => vec![b"http/1.1".to_vec()],
        };
        Self {
            kind,
            question: Rc::new(question),
            address,
            tls: TlsConnector::from(Arc::new(config)),
            done: Rc::default(),
        }
    }

    /// Loads the server for so long; what it did per second of its CPU time. A refusal ends the
    /// bench: a server that refuses is fast.
    pub(crate) async fn per_cpu_second(self, pid: u32, length: Duration) -> f64 {
        let connections = match self.kind {
            Kind::Handshakes => HANDSHAKES,
            Kind::Http1 => HTTP1,
            Kind::Http2 => HTTP2,
        };
        let tasks = LocalSet::new();
        for _ in 0..connections {
            let load = self.clone();
            tasks.spawn_local(async move { load.run().await.expect("the server answers") });
        }
        let measured = async {
            tokio::time::sleep(WARM_UP).await;
            let (before, cpu_before) = (self.done.get(), cpu::seconds(pid));
            tokio::time::sleep(length).await;
            let (after, cpu_after) = (self.done.get(), cpu::seconds(pid));
            (after - before) as f64 / (cpu_after - cpu_before)
        };
        tasks.run_until(measured).await
    }

    async fn run(&self) -> io::Result<()> {
        match self.kind {
            Kind::Handshakes => loop {
                self.shake_hands().await?;
            },
            Kind::Http1 => self.http1(self.connect().await?).await,
            Kind::Http2 => self.http2(self.connect().await?).await,
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        self.tls.connect(name, tcp).await
    }

    fn count(&self, more: u64) {
        self.done.set(self.done.get() + more);
    }

    /// In TLS 1.3 the client is done before the server has judged its certificate; a refusal
    /// comes as an alert, an acceptance as the end of the stream after ours.
    async fn shake_hands(&self) -> io::Result<()> {
        let mut tls = self.connect().await?;
        tls.shutdown().await?;
        match tls.read(&mut [0; 64]).await {
            Err(error)
                if error
                    .get_ref()
                    .is_some_and(|inner| inner.is::<rustls::Error>()) =>
            {
                return Err(error);
            }
            _ => self.count(1),
        }
        Ok(())
    }

    async fn http1(&self, mut tls: Connection) -> io::Result<()> {
        let mut buffer = vec![0; 4096];
        let mut length = None;
        let request = self.question.over_http1();
        loop {
            tls.write_all(request.as_bytes()).await?;
            let mut read = 0;
            // Every answer is as long as the first one, which comes in one piece.
            while length.is_none_or(|length| read < length) {
                read += ended(tls.read(&mut buffer[read..]).await?)?;
                length.get_or_insert(read);
            }
            let ending = self.question.ending.as_bytes();
            if !buffer.starts_with(b"HTTP/1.1 200") || !buffer[..read].ends_with(ending) {
                return Err(unexpected("another answer"));
            }
            self.count(1);
        }
    }

    async fn http2(&self, mut tls: Connection) -> io::Result<()> {
        let mut out = preface();
        let mut next_stream = 1;
        let head = self.question.over_http2();
        for _ in 0..STREAMS {
            request(&mut out, &mut next_stream, &head);
        }
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            tls.write_all(&out).await?;
            out.clear();
            ended(tls.read_buf(&mut buffer).await?)?;
            let mut rest = &buffer[..];
            while let Some((frame, behind)) = Frame::parse(rest) {
                if frame.answer(&mut out)? {
                    self.count(1);
                    request(&mut out, &mut next_stream, &head);
                }
                rest = behind;
            }
            let used = buffer.len() - rest.len();
            buffer.drain(..used);
        }
    }
}

fn ended(read: usize) -> io::Result<usize> {
    match read {
        0 => Err(unexpected("the end of the connection")),
        read => Ok(read),
    }
}

fn unexpected(what: &str) -> io::Error {
    io::Error::other(format!("{what} where an answer was expected"))
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
struct Frame<'a> {
    kind: u8,
    flags: u8,
    payload: &'a [u8],
}

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl<'a> Frame<'a> {
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = bytes.split_at_checked(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (payload, rest) = rest.split_at_checked(length)?;
        let (kind, flags) = (head[3], head[4]);
        let frame = Self {
            kind,
            flags,
            payload,
        };
        Some((frame, rest))
    }

    /// Whether a request is answered with this frame. What the protocol asks for goes to `out`.
    fn answer(&self, out: &mut Vec<u8>) -> io::Result<bool> {
        match self.kind {
            // `:status: 200` is entry 8 of the static table (RFC 7541), after table updates.
            HEADERS if !self.payload.iter().take(3).any(|byte| *byte == 0x88) => {
                Err(unexpected("another status"))
            }
            0 | HEADERS => Ok(self.flags & END_STREAM != 0),
            SETTINGS if self.flags & ACK == 0 => {
                write(out, SETTINGS, ACK, 0, &[]);
                Ok(false)
            }
            PING if self.flags & ACK == 0 => {
                write(out, PING, ACK, 0, self.payload);
                Ok(false)
            }
            SETTINGS | PING | WINDOW_UPDATE => Ok(false),
            // RST_STREAM, GOAWAY
            _ => Err(unexpected("the end of a stream")),
        }
    }
}

fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("it is short");
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The beginning of a connection, with a window that no measurement uses up.
pub(crate) fn preface() -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    write(&mut out, SETTINGS, 0, 0, &[]);
    write(
        &mut out,
        WINDOW_UPDATE,
        0,
        0,
        &0x7fff_0000_u32.to_be_bytes(),
    );
    out
}

pub(crate) fn request(out: &mut Vec<u8>, next_stream: &mut u32, head: &[u8]) {
    write(out, HEADERS, END_STREAM | END_HEADERS, *next_stream, head);
    *next_stream += 2;
}
