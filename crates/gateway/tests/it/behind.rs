//! An adapter answers behind a door as it does behind a router, to the byte: who reads the answers
//! cannot tell which way their request went.

use axum::Router;
use axum::routing::get;
use hostler_gateway::{Decoy, DoorLimits};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use serde_json::json;

use crate::world::{Answer, World, call};

const ID: &str = "the-same-for-all";

/// Without what differs from moment to moment, and from door to door.
fn comparable(mut answer: Answer) -> (StatusCode, HeaderMap, bytes::Bytes) {
    for name in ["date", "alt-svc"] {
        answer.headers.remove(name);
    }
    (answer.status, answer.headers, answer.body)
}

/// A request of each kind.
fn requests() -> Vec<Request<Full<bytes::Bytes>>> {
    let book = json!({"title": "Dune"});
    let requests = [
        call("GET", "/healthz", "", None),
        call("HEAD", "/healthz", "", None),
        call("POST", "/healthz", "", None),
        call("GET", "/openapi.json", "reader", None),
        call("GET", "/docs", "", None),
        call("GET", "/v1/books/Dune", "reader", None),
        call("HEAD", "/v1/books/Dune", "reader", None),
        call("GET", "/v1/books/Dune", "", None),
        call("GET", "/v1/books/Dune", "stolen", None),
        call("GET", "/v1/books/D%75ne", "reader", None),
        call("GET", "/v1/books/%zz", "reader", None),
        call("PATCH", "/v1/books/Dune", "reader", None),
        call("POST", "/books/get", "reader", Some(&book)),
        call("POST", "/books/get", "", Some(&book)),
        call("POST", "/books/get", "reader", Some(&json!({"name": 1}))),
        call("GET", "/", "", None),
        call("HEAD", "/nowhere", "", None),
        call("POST", "/nowhere", "", Some(&book)),
        call("OPTIONS", "/v1/books", "", None),
    ];
    let named = requests.into_iter().map(|mut request| {
        let id = ID.parse().expect("a value");
        request.headers_mut().insert("x-request-id", id);
        request
    });
    named.collect()
}

async fn compare(decoy: Decoy) {
    let alone = World::with(DoorLimits::default(), |adapter| {
        adapter.decoy(decoy.clone())
    })
    .await;
    let routed = World::with(DoorLimits::default(), |adapter| {
        let beside = Router::new().route("/elsewhere", get(|| async { "here" }));
        adapter.decoy(decoy).beside(beside)
    })
    .await;
    assert_eq!(&routed.get("", "/elsewhere").await.body[..], b"here");
    for request in requests() {
        let what = format!("{} {}", request.method(), request.uri());
        let one = alone.http1().await.send(request.clone()).await;
        let other = routed.http1().await.send(request.clone()).await;
        assert_eq!(comparable(one), comparable(other), "{what} over HTTP/1.1");
        let one = alone.http2().await.send(request.clone()).await;
        let other = routed.http2().await.send(request.clone()).await;
        assert_eq!(comparable(one), comparable(other), "{what} over HTTP/2");
        let one = alone.http3().await.send(request.clone()).await;
        let other = routed.http3().await.send(request).await;
        assert_eq!(comparable(one), comparable(other), "{what} over HTTP/3");
    }
}

#[tokio::test]
async fn an_adapter_answers_the_same_with_and_without_a_router() {
    compare(Decoy::NotFound).await;
}

#[tokio::test]
async fn answers_without_a_body_are_the_same_too() {
    let elsewhere = url::Url::parse("https://example.org/").expect("an address");
    compare(Decoy::Redirect(elsewhere.clone())).await;
    let decoy = Decoy::Redirect(elsewhere);
    let world = World::with(DoorLimits::default(), |adapter| adapter.decoy(decoy)).await;
    let away = call("GET", "/", "", None);
    for answer in [
        world.http1().await.send(away.clone()).await,
        world.http2().await.send(away.clone()).await,
        world.http3().await.send(away).await,
    ] {
        assert_eq!(answer.status, 302);
        assert_eq!(answer.header("content-length"), Some("0"));
    }
}
