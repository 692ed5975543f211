//! HTTP/1.1 over TLS that costs its own side as little as it can: requests are bytes that were put
//! together once, and of an answer only its status and its length are looked at.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where to connect, and as whom.
#[derive(Clone)]
pub(crate) struct Door {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Door {
    pub(crate) fn new(address: &str, mut config: rustls::ClientConfig) -> Self {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            address: address.parse().expect("an address"),
            tls: TlsConnector::from(Arc::new(config)),
        }
    }

    pub(crate) async fn connect(&self) -> io::Result<Wire> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let tls = self.tls.connect(name, tcp).await?;
        Ok(Wire {
            tls,
            read: Vec::with_capacity(1024),
        })
    }
}

/// A connection.
pub(crate) struct Wire {
    tls: TlsStream<TcpStream>,
    read: Vec<u8>,
}

/// The bytes of a request with this header and this JSON.
pub(crate) fn request(method: &str, path: &str, header: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: bench\r\n{header}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

impl Wire {
    /// The status of the answer to these bytes.
    pub(crate) async fn status(&mut self, request: &[u8]) -> io::Result<u16> {
        let (status, _) = self.exchange(request).await?;
        Ok(status)
    }

    /// The JSON of an answer that has to be a success.
    pub(crate) async fn json(&mut self, request: &[u8]) -> io::Result<Value> {
        let (status, at) = self.exchange(request).await?;
        let body = &self.read[at..];
        match status {
            204 => Ok(Value::Null),
            200..300 => serde_json::from_slice(body).map_err(io::Error::other),
            _ => Err(io::Error::other(String::from_utf8_lossy(body).into_owned())),
        }
    }

    /// The status, and where the body begins in what was read.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<(u16, usize)> {
        self.tls.write_all(request).await?;
        self.read.clear();
        let head = loop {
            if let Some(end) = memchr(&self.read, b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let text = std::str::from_utf8(&self.read[..head]).map_err(io::Error::other)?;
        let status = text.get(9..12).and_then(|digits| digits.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("no status"))?;
        let length = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            let length = name.eq_ignore_ascii_case("content-length");
            length.then(|| value.trim().parse::<usize>().ok())?
        });
        // Answers without a length here have no body (204).
        let whole = head + length.unwrap_or(0);
        while self.read.len() < whole {
            self.more().await?;
        }
        Ok((status, head))
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.tls.read_buf(&mut self.read).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

fn memchr(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|part| part == what)
}
