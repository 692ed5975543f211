//! HTTP/3, and every other way to the same router: the answers are the same.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use hostler_gateway::{DoorLimits, Mcp};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::world::{Answer, Http3, World, call, soon};

/// Sooner than a silent stream says that it lives.
const AT_ONCE: Duration = Duration::from_secs(5);

/// What each answer must be alike in: all of it, but what belongs to the moment or the transport.
fn essence(answer: &Answer) -> (u16, BTreeMap<String, String>, String) {
    let transports = ["date", "connection", "transfer-encoding", "alt-svc"];
    let headers = answer.headers.iter().filter(|(name, value)| {
        let empty = *name == "content-length" && *value == "0";
        !transports.contains(&name.as_str()) && !empty
    });
    let headers = headers.map(|(name, value)| {
        let value = value.to_str().expect("ASCII").to_owned();
        (name.to_string(), value)
    });
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    (answer.status.as_u16(), headers.collect(), body)
}

/// Every route that the document has, with nothing and with something, as three callers; and what
/// is no route at all.
async fn requests(world: &World) -> Vec<Request<Full<Bytes>>> {
    let document = world.get("writer", "/openapi.json").await.json();
    let mut requests = Vec::new();
    let mut ask = |method: &str, path: &str, token: &str, body: Option<&Value>| {
        let mut request = call(method, path, token, body);
        let id = format!("request-{}", requests.len());
        let headers = request.headers_mut();
        headers.insert("x-request-id", id.parse().expect("a value"));
        requests.push(request);
    };
    let book = json!({"title": "Solaris", "pages": 204, "text": "abc"});
    for (path, operations) in document["paths"].as_object().expect("paths") {
        // These do not end by themselves.
        if ["/nap", "/log", "/pour"]
            .iter()
            .any(|end| path.ends_with(end))
        {
            continue;
        }
        let path = path.replace("{title}", "Dune");
        for method in operations.as_object().expect("operations").keys() {
            let method = method.to_uppercase();
            for token in ["", "reader", "writer", "stolen"] {
                ask(&method, &path, token, None);
                ask(&method, &path, token, Some(&book));
            }
            ask(&method, &format!("{path}?limit=1&odd=1"), "writer", None);
        }
        ask("HEAD", &path, "writer", None);
        ask("PATCH", &path, "writer", None);
    }
    for path in [
        "/",
        "/nothing",
        "/books/shred",
        "/v1/books/%ff",
        "/healthz",
        "/mcp",
    ] {
        for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS"] {
            ask(method, path, "writer", None);
        }
    }
    let large = json!({"text": "x".repeat(1 << 20)});
    ask("POST", "/v1/weigh", "", Some(&large));
    let fitting = json!({"text": "x".repeat(900_000)});
    ask("POST", "/v1/weigh", "", Some(&fitting));
    ask(
        "POST",
        "/rooms/print",
        "",
        Some(&json!({"bytes": 3_000_000})),
    );
    requests
}

#[tokio::test]
async fn every_version_of_http_gives_the_same_answers_over_every_transport() {
    // A world each, because what is created in one is there already the next time.
    let world = async || {
        let mcp = Mcp::new(["localhost"]);
        World::with(DoorLimits::default(), |adapter| adapter.mcp(mcp)).await
    };
    let worlds = [
        world().await,
        world().await,
        world().await,
        world().await,
        world().await,
    ];
    let mut http1 = worlds[0].http1().await;
    let mut http2 = worlds[1].http2().await;
    let mut http3: Http3 = worlds[2].http3().await;
    let mut http1_on_a_stream = worlds[3].on_a_stream("http/1.1").await;
    let mut http2_on_a_stream = worlds[4].on_a_stream("h2").await;
    let requests = requests(&worlds[0]).await;
    assert!(requests.len() > 200, "{} requests", requests.len());
    for request in requests {
        let what = format!("{} {}", request.method(), request.uri());
        // Some refusals close a connection of HTTP/1.1.
        let first = match http1.try_send(request.clone()).await {
            Ok(answer) => answer,
            Err(_) => {
                http1 = worlds[0].http1().await;
                http1.send(request.clone()).await
            }
        };
        let first = essence(&first);
        let second = essence(&http2.send(request.clone()).await);
        assert_eq!(first, second, "HTTP/1.1 and HTTP/2: {what}");
        let third = essence(&http3.send(request.clone()).await);
        assert_eq!(first, third, "HTTP/1.1 and HTTP/3: {what}");
        let fourth = match http1_on_a_stream.0.try_send(request.clone()).await {
            Ok(answer) => answer,
            Err(_) => {
                http1_on_a_stream = worlds[3].on_a_stream("http/1.1").await;
                http1_on_a_stream.0.send(request.clone()).await
            }
        };
        assert_eq!(first, essence(&fourth), "HTTP/1.1 on a stream: {what}");
        let fifth = essence(&http2_on_a_stream.0.send(request).await);
        assert_eq!(first, fifth, "HTTP/2 on a stream: {what}");
    }
    http3.close().await;
}

#[tokio::test]
async fn those_who_come_over_tcp_are_told_of_http_3() {
    let world = World::start().await;
    let told = format!("h3=\":{}\"; ma=86400", world.address.port());
    for path in ["/healthz", "/nothing"] {
        assert_eq!(world.get("", path).await.header("alt-svc"), Some(&*told));
    }
    let mut http3 = world.http3().await;
    let answer = http3.send(call("GET", "/healthz", "", None)).await;
    assert_eq!(answer.header("alt-svc"), None);
    assert!(
        answer
            .header("date")
            .is_some_and(|date| date.ends_with(" GMT"))
    );
    http3.close().await;
}

#[tokio::test]
async fn a_connection_that_is_closed_ends_what_it_asked_for() {
    let world = World::start().await;
    let mut http3 = world.http3().await;
    let _asked = http3.begin(call("GET", "/rooms/nap", "", None)).await;
    soon("a nap", world.shelf.napping.acquire())
        .await
        .expect("open")
        .forget();
    http3.close().await;
    soon("its end", world.shelf.disturbed.acquire())
        .await
        .expect("open")
        .forget();
}

#[tokio::test]
async fn a_stream_whose_reader_leaves_ends_at_once_though_it_is_silent() {
    let world = World::start().await;
    let mut http3 = world.http3().await;
    let mut nap = http3.begin(call("GET", "/rooms/nap", "", None)).await;
    let napping = soon("a nap", world.shelf.napping.acquire()).await;
    napping.expect("open").forget();
    nap.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
    let disturbed = tokio::time::timeout(AT_ONCE, world.shelf.disturbed.acquire()).await;
    disturbed.expect("it goes on").expect("open").forget();
    let answer = http3.send(call("GET", "/healthz", "", None)).await;
    assert_eq!(answer.status, 200, "the connection goes on");
    http3.close().await;
}

#[tokio::test]
async fn a_closing_door_ends_streams_and_lets_answers_finish() {
    let world = World::start().await;
    let mut http3 = world.http3().await;
    let mut stream = http3
        .begin(call("GET", "/v1/books/log", "reader", None))
        .await;
    let mut nap = http3.begin(call("GET", "/rooms/nap", "", None)).await;
    soon("a stream", stream.recv_response())
        .await
        .expect("an answer");
    soon("a nap", world.shelf.napping.acquire())
        .await
        .expect("open")
        .forget();
    world.shutdown.cancel();
    while soon("the stream's end", stream.recv_data())
        .await
        .expect("a polite end")
        .is_some()
    {}
    world.shelf.wake.add_permits(1);
    let answer = soon("an answer", nap.recv_response())
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 200);
    while soon("its body", nap.recv_data())
        .await
        .expect("a body")
        .is_some()
    {}
    soon("the door", world.served).await.expect("no panic");
}

#[tokio::test]
async fn a_closing_door_lets_answers_on_a_stream_finish_and_ends_event_streams() {
    for protocol in ["http/1.1", "h2"] {
        let world = World::start().await;
        let (mut events, _connection, _endpoint) = world.on_a_stream(protocol).await;
        let log = call("GET", "/v1/books/log", "reader", None);
        let log = soon("a stream", events.begin(log))
            .await
            .expect("an answer");
        let (mut napper, _connection, _endpoint) = world.on_a_stream(protocol).await;
        let nap = napper.begin(call("GET", "/rooms/nap", "", None));
        let close = async {
            let napping = soon("a nap", world.shelf.napping.acquire()).await;
            napping.expect("open").forget();
            world.shutdown.cancel();
            soon("the stream's end", log.into_body().collect())
                .await
                .expect("a polite end");
            world.shelf.wake.add_permits(1);
        };
        let (nap, ()) = soon("an answer", async { tokio::join!(nap, close) }).await;
        let nap = soon("its body", nap.expect("an answer").into_body().collect()).await;
        assert_eq!(nap.expect("a body").to_bytes(), r#""well rested""#);
        soon("the door", world.served).await.expect("no panic");
    }
}

#[tokio::test]
async fn a_client_that_leaves_its_stream_or_its_connection_ends_what_it_asked_for() {
    let world = World::start().await;
    for leaves in ["the stream", "the connection"] {
        let (_endpoint, connection) = world.quic("http/1.1").await;
        let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
        let nap = b"GET /rooms/nap HTTP/1.1\r\nhost: localhost\r\n\r\n";
        send.write_all(nap).await.expect("it is taken");
        // To say nothing more is not to leave.
        send.finish().expect("it is open");
        let napping = soon("a nap", world.shelf.napping.acquire()).await;
        napping.expect("open").forget();
        match leaves {
            "the stream" => recv.stop(0u32.into()).expect("it is open"),
            _ => connection.close(0u32.into(), b""),
        }
        let disturbed = soon(leaves, world.shelf.disturbed.acquire()).await;
        disturbed.expect("open").forget();
    }
    // A request that is said whole and no more is answered all the same.
    let (_endpoint, connection) = world.quic("http/1.1").await;
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    let healthy = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    send.write_all(healthy).await.expect("it is taken");
    send.finish().expect("it is open");
    let answer = soon("an answer", recv.read_to_end(1 << 16))
        .await
        .expect("an answer");
    assert!(answer.ends_with(b"\r\n\r\nok"), "{answer:?}");
}

#[tokio::test]
async fn a_connection_for_one_stream_has_one() {
    let world = World::start().await;
    let (mut client, connection, _endpoint) = world.on_a_stream("h2").await;
    let answer = client.send(call("GET", "/healthz", "", None)).await;
    assert_eq!(answer.status, 200);
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    // It may be refused before it is written.
    let _ = send.write_all(b"PRI").await;
    let refused = soon("a refusal", send.stopped()).await;
    assert_eq!(refused, Ok(Some(0u32.into())));
    assert!(
        soon("its end", recv.read_to_end(10))
            .await
            .is_ok_and(|rest| rest.is_empty())
    );
    let answer = client.send(call("GET", "/healthz", "", None)).await;
    assert_eq!(answer.status, 200, "the first goes on");
}

#[tokio::test]
async fn early_data_is_not_taken() {
    let world = World::start().await;
    let mut first = world.http3().await;
    first.send(call("GET", "/healthz", "", None)).await;
    let endpoint = first.leave();
    let connecting = endpoint
        .connect(world.address, "localhost")
        .expect("a name");
    assert!(
        connecting.into_0rtt().is_err(),
        "the ticket allowed early data"
    );
}

/// Asks with a client for HTTP/3 that nobody here wrote; what it saw, and the body.
async fn gtlsclient(world: &World, arguments: &[&str], path: &str) -> (String, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let port = world.address.port().to_string();
    let run = Command::new("gtlsclient")
        .args(["--exit-on-all-streams-close", "--no-quic-dump"])
        .arg(format!("--download={}", directory.path().display()))
        .args(arguments)
        .args([
            "127.0.0.1",
            &port,
            &format!("https://localhost:{port}{path}"),
        ])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = soon("gtlsclient", run)
        .await
        .expect("Debian's ngtcp2-client");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut files = std::fs::read_dir(directory.path()).expect("the directory");
    let body = files.next().map_or_else(String::new, |file| {
        std::fs::read_to_string(file.expect("a file").path()).expect("text")
    });
    (said, body)
}

#[tokio::test]
async fn gtlsclient_is_answered_over_a_lossy_path() {
    let world = World::start().await;
    // In a handshake the pauses grow; a few losses one after the other take long.
    let lossy = ["--tx-loss=0.1", "--rx-loss=0.1", "--handshake-timeout=25s"];
    for loss in [&[][..], &lossy] {
        let (said, body) = gtlsclient(&world, loss, "/healthz").await;
        assert_eq!(body, "ok", "{said}");
        let (said, body) = gtlsclient(&world, loss, "/nothing-here").await;
        assert!(said.contains(":status: 404"), "{said}");
        assert!(body.contains("Not Found"), "{body}");
        let (said, body) = gtlsclient(&world, loss, "/v1/books").await;
        assert!(said.contains(":status: 401"), "{said}");
        assert!(body.contains("authentication required"), "{body}");
    }
}
