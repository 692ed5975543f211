//! WebTransport sessions for calls: by hand, by aioquic, and from a page in Chromium.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use bytes::{Buf as _, Bytes};
use h3::ext::Protocol;
use hostler_gateway::DoorLimits;
use hostler_operations::protocol::{AuthToken, CallId, Envelope, FrameDecoder, Message, encode};
use http::{Method, Request, StatusCode};
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};

use crate::world::{World, provider, soon};

/// The codes that a session or its streams are ended with: ours, as WebTransport numbers them, and
/// those of WebTransport itself (draft-ietf-webtrans-http3, sections 4.4 and 8.5).
const MALFORMED: u64 = 0x52e4_a40f_a8db + 1;
const SESSION_GONE: VarInt = VarInt::from_u32(0x170d_7b68);
const REJECTED: VarInt = VarInt::from_u32(0x3994_bd84);

/// A connection for HTTP/3 on which sessions are opened by hand. The library is not asked for what
/// the other end opens, so the test can take it.
struct Guest {
    connection: quinn::Connection,
    sender: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    _driver: h3::client::Connection<h3_quinn::Connection, Bytes>,
    _endpoint: quinn::Endpoint,
}

type Connect = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// A session, and the stream that holds it open.
struct Session {
    id: u64,
    connect: Connect,
}

impl Guest {
    async fn arrive(world: &World) -> Self {
        let (endpoint, connection) = world.quic("h3").await;
        let h3 = h3_quinn::Connection::new(connection.clone());
        let (driver, sender) = h3::client::builder()
            .enable_extended_connect(true)
            .enable_datagram(true)
            .build(h3)
            .await
            .expect("a connection");
        Self {
            connection,
            sender,
            _driver: driver,
            _endpoint: endpoint,
        }
    }

    /// Asks for a session, and hands out the answer's status too.
    async fn ask(&mut self, path: &str, token: &str) -> (StatusCode, Session) {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("https://localhost{path}"))
            .extension(Protocol::WEB_TRANSPORT);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(()).expect("a request");
        let mut connect = self.sender.send_request(request).await.expect("a stream");
        let answer = soon("an answer", connect.recv_response())
            .await
            .expect("an answer");
        let id = connect.id().into_inner();
        (answer.status(), Session { id, connect })
    }

    async fn session(&mut self, token: &str) -> Session {
        let (status, session) = self.ask("/call", token).await;
        assert_eq!(status, 200);
        session
    }

    /// A stream of this session's.
    async fn open(&self, session: u64) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.connection.open_bi().await.expect("a stream");
        let head = [&[0x40, 0x41][..], &integer(session)].concat();
        send.write_all(&head).await.expect("it is taken");
        (send, recv)
    }

    /// Calls on a stream of its own.
    async fn call(&self, session: u64, operation: &str, input: Value, token: &str) -> Message {
        let (mut send, mut recv) = self.open(session).await;
        send.write_all(&requested("1", operation, input, token))
            .await
            .expect("it is taken");
        send.finish().expect("it is open");
        envelope(&mut recv).await.expect("an answer").message
    }

    async fn weigh(&self, session: u64, token: &str) -> Message {
        self.call(session, "/rooms/weigh", json!({"text": "abc"}), token)
            .await
    }

    /// An ordinary request beside the sessions.
    async fn healthy(&mut self) -> bool {
        let request = Request::get("https://localhost/healthz");
        let request = request.body(()).expect("a request");
        let mut stream = self.sender.send_request(request).await.expect("a stream");
        stream.finish().await.expect("it is open");
        let answer = soon("an answer", stream.recv_response()).await;
        answer.expect("an answer").status() == 200
    }
}

impl Session {
    /// How the other end closes it: the code, and the words.
    async fn closed(&mut self) -> (u32, String) {
        let mut said = Vec::new();
        while let Some(mut data) = soon("the end of a session", self.connect.recv_data())
            .await
            .expect("a clean end")
        {
            said.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        assert_eq!(
            said[..2],
            [0x68, 0x43],
            "it is no CLOSE_WEBTRANSPORT_SESSION"
        );
        let content = if said[2] < 0x40 {
            &said[3..]
        } else {
            &said[4..]
        };
        let (code, words) = content.split_first_chunk().expect("a code");
        let words = String::from_utf8(words.to_vec()).expect("text");
        (u32::from_be_bytes(*code), words)
    }
}

/// RFC 9000, section 16; small ones are enough here.
fn integer(value: u64) -> Vec<u8> {
    match u8::try_from(value) {
        Ok(small @ ..0x40) => vec![small],
        _ => {
            let value = u16::try_from(value).expect("it is small") | 0x4000;
            value.to_be_bytes().to_vec()
        }
    }
}

fn requested(id: &str, operation: &str, input: Value, token: &str) -> Vec<u8> {
    let message = Message::Requested {
        operation: operation.to_owned(),
        input,
        auth_token: (!token.is_empty()).then(|| AuthToken::new(token)),
    };
    let id = CallId::new(id).expect("an id");
    encode(&Envelope { id, message }).expect("it is small")
}

/// Reads one envelope.
async fn envelope(recv: &mut RecvStream) -> Result<Envelope, ReadError> {
    let mut decoder = FrameDecoder::default();
    loop {
        if let Some(envelope) = decoder.poll().expect("a frame") {
            return Ok(envelope);
        }
        let chunk = soon("an answer", recv.read_chunk(1, true)).await?;
        decoder.push(&chunk.expect("the stream has ended").bytes);
    }
}

async fn one(what: &str, permits: &Semaphore) {
    let permit = soon(what, permits.acquire()).await;
    permit.expect("the shelf stays").forget();
}

fn weighed() -> Message {
    Message::Responded { output: json!(3) }
}

#[tokio::test]
async fn sessions_and_requests_share_a_connection_and_do_not_wait_for_each_other() {
    let world = World::start().await;
    let mut guest = Guest::arrive(&world).await;
    assert!(guest.healthy().await, "CONNECT is not the first");
    let first = guest.session("reader").await;
    // A stream of the first that says nothing, and one that does not even say whose it is.
    let _silent = guest.open(first.id).await;
    let (mut nameless, _) = guest.connection.open_bi().await.expect("a stream");
    nameless.write_all(&[0x40]).await.expect("it is taken");
    let second = guest.session("writer").await;
    assert!(guest.healthy().await);
    for (session, subject) in [(first.id, "reader"), (second.id, "writer")] {
        let answer = guest.call(session, "/rooms/who", json!({}), "").await;
        assert!(
            matches!(&answer, Message::Responded { output } if output["subject"] == subject),
            "{answer:?}"
        );
    }
    // A token that comes with a call goes before the session's.
    let answer = guest
        .call(first.id, "/rooms/who", json!({}), "writer")
        .await;
    assert!(matches!(answer, Message::Responded { output } if output["subject"] == "writer"));
    // A stream that breaks is its own affair.
    let (mut broken, mut answer) = guest.open(first.id).await;
    broken
        .write_all(b"GET / HTTP/1.1")
        .await
        .expect("it is taken");
    let ended = soon("an end", answer.read_chunk(9, true)).await;
    let malformed = VarInt::from_u64(MALFORMED).expect("62 bits");
    assert_eq!(ended.err(), Some(ReadError::Reset(malformed)));
    drop(first);
    assert_eq!(guest.weigh(second.id, "").await, weighed());
    assert!(guest.healthy().await);
}

#[tokio::test]
async fn whoever_leaves_is_noticed_at_once() {
    let world = World::start().await;
    let mut guest = Guest::arrive(&world).await;
    let stays = guest.session("reader").await;
    for how in ["a capsule", "the end", "a reset"] {
        let mut leaves = guest.session("reader").await;
        let (mut send, mut recv) = guest.open(leaves.id).await;
        let nap = requested("nap", "/rooms/nap", json!({}), "");
        send.write_all(&nap).await.expect("it is taken");
        one("a nap", &world.shelf.napping).await;
        match how {
            "a capsule" => {
                // Unknown ones before it are skipped.
                let capsules = [&[0x17, 2, 1, 2, 0x68, 0x43, 4][..], &[0; 4]].concat();
                let sent = leaves.connect.send_data(capsules.into()).await;
                sent.expect("it is taken");
            }
            "the end" => leaves.connect.finish().await.expect("it is open"),
            _ => leaves
                .connect
                .stop_stream(h3::error::Code::H3_REQUEST_CANCELLED),
        }
        one(how, &world.shelf.disturbed).await;
        let ended = soon("an end", recv.read_chunk(9, true)).await;
        assert_eq!(ended.err(), Some(ReadError::Reset(SESSION_GONE)), "{how}");
        assert_eq!(guest.weigh(stays.id, "").await, weighed());
    }
}

#[tokio::test]
async fn whoever_has_shown_nothing_says_in_the_first_frame_who_is_there() {
    let world = World::start().await;
    let mut guest = Guest::arrive(&world).await;
    let session = guest.session("").await;
    // What comes at the same time waits for the first to be looked into.
    assert_eq!(guest.weigh(session.id, "reader").await, weighed());
    let answer = guest.call(session.id, "/rooms/who", json!({}), "").await;
    assert!(matches!(answer, Message::Responded { output } if output["subject"] == "reader"));

    for token in ["", "stolen", "nobody-home"] {
        let mut session = guest.session("").await;
        let (mut send, mut recv) = guest.open(session.id).await;
        let asks = requested("1", "/rooms/weigh", json!({}), token);
        send.write_all(&asks).await.expect("it is taken");
        let (code, words) = session.closed().await;
        assert_eq!(code, 4, "{token:?}");
        assert!(words.contains("auth_token"), "{words}");
        let ended = soon("an end", recv.read_chunk(9, true)).await;
        assert_eq!(
            ended.err(),
            Some(ReadError::Reset(SESSION_GONE)),
            "{token:?}"
        );
    }
    let mut silent = guest.session("").await;
    let begun = std::time::Instant::now();
    assert_eq!(silent.closed().await.0, 4);
    assert!(
        begun.elapsed() > Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    assert!(guest.healthy().await);
}

#[tokio::test]
async fn a_session_is_refused_with_the_status_of_a_request() {
    let world = World::start().await;
    let mut guest = Guest::arrive(&world).await;
    for (path, token, expected) in [
        ("/call", "stolen", 401),
        ("/call", "nobody-home", 503),
        // Nothing tells these from a path of an ordinary request.
        ("/calls", "reader", 404),
        ("/", "", 404),
        ("/rooms/who", "", 405),
    ] {
        let (status, _) = guest.ask(path, token).await;
        assert_eq!(status, expected, "{path} {token}");
    }
    let mut sessions = Vec::new();
    for _ in 0..16 {
        sessions.push(guest.session("reader").await);
    }
    let (status, _) = guest.ask("/call", "reader").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    let mut left = sessions.pop().expect("one of them");
    left.connect.finish().await.expect("it is open");
    let ended = soon("its end", left.connect.recv_data()).await;
    assert!(ended.expect("a clean end").is_none());
    guest.session("reader").await;

    let quiet = World::without_calls().await;
    let mut guest = Guest::arrive(&quiet).await;
    assert_eq!(guest.ask("/call", "reader").await.0, 404);
}

#[tokio::test]
async fn a_stream_may_be_ahead_of_its_session_for_a_while() {
    let world = World::start().await;
    let mut guest = Guest::arrive(&world).await;
    // Ids of streams count in fours, so these are the streams after this one.
    let (mut ahead, mut answer) = guest.connection.open_bi().await.expect("a stream");
    let id = u64::from(ahead.id()) + 4;
    let weigh = requested("1", "/rooms/weigh", json!({"text": "abc"}), "");
    let said = [&[0x40, 0x41][..], &integer(id), &weigh].concat();
    ahead.write_all(&said).await.expect("it is taken");
    let session = guest.session("reader").await;
    assert_eq!(session.id, id);
    let answer = envelope(&mut answer).await.expect("an answer");
    assert_eq!(answer.message, weighed());
    let (_send, mut never) = guest.open(id + 400).await;
    let ended = soon("an end", never.read_chunk(9, true)).await;
    assert_eq!(ended.err(), Some(ReadError::Reset(REJECTED)));
    assert!(guest.healthy().await);
}

#[tokio::test]
async fn a_door_calls_into_a_session() {
    let world = World::start().await;
    let mut guest = Guest::arrive(&world).await;
    let session = guest.session("reader").await;
    let caller = world.guest().await;
    let asked = tokio::spawn(async move { caller.call("/page/title", json!({}), None).await });
    let stream = soon("a stream", guest.connection.accept_bi()).await;
    let (mut send, mut recv) = stream.expect("a stream");
    let mut head = vec![0; 2 + integer(session.id).len()];
    recv.read_exact(&mut head).await.expect("a head");
    assert_eq!(head, [&[0x40, 0x41][..], &integer(session.id)].concat());
    let request = envelope(&mut recv).await.expect("a call");
    assert!(
        matches!(&request.message, Message::Requested { operation, .. } if operation == "/page/title")
    );
    let message = Message::Responded {
        output: json!("Bookshelf"),
    };
    let answer = encode(&Envelope {
        id: request.id,
        message,
    })
    .expect("it is small");
    send.write_all(&answer).await.expect("it is taken");
    let answer = soon("the answer", asked).await.expect("no panic");
    assert_eq!(answer, Ok(json!("Bookshelf")));
}

#[tokio::test]
async fn a_datagram_is_a_frame_that_may_be_lost() {
    let world = World::start().await;
    let mut guest = Guest::arrive(&world).await;
    let (first, second) = (guest.session("reader").await, guest.session("writer").await);
    let send = |session: u64, content: &[u8]| {
        let datagram = [&integer(session / 4), content].concat();
        guest
            .connection
            .send_datagram(datagram.into())
            .expect("it fits");
    };
    // What is none, and what is for nobody, is dropped.
    send(first.id, b"hello");
    send(
        first.id,
        &[&requested("a", "/rooms/who", json!({}), "")[..], b"more"].concat(),
    );
    send(40_000, &requested("b", "/rooms/who", json!({}), ""));
    for (session, subject) in [(&first, "reader"), (&second, "writer")] {
        send(session.id, &requested("who", "/rooms/who", json!({}), ""));
        let datagram = soon("a datagram", guest.connection.read_datagram()).await;
        let datagram = datagram.expect("a datagram");
        let quarter = integer(session.id / 4);
        let content = datagram
            .strip_prefix(&quarter[..])
            .expect("the session's id");
        let mut decoder = FrameDecoder::default();
        decoder.push(content);
        let answer = decoder.poll().expect("a frame").expect("a whole one");
        assert!(
            matches!(&answer.message, Message::Responded { output } if output["subject"] == subject),
            "{answer:?}"
        );
    }
    // An answer that is too large for a datagram comes on a stream.
    send(
        first.id,
        &requested("large", "/rooms/print", json!({"bytes": 5000}), ""),
    );
    let (_, mut recv) = soon("a stream", guest.connection.accept_bi())
        .await
        .expect("a stream");
    recv.read_exact(&mut vec![0; 2 + integer(first.id).len()])
        .await
        .expect("a head");
    let answer = envelope(&mut recv).await.expect("an answer");
    assert_eq!(answer.id.as_str(), "large");
}

#[tokio::test]
async fn a_closing_door_lets_calls_finish_and_closes_sessions() {
    let world = World::start().await;
    let mut guest = Guest::arrive(&world).await;
    let mut session = guest.session("reader").await;
    let (mut send, mut recv) = guest.open(session.id).await;
    let watch = requested(
        "watch",
        "/books/watch",
        json!({"count": 1, "then": "wait"}),
        "",
    );
    send.write_all(&watch).await.expect("it is taken");
    let output = envelope(&mut recv).await.expect("an output");
    assert_eq!(output.message, Message::Responded { output: json!(1) });
    let (mut send, mut nap) = guest.open(session.id).await;
    let napping = requested("nap", "/rooms/nap", json!({}), "");
    send.write_all(&napping).await.expect("it is taken");
    one("a nap", &world.shelf.napping).await;
    world.shutdown.cancel();
    let ended = envelope(&mut recv).await.expect("its end");
    assert_eq!(ended.message, Message::Aborted);
    world.shelf.wake.add_permits(1);
    let rested = envelope(&mut nap).await.expect("an answer");
    assert_eq!(
        rested.message,
        Message::Responded {
            output: json!("well rested")
        }
    );
    assert_eq!(session.closed().await, (0, String::new()));
    soon("the door", world.served).await.expect("no panic");
}

// ---- Peers that nobody here wrote ----

#[tokio::test]
async fn aioquic_calls_and_is_called() {
    let world = World::start().await;
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = Command::new(here.join("../../scripts/python-peers"))
        .arg(here.join("tests/webtransport/requirements.txt"))
        .stderr(Stdio::inherit())
        .output();
    let made = made.await.expect("it runs");
    assert!(made.status.success(), "no Python peers; why is said above");
    let python = String::from_utf8(made.stdout).expect("text");
    let session = Command::new(python.trim())
        .arg(here.join("tests/webtransport/session.py"))
        .arg(world.address.port().to_string())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let calling = async {
        // The script's first session is a program's, which is called.
        let guest = world.guest().await;
        let title = soon(
            "an answer",
            guest.call("/page/title", json!({"n": 1}), None),
        )
        .await;
        assert_eq!(title, Ok(json!("aioquic")));
        one("a nap", &world.shelf.napping).await;
        // The script closes that session and keeps its connection.
        one("its end", &world.shelf.disturbed).await;
    };
    let (output, ()) = soon("aioquic", async { tokio::join!(session, calling) }).await;
    let output = output.expect("it runs");
    let (said, broke) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "{said}\n{broke}");
    assert_eq!(said.lines().last(), Some("all is well"), "{said}\n{broke}");
}

/// A certificate as browsers want to have it when they are told its hash: for P-256, and for two
/// weeks at most.
fn short_lived() -> (ServerConfig, CertificateDer<'static>) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_before = OffsetDateTime::now_utc() - time::Duration::hours(1);
    params.not_after = params.not_before + time::Duration::days(10);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("a certificate");
    let certificate = certificate.der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("a key that fits");
    (config, certificate)
}

#[tokio::test]
async fn a_page_in_chromium_calls_and_is_called_and_its_end_is_noticed() {
    let (tls, certificate) = short_lived();
    let no_roots = RootCertStore::empty();
    let world = World::behind(&tls, no_roots, DoorLimits::default(), |adapter| adapter).await;
    let world = Arc::new(world);
    let (report, mut reports) = mpsc::unbounded_channel::<Value>();
    let (at_the_door, napping) = (Arc::clone(&world), Arc::clone(&world));
    // The page comes from a server of the test's, tells it what it found, and asks it for help.
    let site = Router::new()
        .route(
            "/",
            get(async || axum::response::Html(include_str!("../webtransport/page.html"))),
        )
        .route(
            "/frame",
            get(async || axum::response::Html(include_str!("../webtransport/frame.html"))),
        )
        .route(
            "/calls.js",
            get(async || {
                let script = include_str!("../webtransport/calls.js");
                ([("content-type", "text/javascript")], script)
            }),
        )
        .route("/certificate", get(async move || certificate.to_vec()))
        .route(
            "/port",
            get({
                let port = world.address.port();
                async move || port.to_string()
            }),
        )
        .route(
            "/call-me",
            post(async move || {
                let guest = at_the_door.guest().await;
                let answer = soon("the page", guest.call("/page/title", json!({}), None)).await;
                axum::Json(answer.expect("an answer"))
            }),
        )
        .route(
            "/napping",
            post(async move || one("a nap", &napping.shelf.napping).await),
        )
        .route(
            "/report",
            post(async move |axum::Json(said): axum::Json<Value>| {
                let _ = report.send(said);
            }),
        );
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("an address");
    let served = tokio::spawn(axum::serve(listener, site).into_future());
    let profile = tempfile::tempdir().expect("a directory");
    let mut browser = Command::new("chromium")
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{address}/"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("Debian's chromium");
    let said = soon("the page", reports.recv()).await.expect("a report");
    assert_eq!(said, json!({"well": true}), "{said:#}");
    // The page has removed the frame that took the nap, and with it its session. A browser that only
    // falls silent would be noticed after half a minute.
    let removed = std::time::Instant::now();
    one("the nap's end", &world.shelf.disturbed).await;
    assert!(
        removed.elapsed() < Duration::from_secs(5),
        "{:?}",
        removed.elapsed()
    );
    browser.kill().await.expect("it runs");
    served.abort();
}
