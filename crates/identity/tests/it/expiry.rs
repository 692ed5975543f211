//! Connections and the certificates that they began with.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use hostler_identity::{Authorizer, Client, PeerIdentity, Source, Svid, client_config};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::{SignedDuration, Timestamp};

use crate::certs::Ca;
use crate::support::{Running, connect, soon, source};

/// An SVID that has so long to live.
fn brief(ca: &Ca, path: &str, seconds: i64) -> Svid {
    let back_dated = SignedDuration::from_secs(-30);
    ca.svid_between(path, back_dated, SignedDuration::from_secs(seconds))
}

/// One connection that is kept, whatever HTTP it speaks.
enum Kept {
    Http1(hyper::client::conn::http1::SendRequest<Empty<Bytes>>),
    Http2(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Kept {
    async fn new(address: SocketAddr, client: &Source, protocol: &[u8]) -> Self {
        let mut config = client_config(client, Authorizer::any());
        config.alpn_protocols = vec![protocol.to_vec()];
        let io = TokioIo::new(connect(address, config).await.unwrap());
        if protocol == b"h2" {
            let (handle, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                    .await
                    .unwrap();
            tokio::spawn(connection);
            return Self::Http2(handle);
        }
        let (handle, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Self::Http1(handle)
    }

    async fn get(&mut self, path: &str) -> Result<Bytes, hyper::Error> {
        let request = Request::get(format!("https://server{path}"))
            .header("host", "server")
            .body(Empty::new())
            .unwrap();
        let answer = match self {
            Self::Http1(handle) => {
                handle.ready().await?;
                handle.send_request(request).await?
            }
            Self::Http2(handle) => {
                handle.ready().await?;
                handle.send_request(request).await?
            }
        };
        Ok(answer.into_body().collect().await?.to_bytes())
    }
}

#[tokio::test]
async fn a_connection_is_closed_before_a_certificate_expires_that_it_began_with() {
    let ca = Ca::new("a.example");
    let cases = [("theirs", b"h2"), ("ours", b"h2")].map(|(whose, h2)| (whose, &h2[..]));
    let cases = cases
        .into_iter()
        .chain(["theirs", "ours"].map(|whose| (whose, &b"http/1.1"[..])));
    let runs = cases.map(|(whose, protocol)| {
        let (long, brief) = (ca.svid("/x"), brief(&ca, "/x", 4));
        let end = brief.not_after();
        let (theirs, ours) = match whose {
            "theirs" => (brief, long.clone()),
            _ => (long.clone(), brief),
        };
        let ((server, sw), (client, cw)) = (
            Source::memory(ours, ca.bundles()),
            Source::memory(theirs, ca.bundles()),
        );
        async move {
            let running = Running::new(&server, Authorizer::any()).await;
            let mut kept = Kept::new(running.address, &client, protocol).await;
            // Both ends renew in time, which is of no use to the connection that there is.
            assert!(sw.replace_svid(long.clone()) && cw.replace_svid(long));
            let mut answered = 0;
            while kept.get("/").await.is_ok() {
                answered += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let now = Timestamp::now();
            assert!(answered > 0, "{whose} {protocol:?}");
            assert!(now < end, "{whose} {protocol:?}: {now} and {end}");
            let mut again = Kept::new(running.address, &client, protocol).await;
            assert!(again.get("/").await.is_ok(), "{whose} {protocol:?}");
        }
    });
    soon(futures::future::join_all(runs)).await;
}

#[tokio::test]
async fn what_is_in_flight_has_until_the_certificate_expires() {
    let ca = Ca::new("a.example");
    let (server, _s) = source(&ca, "/api");
    let brief = brief(&ca, "/web", 10);
    let end = brief.not_after();
    let (client, _c) = Source::memory(brief, ca.bundles());
    // Within the last tenth of the certificate's life, in which the connection is closed politely.
    let almost = get(move || async move {
        let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::time::sleep(left.saturating_sub(Duration::from_millis(700))).await;
        "finished"
    });
    let never = get(std::future::pending::<&str>);
    let app = Router::new()
        .route("/almost", almost)
        .route("/never", never);
    let running = Running::with_app(&server, Authorizer::any(), app).await;
    let [mut one, mut other] = [
        Kept::new(running.address, &client, b"h2").await,
        Kept::new(running.address, &client, b"h2").await,
    ];
    let (finished, cut) = tokio::join!(one.get("/almost"), other.get("/never"));
    assert_eq!(finished.unwrap(), "finished");
    assert!(cut.is_err(), "it is not served for ever");
    assert!(Timestamp::now() >= end);
}

#[tokio::test]
async fn a_client_goes_on_over_new_connections_and_loses_no_request() {
    let ca = Ca::new("a.example");
    let ((server, sw), (client, cw)) = (
        Source::memory(brief(&ca, "/api", 4), ca.bundles()),
        Source::memory(brief(&ca, "/web", 4), ca.bundles()),
    );
    // Each handshake has a certificate of its own, so these tell connections apart.
    let seen: Arc<Mutex<BTreeSet<Timestamp>>> = Arc::default();
    let app = Router::new().route("/", {
        let seen = Arc::clone(&seen);
        get(move |peer: PeerIdentity| async move {
            seen.lock().unwrap().insert(peer.expires_at());
        })
    });
    let running = Running::with_app(&server, Authorizer::any(), app).await;
    let client = Client::new(&client, Authorizer::any());
    soon(async {
        while seen.lock().unwrap().len() < 3 {
            assert!(
                sw.replace_svid(brief(&ca, "/api", 4)) && cw.replace_svid(brief(&ca, "/web", 4))
            );
            let answer = client.get(&running.url("/")).await;
            assert_eq!(answer.expect("no request fails").status(), 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
