//! How often somebody may ask, and how many connections one address has.

use std::time::Duration;

use hostler_gateway::{CallClient, DoorLimits, RequestLimits};
use hostler_identity::Authorizer;
use hostler_operations::rate::Rate;
use rustls::RootCertStore;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::calls::token;
use crate::door::{Ca, uri};
use crate::world::{Answer, World, call, soon};

/// So many, and no more before the test is over.
const fn only(number: u32) -> Option<Rate> {
    Some(Rate::new(number, Duration::from_secs(3600)))
}

async fn limited(configure: impl FnOnce(&mut RequestLimits)) -> World {
    World::limited(configure, |_| {}).await
}

/// What a stranger is told, less the id of the request.
fn told(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().map(|(name, value)| {
        let value = value.to_str().expect("ASCII").to_owned();
        (name.to_string(), value)
    });
    let changing = ["x-request-id", "date"];
    let headers = headers.filter(|(name, _)| !changing.contains(&name.as_str()));
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    (answer.status.as_u16(), headers.collect(), body)
}

#[tokio::test]
async fn a_stranger_is_slowed_down_and_told_the_same_whatever_the_path() {
    let world = limited(|limits| limits.strangers = only(5)).await;
    // Guesses at paths and at tokens count alike.
    for (bearer, path) in [
        ("", "/nothing"),
        ("", "/v1/books"),
        ("guess", "/v1/books"),
        ("", "/healthz"),
        ("another-guess", "/books/list"),
    ] {
        assert_ne!(world.get(bearer, path).await.status, 429, "{path}");
    }
    let unknown = world.get("", "/nothing").await;
    assert_eq!(unknown.status, 429);
    let wait = unknown.header("retry-after").expect("a time to wait");
    let wait: u64 = wait.parse().expect("seconds");
    assert!((1..=3600).contains(&wait), "{wait}");
    let unknown = told(&unknown);
    for (bearer, path) in [
        ("", "/v1/books"),
        ("guess", "/books/list"),
        ("", "/openapi.json"),
        ("", "/healthz"),
        // Who is known is not looked up either while somebody guesses from the same place.
        ("reader", "/v1/books"),
    ] {
        let (status, mut headers, body) = told(&world.get(bearer, path).await);
        let at = |headers: &mut Vec<(String, String)>| {
            let at = headers.iter().position(|(name, _)| name == "retry-after");
            headers.remove(at.expect("a time to wait"))
        };
        let mut expected = unknown.clone();
        at(&mut expected.1);
        at(&mut headers);
        assert_eq!((status, headers, body), expected, "{path}");
    }
    assert_eq!(
        world.send(call("HEAD", "/nothing", "", None)).await.body,
        ""
    );
}

#[tokio::test]
async fn a_stranger_who_tries_the_names_of_operations_over_calls_is_slowed_down() {
    let world = limited(|limits| limits.strangers = only(3)).await;
    let client = world.caller().await;
    for n in 0..3 {
        let error = client.call("/no/such", json!({}), None).await;
        assert_eq!(error.expect_err("there is none").code, "NOT_FOUND", "{n}");
    }
    let error = client.call("/no/such", json!({}), None).await;
    assert_eq!(error.expect_err("too many").code, "RATE_LIMITED");
    assert_eq!(world.get("", "/nothing").await.status, 429);
}

#[tokio::test]
async fn who_is_known_is_no_stranger() {
    let world = limited(|limits| limits.strangers = only(2)).await;
    for n in 0..20 {
        assert_eq!(world.get("reader", "/v1/books").await.status, 200, "{n}");
    }
    assert_eq!(
        world.get("", "/nothing").await.status,
        404,
        "nothing was used up"
    );
    let client = world.caller().await;
    for n in 0..20 {
        let who = client.call("/rooms/who", json!({}), token("reader")).await;
        assert_eq!(who.expect("a reader")["subject"], "reader", "{n}");
    }
    assert_eq!(
        world.get("", "/nothing").await.status,
        404,
        "nothing was used up"
    );
}

#[tokio::test]
async fn who_showed_a_certificate_is_no_stranger() {
    let ca = Ca::new(uri("spiffe://shelf.test"));
    let (door, _door_writer) = ca.source("spiffe://shelf.test/door");
    let tls = hostler_identity::server_config(&door, Authorizer::any());
    let mut limits = RequestLimits::default();
    limits.strangers = only(0);
    let world = World::behind(
        &tls,
        RootCertStore::empty(),
        DoorLimits::default(),
        |adapter| adapter.limits(limits),
    )
    .await;
    let (guest, _guest_writer) = ca.source("spiffe://shelf.test/guest/7");
    let tls = hostler_identity::client_config(&guest, Authorizer::any());
    let connecting = CallClient::builder(tls).connect(world.address, "localhost");
    let client = soon("the handshake", connecting)
        .await
        .expect("a handshake");
    let who = client.call("/rooms/who", json!({}), None).await;
    assert_eq!(
        who.expect("a guest")["subject"],
        "spiffe://shelf.test/guest/7"
    );
}

#[tokio::test]
async fn one_caller_who_asks_too_often_is_told_to_wait_and_others_are_not() {
    let world = limited(|limits| limits.callers = only(3)).await;
    for _ in 0..3 {
        assert_eq!(world.get("reader", "/v1/books").await.status, 200);
    }
    for (path, code) in [
        ("/v1/books", "rate_limited"),
        ("/books/list", "RATE_LIMITED"),
    ] {
        let answer = world.get("reader", path).await;
        assert_eq!(answer.failure(), (429, code.to_owned()));
        let error = &answer.json()["error"];
        assert_eq!(error["retryable"], true);
        let wait = error["details"]["retry_after_secs"].to_string();
        assert_eq!(answer.header("retry-after"), Some(wait.as_str()));
    }
    let client = world.caller().await;
    let refused = client.call("/rooms/who", json!({}), token("reader")).await;
    let refused = refused.expect_err("the same caller on another way");
    assert_eq!((&*refused.code, refused.retryable), ("RATE_LIMITED", true));
    let who = client.call("/rooms/who", json!({}), token("writer")).await;
    assert_eq!(who.expect("another caller")["subject"], "writer");
    assert_eq!(world.get("", "/nothing").await.status, 404, "a stranger");
}

#[tokio::test]
async fn a_stranger_who_calls_is_slowed_down_too() {
    let world = limited(|limits| limits.strangers = only(3)).await;
    let client = world.caller().await;
    for guess in [None, token("guess"), token("another-guess")] {
        let answer = client.call("/books/list", json!({}), guess).await;
        assert_eq!(answer.expect_err("nobody is known").code, "FORBIDDEN");
    }
    let refused = client.call("/books/list", json!({}), token("guess")).await;
    let refused = refused.expect_err("too many guesses");
    assert_eq!((&*refused.code, refused.retryable), ("RATE_LIMITED", true));
    assert_eq!(
        world.get("", "/nothing").await.status,
        429,
        "it is one address"
    );
}

#[tokio::test]
async fn an_address_has_no_more_than_its_connections() {
    let few = |limits: &mut DoorLimits| limits.connections_per_address = 2;
    let world = World::limited(|_| {}, few).await;
    let (first, mut second) = (world.http1().await, world.http2().await);
    let mut third = TcpStream::connect(world.address)
        .await
        .expect("the kernel takes it");
    let cut = soon("the end of the third", third.read(&mut [0])).await;
    assert!(matches!(cut, Ok(0) | Err(_)), "{cut:?}");
    let connecting = CallClient::builder(crate::world::anonymous(world.trust()));
    let refused = soon("a refusal", connecting.connect(world.address, "localhost")).await;
    assert!(refused.is_err(), "QUIC counts with them");
    drop(first);
    assert_eq!(
        second
            .send(call("GET", "/v1/books", "reader", None))
            .await
            .status,
        200
    );
    // The place of the first is free as soon as the door has seen that it left.
    let freed = async {
        loop {
            let connecting = CallClient::builder(crate::world::anonymous(world.trust()));
            if connecting.connect(world.address, "localhost").await.is_ok() {
                return;
            }
        }
    };
    soon("a free place", freed).await;
}
