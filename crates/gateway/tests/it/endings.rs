//! How answers and connections of HTTP/3 end: nothing that was answered is lost, nothing that is half
//! passes for whole, and nothing that is done is announced as left undone.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::{Buf as _, Bytes};
use futures::stream;
use hostler_gateway::DoorLimits;
use quinn::{ReadError, ReadToEndError, RecvStream, VarInt};
use serde_json::json;

use crate::world::{World, call, soon};

/// Longer than a connection that takes leave waits for who has only little to take.
const SLOW: Duration = Duration::from_millis(2500);

const BYTES: usize = 3_000_000;

/// A control stream's beginning: its type, and SETTINGS with nothing in it (RFC 9114, section 6.2.1).
const CONTROL: &[u8] = &[0x00, 0x04, 0x00];

const GOAWAY: u8 = 0x07;

/// The code of a request that was not processed (RFC 9114, section 8.1).
const REJECTED: VarInt = VarInt::from_u32(0x10b);

/// The code of a stream that this end cannot go on with.
const INTERNAL_ERROR: VarInt = VarInt::from_u32(0x102);

/// A HEADERS frame: GET, https, `localhost` and a path, by the static table (RFC 9204, appendix A).
fn asks(path: &str) -> Vec<u8> {
    let mut block = vec![0x00, 0x00, 0xd1, 0xd7];
    for (name, value) in [(0x50, "localhost"), (0x51, path)] {
        block.push(name);
        block.push(u8::try_from(value.len()).expect("a short value"));
        block.extend_from_slice(value.as_bytes());
    }
    let length = u8::try_from(block.len()).expect("a short block");
    assert!(length < 64, "a length of one byte");
    [vec![0x01, length], block].concat()
}

/// The id in the GOAWAY that comes on a control stream. All numbers here have one byte.
async fn goaway(control: &mut RecvStream) -> u8 {
    loop {
        let mut frame = [0; 2];
        control.read_exact(&mut frame).await.expect("a frame");
        let mut payload = vec![0; usize::from(frame[1])];
        control.read_exact(&mut payload).await.expect("all of it");
        if frame[0] == GOAWAY {
            return payload[0];
        }
    }
}

#[tokio::test]
async fn a_request_that_is_processed_is_not_announced_as_left_undone() {
    let world = World::start().await;
    let (_endpoint, connection) = world.quic("h3").await;
    let mut own = connection.open_uni().await.expect("a stream");
    own.write_all(CONTROL).await.expect("it is taken");
    let (mut send, mut nap) = connection.open_bi().await.expect("a stream");
    send.write_all(&asks("/rooms/nap")).await.expect("taken");
    send.finish().expect("it is open");
    let napping = soon("a nap", world.shelf.napping.acquire()).await;
    napping.expect("open").forget();

    world.shutdown.cancel();
    let announced = loop {
        let mut stream = soon("a stream", connection.accept_uni())
            .await
            .expect("it is open");
        let mut kind = [0];
        stream.read_exact(&mut kind).await.expect("its type");
        if kind == [0x00] {
            break soon("a farewell", goaway(&mut stream)).await;
        }
    };
    assert_eq!(announced, 4, "the request after the first");

    let (mut send, mut late) = connection.open_bi().await.expect("a stream");
    // It may be refused before it is written.
    let _ = send.write_all(&asks("/healthz")).await;
    let refused = soon("a refusal", late.read_to_end(100)).await;
    let refused = refused.expect_err("it is not processed");
    let reset = quinn::ReadToEndError::Read(quinn::ReadError::Reset(REJECTED));
    assert_eq!(refused, reset);

    world.shelf.wake.add_permits(1);
    let answer = soon("an answer", nap.read_to_end(1 << 10)).await;
    let answer = String::from_utf8_lossy(&answer.expect("all of it")).into_owned();
    assert!(answer.contains(r#""well rested""#), "{answer}");
    drop(connection);
    soon("the door", world.served).await.expect("no panic");
}

#[tokio::test]
async fn a_slow_reader_has_all_of_its_answer_though_the_door_closes() {
    let world = World::start().await;
    let mut http3 = world.http3().await;
    let print = call("POST", "/rooms/print", "", Some(&json!({"bytes": BYTES})));
    let mut print = http3.begin(print).await;
    let answer = soon("an answer", print.recv_response()).await;
    assert_eq!(answer.expect("an answer").status(), 200);
    world.shutdown.cancel();
    tokio::time::sleep(SLOW).await;
    let mut length = 0;
    while let Some(data) = soon("a piece", print.recv_data()).await.expect("all of it") {
        length += data.remaining();
    }
    assert!(length >= BYTES, "{length}");
    soon("the door", world.served).await.expect("no panic");
}

async fn stumble() -> &'static str {
    panic!("a handler that panics")
}

#[tokio::test]
async fn no_answer_does_not_pass_for_an_empty_one() {
    let beside = Router::new().route("/stumble", get(stumble));
    let mut limits = DoorLimits::default();
    limits.head_time = Duration::from_millis(200);
    let world = World::with(limits, |adapter| adapter.beside(beside)).await;
    let (_endpoint, connection) = world.quic("h3").await;
    let mut own = connection.open_uni().await.expect("a stream");
    own.write_all(CONTROL).await.expect("sent");
    // One whose handler panics, and one whose head does not come.
    let whole = asks("/stumble");
    for request in [&whole[..], &whole[..4]] {
        let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
        send.write_all(request).await.expect("sent");
        let end = soon("its end", recv.read_to_end(1000)).await;
        let reset = ReadToEndError::Read(ReadError::Reset(INTERNAL_ERROR));
        assert_eq!(end.expect_err("an answer"), reset);
    }
}

/// A body that comes to nothing after its first piece.
async fn half() -> Body {
    let mut pieces = 0;
    Body::from_stream(stream::poll_fn(move |_| {
        pieces += 1;
        assert!(pieces == 1, "a body that panics");
        let first = Bytes::from_static(b"half");
        std::task::Poll::Ready(Some(Ok::<_, std::convert::Infallible>(first)))
    }))
}

#[tokio::test]
async fn half_an_answer_does_not_pass_for_a_whole_one() {
    let beside = Router::new().route("/half", get(half));
    let world = World::with(DoorLimits::default(), |adapter| adapter.beside(beside)).await;
    let mut http3 = world.http3().await;
    let mut stream = http3.begin(call("GET", "/half", "", None)).await;
    let read = async {
        stream.recv_response().await?;
        while stream.recv_data().await?.is_some() {}
        Ok::<_, h3::error::StreamError>(())
    };
    assert!(soon("its end", read).await.is_err(), "it looked whole");
    let answer = http3.send(call("GET", "/healthz", "", None)).await;
    assert_eq!(answer.status, 200, "the connection goes on");
    http3.close().await;
}
