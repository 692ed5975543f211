//! Peers that stall, flood, and speak nonsense: each hurts itself at most.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hostler_gateway::{DoorLimits, RequestLimits};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{World, call, soon};

/// Everything until the other side ends, however it ends.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _ = soon("the end of the connection", stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn still_serves(world: &World) {
    assert_eq!(world.get("reader", "/v1/books").await.status, 200);
}

#[tokio::test]
async fn nonsense_ends_its_own_connection_only() {
    let world = World::start().await;
    let mut plain = TcpStream::connect(world.address)
        .await
        .expect("a connection");
    plain
        .write_all(b"GET / HTTP/1.1\r\n\r\n")
        .await
        .expect("sent");
    assert!(!rest(&mut plain).await.contains("HTTP"));
    for nonsense in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/weigh HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /v1/weigh HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    ] {
        let mut stream = world.tls(&["http/1.1"]).await;
        stream.write_all(nonsense).await.expect("sent");
        let answer = rest(&mut stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{answer}"
        );
    }
    let mut stream = world.tls(&["h2"]).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n\r\n\r\n")
        .await
        .expect("sent");
    assert!(!rest(&mut stream).await.contains("HTTP/1.1 200"));
    still_serves(&world).await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_input() {
    let world = World::start().await;
    for body in ["zz\r\n", "5\r\n{\"a", "ffffffffffffffffff\r\n"] {
        let mut stream = world.tls(&["http/1.1"]).await;
        let head = "POST /v1/weigh HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                    transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .await
            .expect("sent");
        stream.shutdown().await.expect("closed");
        let answer = rest(&mut stream).await;
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{body:?}: {answer}"
        );
    }
    still_serves(&world).await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let world = World::start().await;
    let long = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n",
        "y".repeat(64 << 10)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "x-many: y\r\n".repeat(200)
    );
    for head in [long, many] {
        let mut stream = world.tls(&["http/1.1"]).await;
        stream.write_all(head.as_bytes()).await.expect("sent");
        let answer = rest(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    let mut client = world.http2().await;
    let mut request = call("GET", "/v1/who", "", None);
    request
        .headers_mut()
        .insert("x-long", "y".repeat(64 << 10).parse().expect("a value"));
    let refused = client
        .try_send(request)
        .await
        .map(|answer| answer.status.as_u16());
    assert!(!matches!(refused, Ok(200)), "{refused:?}");
    still_serves(&world).await;
}

#[tokio::test]
async fn a_head_that_trickles_in_is_given_up() {
    let mut limits = DoorLimits::default();
    limits.head_time = Duration::from_millis(200);
    let world = World::with(limits, |adapter| adapter).await;
    let stream = world.tls(&["http/1.1"]).await;
    let (mut reading, mut writing) = tokio::io::split(stream);
    let trickle = tokio::spawn(async move {
        let bytes = b"GET /v1/who HTTP/1.1\r\nx-slow: "
            .iter()
            .chain(std::iter::repeat(&b'y'));
        for byte in bytes {
            if writing.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(rest(&mut reading).await, "");
    trickle.abort();
    still_serves(&world).await;
}

#[tokio::test]
async fn a_body_that_trickles_in_answers_408() {
    let mut limits = RequestLimits::default();
    limits.body_time = Duration::from_millis(200);
    let world = World::with(DoorLimits::default(), |adapter| adapter.limits(limits)).await;
    let mut stream = world.tls(&["http/1.1"]).await;
    let begun = "POST /rooms/weigh HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                 content-length: 100\r\nconnection: close\r\n\r\n{\"text\": ";
    stream.write_all(begun.as_bytes()).await.expect("sent");
    let answer = rest(&mut stream).await;
    assert!(
        answer.starts_with("HTTP/1.1 408") && answer.contains("REQUEST_TIMEOUT"),
        "{answer}"
    );
}

#[tokio::test]
async fn large_bodies_share_the_memory_that_they_may_take() {
    let mut limits = RequestLimits::default();
    limits.bodies_total_bytes = 64;
    let world = World::with(DoorLimits::default(), |adapter| adapter.limits(limits)).await;
    for _ in 0..3 {
        let large = world
            .post("", "/v1/weigh", json!({"text": "x".repeat(100)}))
            .await;
        assert_eq!(large.failure(), (503, "unavailable".to_owned()));
        assert_eq!(large.header("retry-after"), Some("1"));
        let small = world
            .post("", "/v1/weigh", json!({"text": "x".repeat(40)}))
            .await;
        assert_eq!(small.json(), json!(40), "what was taken is given back");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_cut() {
    let mut limits = DoorLimits::default();
    limits.write_time = Duration::from_millis(300);
    // With room for one, the next guest gets in when this one is out.
    limits.connections = 1;
    let world = World::with(limits, |adapter| adapter).await;

    let mut stream = world.tls(&["http/1.1"]).await;
    let request = b"GET /rooms/print?bytes=64000000 HTTP/1.1\r\nhost: x\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    soon("the next guest", still_serves(&world)).await;
    assert!(rest(&mut stream).await.len() < 64_000_000);

    let tls = world.tls(&["h2"]).await;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .expect("a connection");
    let connection = tokio::spawn(connection);
    let mut request = call("GET", "/rooms/print?bytes=64000000", "", None);
    *request.uri_mut() = "https://localhost/rooms/print?bytes=64000000"
        .parse()
        .expect("a URI");
    let answer = soon("a head", sender.send_request(request))
        .await
        .expect("a head");
    // The body is not read, so its window stays shut while the socket itself is open.
    let _ended = soon("the cut", connection).await;
    assert!(answer.into_body().collect().await.is_err());
    still_serves(&world).await;
}

/// An HTTP/2 frame (RFC 9113, section 4.1).
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short payload")
        .to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The kinds and payloads of the whole frames in these bytes.
pub(crate) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, kind, ..] = *bytes else {
            return None;
        };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let payload = bytes.get(9..9 + length)?;
        bytes = &bytes[9 + length..];
        Some((kind, payload))
    })
}

#[tokio::test]
async fn rapid_resets_end_the_connection_that_sends_them() {
    let world = World::start().await;
    let stream = world.tls(&["h2"]).await;
    let (mut reading, mut writing) = tokio::io::split(stream);
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    for stream in (1..20_001).step_by(2) {
        // HEADERS: GET, https, /; the last of its kind and of the stream. Then RST_STREAM, CANCEL.
        flood.extend(frame(1, 0x5, stream, &[0x82, 0x87, 0x84]));
        flood.extend(frame(3, 0, stream, &8u32.to_be_bytes()));
    }
    let sending = tokio::spawn(async move {
        let _ = writing.write_all(&flood).await;
        writing
    });
    let mut answer = Vec::new();
    let _ = soon("the end of the flood", reading.read_to_end(&mut answer)).await;
    let goaways = frames(&answer).filter(|(kind, _)| *kind == 7);
    let reasons: Vec<u8> = goaways
        .filter_map(|(_, payload)| payload.get(7).copied())
        .collect();
    // ENHANCE_YOUR_CALM (RFC 9113, section 7).
    assert!(reasons.is_empty() || reasons.contains(&11), "{reasons:?}");
    assert!(
        answer.len() < 100_000,
        "the flood was served: {} bytes",
        answer.len()
    );
    drop(sending.await);
    still_serves(&world).await;
}

async fn stumble() -> &'static str {
    panic!("a handler that panics")
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_own_connection_only() {
    let beside = Router::new().route("/stumble", get(stumble));
    let world = World::with(DoorLimits::default(), |adapter| adapter.beside(beside)).await;
    let mut other = world.http2().await;
    assert_eq!(
        other.send(call("GET", "/healthz", "", None)).await.status,
        200
    );
    for mut client in [world.http1().await, world.http2().await] {
        assert!(
            client
                .try_send(call("GET", "/stumble", "", None))
                .await
                .is_err()
        );
    }
    assert_eq!(
        other.send(call("GET", "/healthz", "", None)).await.status,
        200
    );
    still_serves(&world).await;
}
