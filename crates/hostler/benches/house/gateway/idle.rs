//! Ten thousand connections on which nothing happens.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::load::{Question, preface, request};
use super::servers::Papers;
use super::{HEALTH, on_one_thread};
use crate::memory::resident_mib;
use crate::table::Table;

const CONNECTIONS: u16 = 10_000;
/// Of each address: a client has no more ports than there are.
const EACH: u16 = 1000;

pub(super) fn measure(papers: &Papers, table: &mut Table) {
    allow_files(u64::from(CONNECTIONS) + 1000);
    let most = (CONNECTIONS + 100).to_string();
    let daemon = papers.daemon(&["--max-connections", &most]);
    let address: SocketAddr = daemon.people.parse().expect("an address");
    let mut config = papers.client();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsConnector::from(Arc::new(config));
    let before = resident_mib(daemon.pid());
    let after = on_one_thread().block_on(async {
        let mut open = Vec::with_capacity(CONNECTIONS.into());
        for n in 0..CONNECTIONS {
            let from = Ipv4Addr::new(127, 0, 1, u8::try_from(n / EACH).expect("few"));
            open.push(connect(&tls, from, address, &HEALTH).await);
        }
        resident_mib(daemon.pid())
    });
    table.row(
        &format!(
            "{CONNECTIONS} idle HTTP/2 connections: memory of the server ({before:.0} MiB before), \
             of a connection"
        ),
        format!(
            "{after:.0} MiB, {:.0} KiB",
            (after - before) * 1024.0 / f64::from(CONNECTIONS)
        ),
        "-",
        "-",
        "at most 500 MiB",
    );
}

/// A connection that was used once.
async fn connect(
    tls: &TlsConnector,
    from: Ipv4Addr,
    to: SocketAddr,
    question: &Question,
) -> TlsStream<TcpStream> {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("a port");
    let tcp = socket.connect(to).await.expect("a connection");
    let mut stream = tls.connect(ServerName::from(to.ip()), tcp).await;
    let stream_ = stream.as_mut().expect("a handshake");
    let mut out = preface();
    request(&mut out, &mut 1, &question.over_http2());
    stream_.write_all(&out).await.expect("sent");
    let mut answer = Vec::new();
    while !answer.ends_with(question.ending.as_bytes()) {
        let read = stream_.read_buf(&mut answer).await.expect("an answer");
        assert_ne!(read, 0, "the connection has ended");
    }
    stream.expect("a handshake")
}

/// So many files for this process, and for those that it starts.
fn allow_files(number: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let maximum = now.maximum.map_or(number, |maximum| maximum.max(number));
    let wanted = Rlimit {
        current: Some(number),
        maximum: Some(maximum),
    };
    setrlimit(Resource::Nofile, wanted).expect("so many open files are allowed");
}
