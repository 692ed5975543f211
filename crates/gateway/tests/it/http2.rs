//! HTTP/2 as its peers see it who speak it frame by frame: what comes of a stream that is reset, of a
//! window that stays shut, and of a peer that says nothing any more.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use h2::Reason;
use h2::client::{Builder, SendRequest};
use hostler_gateway::{Door, DoorLimits};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::hostile::{frame, frames};
use crate::world::{World, anonymous, call, self_signed, soon, tls_to};

/// Any free port.
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

const MIB: usize = 1 << 20;

/// A client, and the task that drives its connection.
type Client = (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>);

async fn connect(world: &World, builder: &Builder) -> Client {
    let tls = world.tls(&["h2"]).await;
    let (client, connection) = builder.handshake(tls).await.expect("a handshake");
    (client, tokio::spawn(connection))
}

fn ask(path: &str) -> Request<()> {
    let uri = format!("https://localhost{path}");
    Request::get(uri).body(()).expect("a request")
}

async fn still_answers(client: &mut SendRequest<Bytes>, path: &str) {
    let (answer, _) = client.send_request(ask(path), true).expect("sent");
    let head = soon("a head", answer).await.expect("a head");
    assert_eq!(head.status(), StatusCode::OK);
}

async fn stumble() -> &'static str {
    panic!("a handler that panics at once")
}

async fn stumble_later() -> &'static str {
    tokio::task::yield_now().await;
    panic!("a handler that panics when it is asked again")
}

/// A piece, and when it is time something that is no piece.
fn half(time: Arc<Notify>) -> Body {
    let first = stream::iter([Ok(Bytes::from_static(b"half"))]);
    let second = stream::once(async move {
        time.notified().await;
        Err("it broke")
    });
    Body::from_stream(first.chain(second))
}

/// How long the body was, and a word behind the answer.
async fn weigh(body: Body) -> Body {
    let whole = body.collect().await.expect("a body");
    let trailers = whole.trailers().cloned().unwrap_or_default();
    let length = Bytes::from(whole.to_bytes().len().to_string());
    let frames = [Frame::data(length), Frame::trailers(trailers)];
    let frames = frames.map(Ok::<_, std::convert::Infallible>);
    Body::new(StreamBody::new(stream::iter(frames)))
}

async fn old_fashioned() -> Response {
    let headers = [
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "here"),
        ("te", "gzip"),
        ("keep-alive", "timeout=5"),
        ("kept", "yes"),
    ];
    let mut response = Response::new(Body::from("ok"));
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// With half an answer that breaks when it is time.
async fn world(time: &Arc<Notify>) -> World {
    let time = Arc::clone(time);
    let beside = Router::new()
        .route("/stumble", get(stumble))
        .route("/stumble-later", get(stumble_later))
        .route("/half", get(async move || half(time)))
        .route("/weigh", post(weigh))
        .route("/old", get(old_fashioned));
    World::with(DoorLimits::default(), |adapter| adapter.beside(beside)).await
}

#[tokio::test]
async fn what_goes_wrong_with_a_stream_ends_that_stream_alone() {
    let time = Arc::default();
    let world = world(&time).await;
    let (mut client, _connection) = connect(&world, &Builder::new()).await;
    for path in ["/stumble", "/stumble-later"] {
        let (answer, _) = client.send_request(ask(path), true).expect("sent");
        assert!(soon("its end", answer).await.is_err(), "{path}");
    }
    let (answer, _) = client.send_request(ask("/half"), true).expect("sent");
    let mut body = soon("a head", answer).await.expect("a head").into_body();
    time.notify_one();
    let end = loop {
        match soon("its end", body.data()).await {
            Some(Ok(piece)) => assert_eq!(piece, "half"),
            end => break end,
        }
    };
    let reason = end.and_then(|end| end.expect_err("no data").reason());
    assert_eq!(reason, Some(Reason::INTERNAL_ERROR), "it looked whole");
    still_answers(&mut client, "/healthz").await;
}

#[tokio::test]
async fn more_than_a_window_comes_in_and_trailers_go_both_ways() {
    let world = world(&Arc::default()).await;
    let (mut client, _connection) = connect(&world, &Builder::new()).await;
    let mut request = ask("/weigh");
    *request.method_mut() = Method::POST;
    let (answer, mut sending) = client.send_request(request, false).expect("sent");
    for _ in 0..5 {
        sending
            .send_data(Bytes::from(vec![b'x'; MIB]), false)
            .expect("sent");
    }
    let trailers = HeaderMap::from_iter([("sum".parse().expect("a name"), HeaderValue::from(5))]);
    sending.send_trailers(trailers.clone()).expect("sent");
    let mut body = soon("a head", answer).await.expect("a head").into_body();
    let length = soon("a length", body.data())
        .await
        .expect("data")
        .expect("it came");
    assert_eq!(length, (5 * MIB).to_string());
    assert!(soon("its end", body.data()).await.is_none());
    let came = soon("trailers", body.trailers()).await.expect("no reset");
    assert_eq!(came, Some(trailers));
}

#[tokio::test]
async fn fields_of_a_connection_stay_with_http_1() {
    let world = world(&Arc::default()).await;
    let mut http1 = world.http1().await;
    let answer = http1.send(call("GET", "/old", "", None)).await;
    assert_eq!(answer.header("keep-alive"), Some("timeout=5"));
    let over_2 = world
        .http2()
        .await
        .send(call("GET", "/old", "", None))
        .await;
    let mut http3 = world.http3().await;
    let over_3 = http3.send(call("GET", "/old", "", None)).await;
    http3.close().await;
    for answer in [over_2, over_3] {
        assert_eq!(
            (answer.status, &answer.body[..]),
            (StatusCode::OK, &b"ok"[..])
        );
        assert_eq!(answer.header("kept"), Some("yes"));
        assert_eq!(
            ["connection", "keep-alive", "x-hop", "te"].map(|name| answer.header(name)),
            [None; 4]
        );
    }
}

#[tokio::test]
async fn nobody_gets_a_tunnel() {
    let (tls, trust) = self_signed();
    let router = Router::new().fallback(async || "come in");
    let door = Door::bind(ANYWHERE, &tls, router, DoorLimits::default());
    let door = door.await.expect("a free port");
    let address = door.local_addr();
    let shutdown = CancellationToken::new();
    let _ends_with_the_test = shutdown.clone().drop_guard();
    tokio::spawn(door.serve(shutdown));
    let tls = tls_to(address, anonymous(trust), &["h2"]).await;
    let (mut client, connection) = h2::client::handshake(tls).await.expect("a handshake");
    tokio::spawn(connection);

    let request = Request::connect("elsewhere:80")
        .body(())
        .expect("a request");
    let (answer, mut sending) = client.send_request(request, false).expect("sent");
    let _ = sending.send_data(Bytes::from_static(b"hello"), false);
    let refused = soon("its end", answer).await.expect_err("no tunnel");
    assert_eq!(refused.reason(), Some(Reason::CONNECT_ERROR));
    still_answers(&mut client, "/").await;
}

#[tokio::test]
async fn a_stream_that_is_reset_disturbs_its_handler() {
    let world = World::start().await;
    let (mut client, _connection) = connect(&world, &Builder::new()).await;
    let request =
        Request::post("https://localhost/rooms/nap").header("content-type", "application/json");
    let request = request.body(()).expect("a request");
    let (answer, mut sending) = client.send_request(request, false).expect("sent");
    let nothing = Bytes::from(json!({}).to_string());
    sending.send_data(nothing, true).expect("sent");
    let nap = soon("a nap", world.shelf.napping.acquire()).await;
    nap.expect("open").forget();
    sending.send_reset(Reason::CANCEL);
    drop(answer);
    let end = soon("its end", world.shelf.disturbed.acquire()).await;
    end.expect("open").forget();
}

#[tokio::test]
async fn a_body_that_is_given_up_is_no_input_whatever_the_reason() {
    let world = World::start().await;
    for reason in [Reason::CANCEL, Reason::NO_ERROR] {
        let (mut client, _connection) = connect(&world, &Builder::new()).await;
        let request = Request::post("https://localhost/rooms/nap")
            .header("content-type", "application/json")
            .header("content-length", "5000");
        let request = request.body(()).expect("a request");
        let (answer, mut sending) = client.send_request(request, false).expect("sent");
        sending
            .send_data(Bytes::from_static(b"{}"), false)
            .expect("sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
        sending.send_reset(reason);
        drop(answer);
        // What it asks afterwards is answered, and nobody naps.
        still_answers(&mut client, "/healthz").await;
        assert_eq!(world.shelf.napping.available_permits(), 0, "{reason}");
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How many PING frames are in these bytes.
fn pings(bytes: &[u8]) -> usize {
    frames(bytes).filter(|(kind, _)| *kind == 6).count()
}

/// How long it takes until this peer, which opens no window but this, is cut off.
async fn shut(world: &World, path: &str, window: u32) -> Duration {
    let mut builder = Builder::new();
    builder.initial_window_size(window);
    let (mut client, connection) = connect(world, &builder).await;
    let (answer, _) = client.send_request(ask(path), true).expect("sent");
    let answer = soon("a head", answer).await.expect("a head");
    let begun = Instant::now();
    let _ended = soon("the cut", connection).await;
    drop(answer);
    begun.elapsed()
}

#[tokio::test]
async fn a_window_that_stays_shut_holds_nothing_for_long() {
    let mut limits = DoorLimits::default();
    (limits.write_time, limits.idle_time) = (Duration::from_millis(300), Duration::from_secs(1));
    let world = World::with(limits.clone(), |adapter| adapter).await;
    // It is being written until the peer takes it.
    for (bytes, window) in [(100_000, 0), (60_000, 1), ((64 << 10) + 500, 1)] {
        let path = format!("/rooms/print?bytes={bytes}");
        let large = shut(&world, &path, window).await;
        assert!(large < Duration::from_secs(3), "{bytes}: {large:?}");
    }
    // What is small is the library's; then it is a connection on which nothing happens.
    let small = shut(&world, "/healthz", 0).await;
    assert!(small >= limits.idle_time, "{small:?}");
}

#[tokio::test]
async fn a_peer_is_asked_whether_it_lives_and_cut_when_it_says_nothing() {
    let mut limits = DoorLimits::default();
    limits.ping_interval = Duration::from_millis(500);
    let world = World::with(limits, |adapter| adapter).await;
    // A client of the library answers by itself.
    let (mut client, _connection) = connect(&world, &Builder::new()).await;
    let mut dumb = world.tls(&["h2"]).await;
    let preface = [PREFACE.to_vec(), frame(4, 0, 0, &[])];
    dumb.write_all(&preface.concat()).await.expect("sent");
    let (begun, mut heard) = (Instant::now(), Vec::new());
    let _ = soon("the cut", dumb.read_to_end(&mut heard)).await;
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(pings(&heard), 1, "it was asked once");
    // Longer than the other had.
    tokio::time::sleep(Duration::from_secs(1)).await;
    still_answers(&mut client, "/healthz").await;
}

#[tokio::test]
async fn a_peer_that_says_something_else_than_the_answer_has_its_time_again() {
    let mut limits = DoorLimits::default();
    limits.ping_interval = Duration::from_millis(800);
    let world = World::with(limits, |adapter| adapter).await;
    let mut dumb = world.tls(&["h2"]).await;
    let preface = [PREFACE.to_vec(), frame(4, 0, 0, &[])];
    dumb.write_all(&preface.concat()).await.expect("sent");
    let mut heard = Vec::new();
    while pings(&heard) == 0 {
        let read = soon("a ping", dumb.read_buf(&mut heard)).await;
        assert_ne!(read.expect("bytes"), 0, "it asks before it cuts");
    }
    let asked = Instant::now();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let more_room = frame(8, 0, 0, &[0, 0, 0, 1]);
    dumb.write_all(&more_room).await.expect("it is not cut yet");
    let _ = soon("the cut", dumb.read_to_end(&mut heard)).await;
    let lived = asked.elapsed();
    assert!(lived >= Duration::from_millis(1200), "{lived:?}");
}

#[tokio::test]
async fn who_asks_much_leaves_others_their_turn() {
    const REQUESTS: usize = 100;
    let done = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&done);
    // It takes its time, and gives none back.
    let slow = get(async move || {
        std::thread::sleep(Duration::from_millis(5));
        counted.fetch_add(1, Ordering::Relaxed);
        "ok"
    });
    let beside = Router::new().route("/slow", slow);
    let world = World::with(DoorLimits::default(), |adapter| adapter.beside(beside)).await;
    let (mut client, _connection) = connect(&world, &Builder::new()).await;
    let mut answers = Vec::new();
    for _ in 0..REQUESTS {
        client = soon("room", client.ready()).await.expect("room");
        answers.push(client.send_request(ask("/slow"), true).expect("sent").0);
    }
    // Somebody else of this thread, who is always ready.
    let mut turns = 0;
    let turns = tokio::spawn(poll_fn(move |cx| {
        cx.waker().wake_by_ref();
        let done = done.load(Ordering::Relaxed);
        turns += usize::from(done > 0);
        if done < REQUESTS {
            Poll::Pending
        } else {
            Poll::Ready(turns)
        }
    }));
    let turns = soon("all of it", turns).await.expect("no panic");
    assert!(turns > 10, "{turns} turns in half a second");
    for answer in answers {
        assert_eq!(
            soon("an answer", answer).await.expect("an answer").status(),
            200
        );
    }
}
