//! The peer for tower services, and the server in the background.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use hostler_identity::{
    Acceptor, Authorizer, Client, ClientError, PeerIdentity, RequirePeer, Server, WithPeer,
    server_config,
};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::{Layer, ServiceExt};

use crate::certs::Ca;
use crate::support::{soon, source};

fn plain() -> Router {
    Router::new().route("/", get(|| async { "reached" }))
}

#[tokio::test]
async fn a_layer_refuses_every_request_without_a_peer() {
    let guarded = plain().layer(RequirePeer);
    let mut request = Request::get("/").body(Body::empty()).unwrap();
    // No header makes a peer.
    for name in ["x-forwarded-client-cert", "x-spiffe-id"] {
        let value = "spiffe://a.example/web".parse().unwrap();
        request.headers_mut().insert(name, value);
    }
    let refused = guarded.oneshot(request).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        text,
        "this address needs a client certificate with a SPIFFE ID\n"
    );
}

#[tokio::test]
async fn an_acceptor_of_ones_own_and_the_layers_make_a_server() {
    let ca = Ca::new("a.example");
    let ((api, _a), (web, _w)) = (source(&ca, "/api"), source(&ca, "/web"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let acceptor = Acceptor::new(server_config(&api, Authorizer::any()));
    let app = Router::new().route(
        "/",
        get(|request: Request<Body>| async move {
            PeerIdentity::of(&request).unwrap().path().to_owned()
        }),
    );
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let (tls, peer) = acceptor.accept(tcp).await.unwrap();
        let service = WithPeer::new(peer).layer(RequirePeer.layer(app));
        auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(tls), TowerToHyperService::new(service))
            .await
    });
    let answer = soon(Client::new(&web, Authorizer::any()).get(&url)).await;
    assert_eq!(answer.unwrap().body(), "/web");
    server.abort();
}

#[tokio::test]
async fn a_server_starts_in_the_background_and_stops_when_told() {
    let ca = Ca::new("a.example");
    let ((api, _a), (web, _w)) = (source(&ca, "/api"), source(&ca, "/web"));
    let server = Server::bind("127.0.0.1:0", &api, Authorizer::any())
        .await
        .unwrap();
    let running = server.start(plain()).unwrap();
    let url = format!("https://{}/", running.local_addr());
    let client = Client::new(&web, Authorizer::any());
    assert_eq!(soon(client.get(&url)).await.unwrap().body(), "reached");
    assert_eq!(running.health_addr(), None);
    soon(running.stop()).await;
    let gone = soon(Client::new(&web, Authorizer::any()).get(&url)).await;
    assert!(matches!(gone, Err(ClientError::Connect { .. })), "{gone:?}");
}

/// An application that never answers, and says when it was asked.
fn endless() -> (Router, Arc<Semaphore>) {
    let begun = Arc::new(Semaphore::new(0));
    let asked = begun.clone();
    let never = get(|| async move {
        asked.add_permits(1);
        std::future::pending::<&str>().await
    });
    (Router::new().route("/", never), begun)
}

#[tokio::test]
async fn closing_a_server_cuts_what_is_in_flight() {
    let ca = Ca::new("a.example");
    let ((api, _a), (web, _w)) = (source(&ca, "/api"), source(&ca, "/web"));
    let (app, begun) = endless();
    let server = Server::bind("127.0.0.1:0", &api, Authorizer::any())
        .await
        .unwrap();
    let running = server.start(app).unwrap();
    let url = format!("https://{}/", running.local_addr());
    let client = Client::new(&web, Authorizer::any());
    let request = tokio::spawn(async move { client.get(&url).await });
    soon(begun.acquire()).await.unwrap().forget();
    running.close();
    let cut = soon(request).await.unwrap().unwrap_err();
    assert!(matches!(cut, ClientError::Exchange { .. }), "{cut:?}");
}

#[tokio::test]
async fn a_request_that_outlasts_the_grace_is_cut() {
    let ca = Ca::new("a.example");
    let ((api, _a), (web, _w)) = (source(&ca, "/api"), source(&ca, "/web"));
    let (app, begun) = endless();
    let server = Server::bind("127.0.0.1:0", &api, Authorizer::any())
        .await
        .unwrap();
    let server = server.with_grace(Duration::from_millis(50));
    let running = server.start(app).unwrap();
    let url = format!("https://{}/", running.local_addr());
    let client = Client::new(&web, Authorizer::any());
    let request = tokio::spawn(async move { client.get(&url).await });
    soon(begun.acquire()).await.unwrap().forget();
    soon(running.stop()).await;
    assert!(soon(request).await.unwrap().is_err());
}

/// The status line and the body of an answer over plain HTTP.
async fn probe(address: std::net::SocketAddr, request: &str) -> (String, String) {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n");
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon(tcp.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn a_probe_without_an_identity_learns_whether_we_serve_and_nothing_else() {
    let ca = Ca::new("a.example");
    let (api, writer) = source(&ca, "/api");
    let server = Server::bind("127.0.0.1:0", &api, Authorizer::any())
        .await
        .unwrap();
    assert_eq!(
        server.health_addr().unwrap(),
        None,
        "it is there only when asked for"
    );
    let server = server.with_health("127.0.0.1:0").await.unwrap();
    let running = server.start(plain()).unwrap();
    let address = running.health_addr().unwrap();
    let ok = ("HTTP/1.1 200 OK".to_owned(), "ok".to_owned());
    assert_eq!(probe(address, "GET /healthz").await, ok);
    let (status, _) = probe(address, "GET /").await;
    assert_eq!(
        status, "HTTP/1.1 404 Not Found",
        "the application is not there"
    );
    let (status, _) = probe(address, "POST /healthz").await;
    assert_eq!(status, "HTTP/1.1 405 Method Not Allowed");

    writer.withdraw();
    let unwell = (
        "HTTP/1.1 503 Service Unavailable".to_owned(),
        "unavailable".to_owned(),
    );
    assert_eq!(probe(address, "GET /healthz").await, unwell);
    writer.replace(ca.svid("/api"), ca.bundles());
    assert_eq!(probe(address, "GET /healthz").await, ok);
    soon(running.stop()).await;
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
}

#[tokio::test]
async fn a_probe_is_told_that_a_server_is_stopping() {
    let ca = Ca::new("a.example");
    let ((api, _a), (web, _w)) = (source(&ca, "/api"), source(&ca, "/web"));
    let (app, begun) = endless();
    let server = Server::bind("127.0.0.1:0", &api, Authorizer::any())
        .await
        .unwrap();
    let running = server.with_health("127.0.0.1:0").await.unwrap();
    let running = running.start(app).unwrap();
    let url = format!("https://{}/", running.local_addr());
    let client = Client::new(&web, Authorizer::any());
    let in_flight = tokio::spawn(async move { client.get(&url).await });
    soon(begun.acquire()).await.unwrap().forget();
    let address = running.health_addr().unwrap();
    assert_eq!(probe(address, "GET /healthz").await.1, "ok");
    let stopped = tokio::spawn(running.stop());
    soon(async { while probe(address, "GET /healthz").await.1 != "unavailable" {} }).await;
    // With its last request gone, the server ends before its grace does.
    in_flight.abort();
    soon(stopped).await.unwrap();
}
