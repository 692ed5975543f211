//! The call protocol over real connections: as our client speaks it, and as bytes that are wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hostler_gateway::{Admission, CallClient, DoorLimits, RequestLimits};
use hostler_identity::Authorizer;
use hostler_operations::ErrorObject;
use hostler_operations::protocol::{AuthToken, CallId, Envelope, FrameDecoder, Message, encode};
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use rustls::RootCertStore;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::{Semaphore, watch};

use crate::door::{Ca, uri};
use crate::shelf::Shelf;
use crate::world::{World, now_millis, soon};

/// The codes that tell why a stream was ended.
const MALFORMED: VarInt = VarInt::from_u32(1);
const SLOW: VarInt = VarInt::from_u32(2);
const BUSY: VarInt = VarInt::from_u32(3);

pub(crate) fn token(token: &str) -> Option<AuthToken> {
    Some(AuthToken::new(token))
}

async fn one(what: &str, permits: &Semaphore) {
    let permit = soon(what, permits.acquire()).await;
    permit.expect("the shelf stays").forget();
}

async fn call(
    client: &CallClient,
    operation: &str,
    input: Value,
    token: Option<AuthToken>,
) -> Result<Value, ErrorObject> {
    soon(operation, client.call(operation, input, token)).await
}

/// The code and the message of what failed.
fn failure(answer: Result<Value, ErrorObject>) -> (String, String) {
    let error = answer.expect_err("it is refused");
    (error.code, error.message)
}

#[tokio::test]
async fn a_call_is_answered_in_the_name_of_its_token() {
    let world = World::start().await;
    let client = world.caller().await;
    let books = call(&client, "/books/list", json!({}), token("reader")).await;
    assert_eq!(books.expect("books").as_array().map(Vec::len), Some(3));
    let who = call(&client, "/rooms/who", json!({}), token("writer")).await;
    assert_eq!(who.expect("somebody")["subject"], "writer");
    let who = call(&client, "/rooms/who", json!({}), None).await;
    let who = who.expect("nobody");
    assert_eq!(
        (&who["subject"], &who["remote"]),
        (&Value::Null, &json!("127.0.0.1"))
    );
}

#[tokio::test]
async fn what_goes_wrong_has_the_codes_of_the_protocol() {
    let world = World::start().await;
    let client = world.caller().await;
    let no_input = || json!({});
    for (operation, input, token, code, said) in [
        (
            "/books/list",
            no_input(),
            None,
            "FORBIDDEN",
            "authentication required",
        ),
        (
            "/books/list",
            no_input(),
            token("stolen"),
            "FORBIDDEN",
            "this token is unknown",
        ),
        (
            "/books/create",
            no_input(),
            token("reader"),
            "FORBIDDEN",
            "books:write",
        ),
        (
            "/books/shred",
            no_input(),
            token("writer"),
            "NOT_FOUND",
            "/books/shred",
        ),
        (
            "/books/burn",
            no_input(),
            token("writer"),
            "NOT_FOUND",
            "/books/burn",
        ),
        (
            "books/list",
            no_input(),
            token("writer"),
            "NOT_FOUND",
            "books/list",
        ),
        ("", no_input(), None, "NOT_FOUND", ""),
        (
            "/books/list",
            json!({"odd": 1}),
            token("reader"),
            "INVALID_INPUT",
            "odd",
        ),
        (
            "/books/list",
            json!([]),
            token("reader"),
            "INVALID_INPUT",
            "",
        ),
        (
            "/books/lend",
            json!({"title": "Dune"}),
            token("reader"),
            "ALL_OUT",
            "all copies",
        ),
        (
            "/books/list",
            no_input(),
            token("nobody-home"),
            "INTERNAL",
            "checked now",
        ),
        (
            "/rooms/dawdle",
            no_input(),
            None,
            "TIMEOUT",
            "no answer within",
        ),
        ("/rooms/trip", no_input(), None, "INTERNAL", ""),
    ] {
        let answer = call(&client, operation, input, token).await;
        let (told, message) = failure(answer);
        assert_eq!(told, code, "{operation}: {message}");
        assert!(message.contains(said), "{operation}: {message}");
        assert!(
            !message.contains("asleep") && !message.contains("secret"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_peer_is_known_by_its_certificate_and_a_token_goes_before_it() {
    let ca = Ca::new(uri("spiffe://shelf.test"));
    let (door, _door_writer) = ca.source("spiffe://shelf.test/door");
    let tls = hostler_identity::server_config(&door, Authorizer::any());
    let no_roots = RootCertStore::empty();
    let world = World::behind(&tls, no_roots, DoorLimits::default(), |adapter| adapter).await;
    let (guest, _guest_writer) = ca.source("spiffe://shelf.test/guest/7");
    let tls = hostler_identity::client_config(&guest, Authorizer::any());
    let connecting = CallClient::builder(tls).connect(world.address, "localhost");
    let client = soon("the handshake", connecting)
        .await
        .expect("a handshake");
    let who = call(&client, "/rooms/who", json!({}), None)
        .await
        .expect("a guest");
    assert_eq!(who["subject"], "spiffe://shelf.test/guest/7");
    let who = call(&client, "/rooms/who", json!({}), token("reader")).await;
    assert_eq!(who.expect("a reader")["subject"], "reader");
}

#[tokio::test]
async fn a_peer_that_is_admitted_no_more_is_cut_and_nobody_else() {
    let ca = Ca::new(uri("spiffe://shelf.test"));
    let (door, _door_writer) = ca.source("spiffe://shelf.test/door");
    let tls = hostler_identity::server_config(&door, Authorizer::any());
    let (dismissed, changed) = watch::channel(());
    let seven_is_out = Arc::new(AtomicBool::new(false));
    let is_out = Arc::clone(&seven_is_out);
    let admission = Admission::new(
        move |id| id.path() != "/guest/7" || !is_out.load(Ordering::SeqCst),
        changed,
    );
    let (no_roots, limits) = (RootCertStore::empty(), DoorLimits::default());
    let world = World::admitting(&tls, no_roots, limits, |adapter| adapter, Some(admission)).await;
    let connect = async |id| {
        let (source, writer) = ca.source(id);
        let tls = hostler_identity::client_config(&source, Authorizer::any());
        let connecting = CallClient::builder(tls).connect(world.address, "localhost");
        let client = soon("the handshake", connecting).await;
        (client.expect("a handshake"), writer)
    };
    let (out, _out_writer) = connect("spiffe://shelf.test/guest/7").await;
    let (stays, _stays_writer) = connect("spiffe://shelf.test/guest/8").await;
    let nap = out.call("/rooms/nap", json!({}), None);
    let dismiss = async {
        one("a nap", &world.shelf.napping).await;
        seven_is_out.store(true, Ordering::SeqCst);
        dismissed.send_replace(());
    };
    let (nap, ()) = soon("the cut", async { tokio::join!(nap, dismiss) }).await;
    assert_eq!(failure(nap).1, "connection closed");
    one("the end of its nap", &world.shelf.disturbed).await;
    call(&stays, "/rooms/who", json!({}), None)
        .await
        .expect("an answer");
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_that_it_began_with() {
    let ca = Ca::new(uri("spiffe://shelf.test"));
    let (door, _door_writer) = ca.source("spiffe://shelf.test/door");
    let tls = hostler_identity::server_config(&door, Authorizer::any());
    let no_roots = RootCertStore::empty();
    let world = World::behind(&tls, no_roots, DoorLimits::default(), |adapter| adapter).await;
    let end = OffsetDateTime::now_utc() + Duration::from_secs(5);
    let guest = ca.issue_until(uri("spiffe://shelf.test/guest/7"), Some(end));
    let (guest, _guest_writer) = ca.source_from(guest);
    let tls = hostler_identity::client_config(&guest, Authorizer::any());
    let connecting = CallClient::builder(tls).connect(world.address, "localhost");
    let client = soon("the handshake", connecting)
        .await
        .expect("a handshake");
    call(&client, "/rooms/who", json!({}), None)
        .await
        .expect("an answer");
    // Long before anything else would end it; that it is before the end, a busy machine cannot tell.
    soon("the end", client.closed()).await;
}

#[tokio::test]
async fn a_subscription_brings_its_outputs_and_its_end() {
    let world = World::start().await;
    let client = world.caller().await;
    let mut watch = client
        .subscribe("/books/watch", json!({"count": 3}), token("reader"))
        .await
        .expect("a stream");
    for expected in 1..=3 {
        let output = soon("an output", watch.next()).await;
        assert_eq!(output.expect("no error"), Some(json!(expected)));
    }
    assert_eq!(soon("the end", watch.next()).await, Ok(None));

    let input = json!({"count": 1, "then": "fail"});
    let watch = client
        .subscribe("/books/watch", input, token("reader"))
        .await;
    let mut watch = watch.expect("a stream");
    assert_eq!(soon("an output", watch.next()).await, Ok(Some(json!(1))));
    let error = soon("the error", watch.next()).await.expect_err("it fails");
    assert_eq!((error.code.as_str(), error.retryable), ("ALL_OUT", true));

    let refused = client.subscribe("/books/watch", json!({}), None).await;
    let error = soon("a refusal", refused.expect("a stream").next()).await;
    assert_eq!(error.expect_err("it is refused").code, "FORBIDDEN");
}

#[tokio::test]
async fn a_subscription_ends_when_what_it_began_with_is_not_good_any_more() {
    let world = World::start().await;
    let client = world.caller().await;
    let briefly = token(&format!("reader-until-{}", now_millis() + 1000));
    let input = json!({"count": 1, "then": "wait"});
    let watch = client.subscribe("/books/watch", input, briefly).await;
    let mut watch = watch.expect("a stream");
    assert_eq!(soon("an output", watch.next()).await, Ok(Some(json!(1))));
    let error = soon("its end", watch.next()).await.expect_err("it is over");
    assert_eq!(error.code, "FORBIDDEN");
}

#[tokio::test]
async fn calls_at_one_time_do_not_wait_for_each_other() {
    let world = World::start().await;
    let client = world.caller().await;
    let nap = client.call("/rooms/nap", json!({}), None);
    let calls = async {
        one("a nap", &world.shelf.napping).await;
        let weighing = (0..200).map(|n| {
            let text = "x".repeat(n);
            client.call("/rooms/weigh", json!({"text": text}), None)
        });
        let weighed = futures::future::join_all(weighing).await;
        for (n, answer) in weighed.into_iter().enumerate() {
            assert_eq!(answer, Ok(json!(n)));
        }
        world.shelf.wake.add_permits(1);
    };
    let (nap, ()) = soon("all of them", async { tokio::join!(nap, calls) }).await;
    assert_eq!(nap, Ok(json!("well rested")));
}

#[tokio::test]
async fn what_can_be_called_is_found_out_by_calling() {
    let world = World::start().await;
    let client = world.caller().await;
    let names = async |token| {
        let listed = call(&client, "/services/list", json!({}), token).await;
        let listed = listed.expect("a list");
        let names = listed.as_array().expect("a list").iter();
        let names = names.map(|summary| summary["name"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    let (reader, stranger) = (names(token("reader")).await, names(None).await);
    assert!(reader.contains(&"books/list".to_owned()), "{reader:?}");
    assert!(!stranger.contains(&"books/list".to_owned()), "{stranger:?}");
    assert!(!reader.contains(&"books/shred".to_owned()), "{reader:?}");
    let input = json!({"operation": "books/get"});
    let schema = call(&client, "/services/schema", input, token("reader")).await;
    let schema = schema.expect("a schema");
    assert_eq!(schema["input"]["properties"]["title"]["type"], "string");
}

#[tokio::test]
async fn a_door_calls_its_guests() {
    let world = World::start().await;
    let theirs = Arc::new(Shelf::default());
    let client = world.callee(&theirs).await;
    let guest = world.guest().await;
    let who = soon("an answer", guest.call("/rooms/who", json!({}), None)).await;
    assert_eq!(who.expect("an answer")["subject"], Value::Null);
    let input = json!({"count": 2});
    let watch = guest
        .subscribe("/books/watch", input, token("reader"))
        .await;
    let mut watch = watch.expect("a stream");
    for expected in [Some(json!(1)), Some(json!(2)), None] {
        assert_eq!(soon("an output", watch.next()).await, Ok(expected));
    }
    // Both call at one time, and on behalf of each other.
    let back = json!({"operation": "/rooms/who"});
    let answer = call(&client, "/rooms/ask-back", back, None)
        .await
        .expect("an answer");
    assert_eq!(answer["remote"], "127.0.0.1");
    client.close().await;
    soon("the end", guest.closed()).await;
    let late = guest.call("/rooms/who", json!({}), None).await;
    assert_eq!(
        failure(late),
        ("INTERNAL".into(), "connection closed".into())
    );
}

#[tokio::test]
async fn streams_are_given_back_however_many_calls_there_are() {
    let world = World::limited(|limits| limits.strangers = None, |_| {}).await;
    let theirs = Arc::new(Shelf::default());
    let client = world.callee(&theirs).await;
    // More than either end allows the other at one time.
    for n in 0..300 {
        let back = json!({"operation": "/rooms/who"});
        let answer = call(&client, "/rooms/ask-back", back, None).await;
        assert!(answer.is_ok_and(|who| who["remote"] == "127.0.0.1"), "{n}");
        let pour = client.subscribe("/rooms/pour", json!({"bytes": 9, "cups": n % 2}), None);
        let mut pour = soon("a stream", pour).await.expect("a stream");
        if n % 2 == 1 {
            assert_eq!(
                soon("a cup", pour.next()).await,
                Ok(Some(json!("~".repeat(9))))
            );
        }
        if n % 3 == 0 {
            assert_eq!(soon("the end", pour.next()).await, Ok(None));
        }
    }
}

#[tokio::test]
async fn a_guest_without_operations_answers_that_there_are_none() {
    let world = World::start().await;
    let client = world.caller().await;
    let back = json!({"operation": "/rooms/who"});
    let answer = call(&client, "/rooms/ask-back", back, None)
        .await
        .expect("an answer");
    assert_eq!(answer["code"], "NOT_FOUND");
}

#[tokio::test]
async fn an_abort_reaches_the_handler_and_what_it_called_in_turn() {
    let world = World::start().await;
    let theirs = Arc::new(Shelf::default());
    let client = world.callee(&theirs).await;
    {
        let mut nap = std::pin::pin!(client.call("/rooms/nap", json!({}), None));
        tokio::select! {
            answer = nap.as_mut() => panic!("{answer:?}"),
            () = one("a nap", &world.shelf.napping) => {}
        }
    }
    one("its end", &world.shelf.disturbed).await;
    {
        let back = json!({"operation": "/rooms/nap"});
        let mut asked = std::pin::pin!(client.call("/rooms/ask-back", back, None));
        tokio::select! {
            answer = asked.as_mut() => panic!("{answer:?}"),
            () = one("a nap of the guest's", &theirs.napping) => {}
        }
    }
    one("the end of the guest's nap", &theirs.disturbed).await;
    let pour = client
        .subscribe("/rooms/pour", json!({"bytes": 10}), None)
        .await;
    let mut pour = pour.expect("a stream");
    soon("a cup", pour.next()).await.expect("a cup");
    drop(pour);
    one("its end", &world.shelf.spared).await;
    let who = call(&client, "/rooms/who", json!({}), None).await;
    assert!(who.is_ok(), "the connection goes on: {who:?}");
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_aborted_at_both_ends() {
    let world = World::start().await;
    let client = world.caller().await;
    let hasty = client.clone().timeout(Duration::from_millis(50));
    let answer = soon("a time-out", hasty.call("/rooms/nap", json!({}), None)).await;
    let error = answer.expect_err("nobody wakes it");
    assert_eq!((error.code.as_str(), error.retryable), ("TIMEOUT", true));
    one("its end", &world.shelf.disturbed).await;
}

#[tokio::test]
async fn a_connection_lost_in_the_middle_ends_calls_at_both_ends() {
    let world = World::start().await;
    let theirs = Arc::new(Shelf::default());
    let client = world.callee(&theirs).await;
    let guest = world.guest().await;
    let caller = (*client).clone();
    let ours = tokio::spawn(async move { caller.call("/rooms/nap", json!({}), None).await });
    let back = tokio::spawn(async move { guest.call("/rooms/nap", json!({}), None).await });
    one("a nap", &world.shelf.napping).await;
    one("a nap of the guest's", &theirs.napping).await;
    drop(client);
    one("its end", &world.shelf.disturbed).await;
    one("the end of the guest's", &theirs.disturbed).await;
    for call in [ours, back] {
        let answer = soon("its end", call).await.expect("no panic");
        assert_eq!(
            failure(answer),
            ("INTERNAL".into(), "connection closed".into())
        );
    }
}

#[tokio::test]
async fn a_closing_door_ends_streams_and_lets_answers_finish() {
    let world = World::start().await;
    let client = world.caller().await;
    let input = json!({"count": 1, "then": "wait"});
    let watch = client
        .subscribe("/books/watch", input, token("reader"))
        .await;
    let mut watch = watch.expect("a stream");
    assert_eq!(soon("an output", watch.next()).await, Ok(Some(json!(1))));
    let caller = (*client).clone();
    let nap = tokio::spawn(async move { caller.call("/rooms/nap", json!({}), None).await });
    one("a nap", &world.shelf.napping).await;
    world.shutdown.cancel();
    let ended = soon("its end", watch.next())
        .await
        .expect_err("it is given up");
    assert_eq!(
        (ended.code.as_str(), ended.message.as_str()),
        ("INTERNAL", "aborted")
    );
    let refused = call(&client, "/rooms/who", json!({}), None).await;
    assert!(refused.expect_err("it is leaving").retryable);
    world.shelf.wake.add_permits(1);
    let nap = soon("the nap", nap).await.expect("no panic");
    assert_eq!(nap, Ok(json!("well rested")));
    soon("the door", world.served).await.expect("no panic");
    soon("the connection", client.closed()).await;
}

// ---- What no client of ours says ----

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
    let limits = |limits: &mut RequestLimits| limits.frames_total_bytes = 4 * MIB;
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
async fn a_door_that_does_not_serve_calls_does_not_speak_of_them() {
    let world = World::without_calls().await;
    let client = CallClient::builder(crate::world::anonymous(world.trust()));
    let refused = soon("a refusal", client.connect(world.address, "localhost")).await;
    assert!(refused.is_err());
}
