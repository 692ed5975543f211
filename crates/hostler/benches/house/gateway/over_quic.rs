//! Load over QUIC: requests of HTTP/3, and calls.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use hostler_gateway::CallClient;
use hostler_operations::protocol::AuthToken;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::ClientConfig;
use serde_json::json;
use tokio::task::LocalSet;

use super::{ROUND, Target, WARM_UP, on_one_thread, shelf};
use crate::cpu;

const CONNECTIONS: usize = 8;
/// At one time on each connection.
const AT_ONCE: usize = 32;
/// Any: a name of the certificate.
const NAME: &str = "localhost";

type Done = Rc<Cell<u64>>;

/// Requests per second of the server's CPU.
pub(super) fn requests(target: Target, config: ClientConfig) -> f64 {
    in_cpu_second(target, async |tasks: &LocalSet, done: &Done| {
        for _ in 0..CONNECTIONS {
            let sender = http3(target.address, config.clone()).await;
            for _ in 0..AT_ONCE {
                let (mut sender, done) = (sender.clone(), Rc::clone(done));
                tasks.spawn_local(async move {
                    loop {
                        request(&mut sender).await;
                        done.set(done.get() + 1);
                    }
                });
            }
        }
    })
}

/// Calls per second of the server's CPU.
pub(super) fn calls(target: Target, config: ClientConfig) -> f64 {
    in_cpu_second(target, async |tasks: &LocalSet, done: &Done| {
        for _ in 0..CONNECTIONS {
            let client = CallClient::builder(config.clone()).connect(target.address, NAME);
            let client = Rc::new(client.await.expect("a connection"));
            for _ in 0..AT_ONCE {
                let (client, done) = (Rc::clone(&client), Rc::clone(done));
                tasks.spawn_local(async move {
                    loop {
                        let token = Some(AuthToken::new(shelf::TOKEN));
                        let answer = client.call("/things/get", json!({"name": "anvil"}), token);
                        answer.await.expect("an answer");
                        done.set(done.get() + 1);
                    }
                });
            }
        }
    })
}

fn in_cpu_second(target: Target, load: impl AsyncFnOnce(&LocalSet, &Done)) -> f64 {
    let (tasks, done) = (LocalSet::new(), Done::default());
    on_one_thread().block_on(tasks.run_until(async {
        load(&tasks, &done).await;
        tokio::time::sleep(WARM_UP).await;
        let (before, cpu_before) = (done.get(), cpu::seconds(target.pid));
        tokio::time::sleep(ROUND).await;
        let (after, cpu_after) = (done.get(), cpu::seconds(target.pid));
        (after - before) as f64 / (cpu_after - cpu_before)
    }))
}

type Sender = h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>;

async fn http3(address: SocketAddr, mut tls: ClientConfig) -> Sender {
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let tls = QuicClientConfig::try_from(tls).expect("a suite");
    let mut endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("UDP");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let connection = endpoint.connect(address, NAME).expect("a name").await;
    let connection = h3_quinn::Connection::new(connection.expect("a handshake"));
    let (mut driver, sender) = h3::client::new(connection).await.expect("a connection");
    tokio::spawn(async move {
        let _ = std::future::poll_fn(|context| driver.poll_close(context)).await;
    });
    sender
}

async fn request(sender: &mut Sender) {
    let head = http::Request::get("https://localhost/healthz").body(());
    let stream = sender.send_request(head.expect("a request")).await;
    let mut stream = stream.expect("a stream");
    stream.finish().await.expect("sent");
    let answer = stream.recv_response().await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let mut length = 0;
    while let Some(mut data) = stream.recv_data().await.expect("a body") {
        length += data.remaining();
        data.advance(data.remaining());
    }
    assert_eq!(length, "ok".len());
}
