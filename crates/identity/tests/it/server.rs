//! The server, as its handlers and its operator see it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use hostler_identity::{Authorizer, Client, ClientError, PeerIdentity};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::certs::Ca;
use crate::support::{Running, soon, source};

#[tokio::test]
async fn a_handler_learns_everything_about_its_peer() {
    let ca = Ca::new("a.example");
    let ((server, _s), (web, _w)) = (source(&ca, "/api"), source(&ca, "/team/web"));
    let tell = get(|peer: PeerIdentity| async move {
        format!(
            "{} {} {} {}",
            peer.id(),
            peer.trust_domain(),
            peer.path(),
            peer.expires_at()
        )
    });
    let app = Router::new().route("/", tell);
    let running = Running::with_app(&server, Authorizer::any(), app).await;
    let answer = Client::new(&web, Authorizer::any())
        .get(&running.url("/"))
        .await
        .unwrap();
    let expires_at = web.svid_expiry().unwrap();
    let expected = format!("spiffe://a.example/team/web a.example /team/web {expires_at}");
    assert_eq!(answer.body(), expected.as_str());
}

#[tokio::test]
async fn a_handler_that_needs_a_peer_is_not_reached_without_one() {
    let app = Router::new()
        .route("/needs", get(|_: PeerIdentity| async { "reached" }))
        .route(
            "/takes",
            get(|peer: Option<PeerIdentity>| async move { format!("{peer:?}") }),
        );
    let ask = |path: &str| {
        app.clone()
            .oneshot(Request::get(path).body(Body::empty()).unwrap())
    };
    let refused = ask("/needs").await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        text,
        "this address needs a client certificate with a SPIFFE ID\n"
    );
    let taken = ask("/takes")
        .await
        .unwrap()
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(taken, "None");
}

#[tokio::test]
async fn stopping_lets_a_request_in_flight_finish_and_takes_no_new_connection() {
    let ca = Ca::new("a.example");
    let ((server, _s), (web, _w)) = (source(&ca, "/api"), source(&ca, "/web"));
    let (begun, finish) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let slow = get({
        let (begun, finish) = (begun.clone(), finish.clone());
        || async move {
            begun.add_permits(1);
            finish.acquire().await.unwrap().forget();
            "finished"
        }
    });
    let app = Router::new().route("/", slow);
    let running = Running::with_app(&server, Authorizer::any(), app).await;
    let (url, address) = (running.url("/"), running.address);
    let client = Client::new(&web, Authorizer::any());
    let request = tokio::spawn({
        let (client, url) = (client.clone(), url.clone());
        async move { client.get(&url).await }
    });
    soon(begun.acquire()).await.unwrap().forget();
    let stopped = tokio::spawn(running.stop());
    // The listener goes first; poll until it has.
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
    assert!(
        !stopped.is_finished(),
        "the server waits for what is in flight"
    );
    finish.add_permits(1);
    assert_eq!(soon(request).await.unwrap().unwrap().body(), "finished");
    soon(stopped).await.unwrap();
    let gone = Client::new(&web, Authorizer::any())
        .get(&url)
        .await
        .unwrap_err();
    assert!(matches!(gone, ClientError::Connect { .. }), "{gone:?}");
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_in_nobodys_way() {
    let ca = Ca::new("a.example");
    let ((server, _s), (web, _w)) = (source(&ca, "/api"), source(&ca, "/web"));
    let running = Running::new(&server, Authorizer::any()).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(running.address).await.unwrap());
    }
    let answer = soon(Client::new(&web, Authorizer::any()).get(&running.url("/")))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
}
