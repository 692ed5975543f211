//! The call protocol as bytes that no client of ours sends: cut, slow, large, wrong.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hostler_gateway::{CallClient, RequestLimits};
use hostler_operations::ErrorObject;
use hostler_operations::protocol::{CallId, Envelope, FrameDecoder, Message, encode};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use serde_json::{Value, json};

use crate::calls::{call, failure, one, token};
use crate::world::{World, soon};

/// The codes that tell why a stream was ended.
const MALFORMED: VarInt = VarInt::from_u32(1);
const SLOW: VarInt = VarInt::from_u32(2);
const BUSY: VarInt = VarInt::from_u32(3);

fn requested(id: &str, operation: &str, input: Value) -> Vec<u8> {
    let message = Message::Requested {
        operation: operation.to_owned(),
        input,
        auth_token: None,
    };
    frame(id, message)
}

fn frame(id: &str, message: Message) -> Vec<u8> {
    let id = CallId::new(id).expect("an id");
    encode(&Envelope { id, message }).expect("it is small")
}

/// Reads one envelope.
async fn envelope(recv: &mut RecvStream) -> Result<Option<Envelope>, ReadError> {
    let mut decoder = FrameDecoder::default();
    loop {
        if let Some(envelope) = decoder.poll().expect("a frame") {
            assert_eq!(decoder.waiting(), 0, "more than one");
            return Ok(Some(envelope));
        }
        // One byte each: what belongs to the next one stays.
        let Some(chunk) = soon("an answer", recv.read_chunk(1, true)).await? else {
            return Ok(None);
        };
        decoder.push(&chunk.bytes);
    }
}

async fn open(connection: &Connection) -> (SendStream, RecvStream) {
    connection.open_bi().await.expect("a stream")
}

/// A call on a stream of its own, which is answered: whatever happened elsewhere, the connection
/// lives.
async fn is_alive(connection: &Connection) {
    let (mut send, mut recv) = open(connection).await;
    let bytes = requested("alive", "/rooms/weigh", json!({"text": "abc"}));
    send.write_all(&bytes).await.expect("it is taken");
    send.finish().expect("it is open");
    let answer = envelope(&mut recv)
        .await
        .expect("an answer")
        .expect("an answer");
    assert_eq!(answer.message, Message::Responded { output: json!(3) });
    let end = envelope(&mut recv).await.expect("a clean end");
    assert_eq!(end, None, "the stream goes on");
}

/// How the other end ended a stream on which nothing is answered.
async fn end_of(recv: &mut RecvStream) -> Result<(), VarInt> {
    match soon("the end of a stream", recv.read_chunk(1 << 20, true)).await {
        Ok(None) => Ok(()),
        Err(ReadError::Reset(code)) => Err(code),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_frame_that_is_cut_at_any_byte_ends_its_stream_and_no_other() {
    let world = World::start().await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let bytes = requested("cut", "/rooms/weigh", json!({"text": "xyz"}));
    for cut in 0..bytes.len() {
        let (mut send, mut recv) = open(&connection).await;
        send.write_all(&bytes[..cut]).await.expect("it is taken");
        send.finish().expect("it is open");
        let expected = if cut == 0 { Ok(()) } else { Err(MALFORMED) };
        assert_eq!(end_of(&mut recv).await, expected, "{cut} bytes");
    }
    is_alive(&connection).await;
}

#[tokio::test]
async fn a_frame_that_comes_in_two_pieces_is_one() {
    let world = World::start().await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let bytes = requested("two", "/rooms/weigh", json!({"text": "xyz"}));
    for cut in 1..bytes.len() {
        let (mut send, mut recv) = open(&connection).await;
        send.write_all(&bytes[..cut]).await.expect("it is taken");
        // While this is answered, the first piece has been read.
        is_alive(&connection).await;
        send.write_all(&bytes[cut..]).await.expect("it is taken");
        let answer = envelope(&mut recv)
            .await
            .expect("an answer")
            .expect("an answer");
        assert_eq!(answer.message, Message::Responded { output: json!(3) });
    }
}

#[tokio::test]
async fn what_is_no_frame_ends_its_stream() {
    let world = World::start().await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let with_length = |body: &[u8]| {
        let length = u32::try_from(body.len()).expect("it is small");
        [&length.to_be_bytes(), body].concat()
    };
    let deep = format!(
        r#"{{"type":"call.requested","id":"1","payload":{{"operationId":"/a/b","input":{}{}}}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    for bytes in [
        (1u32 << 30).to_be_bytes().to_vec(),
        u32::MAX.to_be_bytes().to_vec(),
        with_length(b""),
        with_length(b"\xff\xfe"),
        with_length(b"{}"),
        with_length(b"[]"),
        with_length(br#"{"type":"call.odd","id":"1","payload":{}}"#),
        with_length(br#"{"type":"call.requested","id":"","payload":{}}"#),
        with_length(br#"{"type":"call.requested","id":"1","payload":{"operationId":1}}"#),
        with_length(deep.as_bytes()),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
    ] {
        let (mut send, mut recv) = open(&connection).await;
        // What is refused early may not be taken whole.
        let _ = send.write_all(&bytes).await;
        let told = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
        assert_eq!(end_of(&mut recv).await, Err(MALFORMED), "{told:?}");
        is_alive(&connection).await;
    }
}

#[tokio::test]
async fn a_frame_that_does_not_end_is_not_waited_for_for_ever() {
    let limits = |limits: &mut RequestLimits| limits.body_time = Duration::from_millis(200);
    let world = World::limited(limits, |_| {}).await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let (mut send, mut recv) = open(&connection).await;
    let announced = [&(16u32 << 20).to_be_bytes()[..], b"{"].concat();
    send.write_all(&announced).await.expect("it is taken");
    assert_eq!(end_of(&mut recv).await, Err(SLOW));
    is_alive(&connection).await;
}

#[tokio::test]
async fn large_frames_share_a_budget() {
    const MIB: usize = 1 << 20;
    let limits = |limits: &mut RequestLimits| limits.frames_total_bytes = 8 * MIB;
    let world = World::limited(limits, |_| {}).await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let text = "x".repeat(3 * MIB);
    let large = requested("large", "/rooms/weigh", json!({"text": text}));
    let (mut first, mut first_answer) = open(&connection).await;
    // A stream's window is 1 MiB, so once all of this is on its way two thirds have been read.
    let most = soon("its way", first.write_all(&large[..3 * MIB])).await;
    most.expect("it is taken");
    let (mut second, mut second_answer) = open(&connection).await;
    // What is refused is not taken whole.
    let _ = soon("a refusal", second.write_all(&large)).await;
    assert_eq!(end_of(&mut second_answer).await, Err(BUSY));
    first
        .write_all(&large[3 * MIB..])
        .await
        .expect("it is taken");
    let answer = envelope(&mut first_answer)
        .await
        .expect("an answer")
        .expect("an answer");
    assert_eq!(
        answer.message,
        Message::Responded {
            output: json!(3 * MIB)
        }
    );
    // What it took is given back once it is answered.
    is_alive(&connection).await;
    let (mut third, mut answer) = open(&connection).await;
    third.write_all(&large).await.expect("it is taken");
    let answer = envelope(&mut answer)
        .await
        .expect("an answer")
        .expect("an answer");
    assert_eq!(
        answer.message,
        Message::Responded {
            output: json!(3 * MIB)
        }
    );
}

#[tokio::test]
async fn a_small_frame_of_very_many_values_counts_as_what_it_becomes() {
    let limits = |limits: &mut RequestLimits| limits.frames_total_bytes = 2 << 20;
    let world = World::limited(limits, |_| {}).await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let heavy = requested("heavy", "/rooms/weigh", json!(vec![json!({"": 0}); 8000]));
    assert!(heavy.len() < 64 << 10);
    let (mut send, mut recv) = open(&connection).await;
    send.write_all(&heavy).await.expect("it is taken");
    assert_eq!(end_of(&mut recv).await, Err(BUSY));
    is_alive(&connection).await;
}

#[tokio::test]
async fn what_is_said_of_unknown_calls_is_ignored() {
    let world = World::start().await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let (mut send, mut recv) = open(&connection).await;
    let error = ErrorObject {
        code: "ODD".into(),
        message: "odd".into(),
        retryable: false,
        details: None,
    };
    for message in [
        Message::Aborted,
        Message::Completed,
        Message::Responded { output: json!(1) },
        Message::Error(error),
    ] {
        let bytes = frame("nobody's", message);
        send.write_all(&bytes).await.expect("it is taken");
    }
    let bytes = requested("mine", "/rooms/weigh", json!({"text": "xyz"}));
    send.write_all(&bytes).await.expect("it is taken");
    let answer = envelope(&mut recv)
        .await
        .expect("an answer")
        .expect("an answer");
    assert_eq!(answer.id.as_str(), "mine");
}

#[tokio::test]
async fn an_id_that_is_used_twice_ends_both_calls_and_may_be_used_again() {
    let world = World::start().await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let (mut send, mut recv) = open(&connection).await;
    let nap = requested("twice", "/rooms/nap", json!({}));
    send.write_all(&nap).await.expect("it is taken");
    one("a nap", &world.shelf.napping).await;
    send.write_all(&nap).await.expect("it is taken");
    let refused = envelope(&mut recv)
        .await
        .expect("an answer")
        .expect("an answer");
    let Message::Error(error) = refused.message else {
        panic!("{refused:?}");
    };
    assert_eq!(error.code, "INVALID_INPUT");
    one("its end", &world.shelf.disturbed).await;
    let weigh = requested("twice", "/rooms/weigh", json!({"text": "xyz"}));
    send.write_all(&weigh).await.expect("it is taken");
    let answer = envelope(&mut recv)
        .await
        .expect("an answer")
        .expect("an answer");
    assert_eq!(answer.message, Message::Responded { output: json!(3) });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_may_be_used_again_as_soon_as_it_was_answered() {
    let world = World::start().await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let (mut send, mut recv) = open(&connection).await;
    // The task of the call before may be about to end, at any of its steps. More rounds than these are
    // more than a stranger may ask for.
    for _ in 0..200 {
        let weigh = requested("again", "/rooms/weigh", json!({"text": "xyz"}));
        send.write_all(&weigh).await.expect("it is taken");
        let answer = envelope(&mut recv).await.expect("an answer");
        let message = answer.expect("an answer").message;
        assert_eq!(message, Message::Responded { output: json!(3) });
        let nap = requested("again", "/rooms/nap", json!({}));
        send.write_all(&nap).await.expect("it is taken");
        one("a nap", &world.shelf.napping).await;
        let aborted = frame("again", Message::Aborted);
        send.write_all(&aborted).await.expect("it is taken");
        // A call that cannot be given up ends by itself, after 30 s.
        let ended = one("its end", &world.shelf.disturbed);
        let ended = tokio::time::timeout(Duration::from_secs(15), ended).await;
        ended.expect("it is given up when it is said");
    }
}

#[tokio::test]
async fn an_answer_is_matched_by_its_id_on_whatever_stream_it_comes() {
    let world = World::start().await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let guest = world.guest().await;
    let asked = tokio::spawn(async move { guest.call("/fs/read-file", json!({}), None).await });
    let (_send, mut recv) = soon("a stream", connection.accept_bi())
        .await
        .expect("a stream");
    let request = envelope(&mut recv).await.expect("a call").expect("a call");
    let (mut other, _) = open(&connection).await;
    let answer = frame(
        request.id.as_str(),
        Message::Responded {
            output: json!("text"),
        },
    );
    other.write_all(&answer).await.expect("it is taken");
    let answer = soon("the answer", asked).await.expect("no panic");
    assert_eq!(answer, Ok(json!("text")));
}

#[tokio::test]
async fn a_stream_that_its_caller_leaves_ends_its_calls() {
    let world = World::start().await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let nap = requested("nap", "/rooms/nap", json!({}));
    // One resets what it says, one only stops listening.
    for resets in [true, false] {
        let (mut send, mut recv) = open(&connection).await;
        send.write_all(&nap).await.expect("it is taken");
        one("a nap", &world.shelf.napping).await;
        if resets {
            send.reset(VarInt::from_u32(0)).expect("it is open");
        } else {
            recv.stop(VarInt::from_u32(0)).expect("it is open");
        }
        one("its end", &world.shelf.disturbed).await;
    }
    is_alive(&connection).await;
}

#[tokio::test]
async fn a_subscriber_that_never_reads_costs_little_and_is_given_up() {
    let world = World::limited(|_| {}, |door| door.write_time = Duration::from_secs(2)).await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let (mut send, recv) = open(&connection).await;
    const CUP: usize = 10_000;
    let pour = requested("pour", "/rooms/pour", json!({"bytes": CUP}));
    send.write_all(&pour).await.expect("it is taken");
    // Others are served meanwhile.
    for _ in 0..20 {
        is_alive(&connection).await;
    }
    one("the end of the pouring", &world.shelf.spared).await;
    let poured = world.shelf.poured.load(Ordering::Relaxed) * CUP;
    // What the stream takes unread (1.25 MB is quinn's window), and what waits at our end.
    assert!(poured < 3_000_000, "{poured} bytes were poured for nobody");
    is_alive(&connection).await;
    drop(recv);
}

#[tokio::test]
async fn whoever_asks_and_never_listens_is_not_heard_for_ever() {
    let world = World::limited(|_| {}, |door| door.write_time = Duration::from_secs(2)).await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let (mut send, _never_read) = open(&connection).await;
    let mut taken = 0;
    let ended = loop {
        let id = format!("call-{taken}");
        let asks = requested(&id, "/no/such", json!({"n": "x".repeat(100)}));
        match soon("an end", send.write_all(&asks)).await {
            Ok(()) => taken += asks.len(),
            Err(error) => break error,
        }
        assert!(taken < 64 << 20, "{taken} bytes were heard");
    };
    assert_eq!(ended, WriteError::Stopped(SLOW));
    is_alive(&connection).await;
}

#[tokio::test]
async fn more_calls_than_one_connection_may_have_are_refused() {
    let world = World::limited(|_| {}, |door| door.calls = 2).await;
    let (_endpoint, connection) = world.quic("hostler/call").await;
    let (mut send, mut recv) = open(&connection).await;
    for n in 0..3 {
        let nap = requested(&n.to_string(), "/rooms/nap", json!({}));
        send.write_all(&nap).await.expect("it is taken");
    }
    let refused = envelope(&mut recv)
        .await
        .expect("an answer")
        .expect("an answer");
    assert_eq!(refused.id.as_str(), "2");
    assert!(matches!(refused.message, Message::Error(error) if error.retryable));
    world.shelf.wake.add_permits(2);
    for _ in 0..2 {
        let rested = envelope(&mut recv)
            .await
            .expect("an answer")
            .expect("an answer");
        assert_eq!(
            rested.message,
            Message::Responded {
                output: json!("well rested")
            }
        );
    }
}

#[tokio::test]
async fn an_answer_larger_than_a_frame_is_an_error_of_its_call() {
    let world = World::start().await;
    let client = world.caller().await;
    let input = json!({"bytes": 17 << 20});
    let (code, message) = failure(call(&client, "/rooms/print", input, None).await);
    assert_eq!(code, "INTERNAL");
    assert!(message.contains("larger than a frame"), "{message}");
    let input = json!({"bytes": 17 << 20});
    let pour = client.subscribe("/rooms/pour", input, None).await;
    let error = soon("an error", pour.expect("a stream").next()).await;
    assert_eq!(error.expect_err("it is too large").code, "INTERNAL");
    one("its end", &world.shelf.spared).await;
    let input = json!({"text": "x".repeat(17 << 20)});
    let (code, _) = failure(call(&client, "/rooms/weigh", input, None).await);
    assert_eq!(code, "INVALID_INPUT");
    let large = json!({"bytes": 15 << 20});
    let paper = call(&client, "/rooms/print", large, None)
        .await
        .expect("paper");
    assert_eq!(paper.as_str().map(str::len), Some(15 << 20));
}

#[tokio::test]
async fn somebody_of_whom_nothing_is_known_may_not_stay_without_calling() {
    let world = World::limited(|_| {}, |door| door.idle_time = Duration::from_secs(1)).await;
    // Both keep their connections alive.
    let (_reader_endpoint, reader) = world.quic("hostler/call").await;
    let (mut send, mut recv) = open(&reader).await;
    let list = frame(
        "list",
        Message::Requested {
            operation: "/books/list".to_owned(),
            input: json!({}),
            auth_token: token("reader"),
        },
    );
    send.write_all(&list).await.expect("it is taken");
    envelope(&mut recv)
        .await
        .expect("an answer")
        .expect("books");
    let (_endpoint, stranger) = world.quic("hostler/call").await;
    let ended = soon("the end", stranger.closed()).await;
    assert!(
        matches!(ended, ConnectionError::ApplicationClosed(_)),
        "{ended}"
    );
    is_alive(&reader).await;
}

#[tokio::test]
async fn talk_of_no_call_keeps_nobody_who_is_unknown() {
    let world = World::limited(|_| {}, |door| door.idle_time = Duration::from_secs(1)).await;
    let (_endpoint, stranger) = world.quic("hostler/call").await;
    let (mut send, _recv) = open(&stranger).await;
    let aborted = frame("nobody", Message::Aborted);
    let talk = async {
        while send.write_all(&aborted).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the end", talk).await;
    let ended = stranger.closed().await;
    assert!(
        matches!(ended, ConnectionError::ApplicationClosed(_)),
        "{ended}"
    );
}

#[tokio::test]
async fn a_door_that_does_not_serve_calls_does_not_speak_of_them() {
    let world = World::without_calls().await;
    let client = CallClient::builder(crate::world::anonymous(world.trust()));
    let refused = soon("a refusal", client.connect(world.address, "localhost")).await;
    assert!(refused.is_err());
}
