//! Renewal under traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use hostler_identity::{Authorizer, Source, client_config};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::certs::{Ca, bundles};
use crate::support::{Running, connect, soon, source};

/// Opens one HTTP/2 connection and keeps it: what is sent through the handle goes over this one.
async fn one_connection(
    running: &Running,
    client: &Source,
) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let tls = connect(running.address, client_config(client, Authorizer::any()))
        .await
        .unwrap();
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (handle, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
            .await
            .unwrap();
    tokio::spawn(connection);
    handle
}

async fn request(
    handle: &mut hyper::client::conn::http2::SendRequest<Empty<Bytes>>,
) -> Result<Bytes, hyper::Error> {
    let request = Request::get("https://server/").body(Empty::new()).unwrap();
    let answer = handle.send_request(request).await?;
    assert_eq!(answer.status(), 200);
    Ok(answer.into_body().collect().await?.to_bytes())
}

/// The leaf that the server presents in a fresh handshake.
async fn presented(running: &Running, client: &Source) -> Vec<u8> {
    let config = client_config(client, Authorizer::any());
    let tls = soon(connect(running.address, config)).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_renewed_identity_is_presented_by_the_next_handshake() {
    let ca = Ca::new("a.example");
    let ((server, writer), (client, _c)) = (source(&ca, "/api"), source(&ca, "/web"));
    let running = Running::new(&server, Authorizer::any()).await;
    for _ in 0..3 {
        let fresh = ca.svid("/api");
        assert!(writer.replace_svid(fresh.clone()));
        assert_eq!(
            presented(&running, &client).await,
            fresh.chain()[0].to_vec()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotation_drops_no_request_and_fails_no_handshake() {
    let ca = Ca::new("a.example");
    let ((server, server_writer), (client, client_writer)) =
        (source(&ca, "/api"), source(&ca, "/web"));
    let running = Arc::new(Running::new(&server, Authorizer::any()).await);
    let (done, answered, shaken) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );

    let mut handle = one_connection(&running, &client).await;
    let traffic = tokio::spawn({
        let (done, answered) = (done.clone(), answered.clone());
        async move {
            while !done.load(Ordering::Relaxed) {
                request(&mut handle)
                    .await
                    .expect("no request fails over a rotation");
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let handshakes = tokio::spawn({
        let (done, shaken, running, client) = (
            done.clone(),
            shaken.clone(),
            running.clone(),
            client.clone(),
        );
        async move {
            while !done.load(Ordering::Relaxed) {
                let mut handle = one_connection(&running, &client).await;
                request(&mut handle)
                    .await
                    .expect("no handshake fails over a rotation");
                shaken.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut rotations = 0;
    soon(async {
        // At least 100 rotations, and until both kinds of traffic have had their share of them.
        while rotations < 100
            || answered.load(Ordering::Relaxed) < 100
            || shaken.load(Ordering::Relaxed) < 20
        {
            assert!(server_writer.replace_svid(ca.svid("/api")));
            assert!(client_writer.replace_svid(ca.svid("/web")));
            rotations += 1;
            tokio::task::yield_now().await;
            assert!(!traffic.is_finished() && !handshakes.is_finished());
        }
    })
    .await;
    done.store(true, Ordering::Relaxed);
    soon(traffic).await.unwrap();
    soon(handshakes).await.unwrap();
}

#[tokio::test]
async fn a_connection_outlives_the_withdrawal_of_the_identity_that_opened_it() {
    let ca = Ca::new("a.example");
    let ((server, writer), (client, _c)) = (source(&ca, "/api"), source(&ca, "/web"));
    let running = Running::new(&server, Authorizer::any()).await;
    let mut handle = one_connection(&running, &client).await;
    assert_eq!(
        request(&mut handle).await.unwrap(),
        "spiffe://a.example/web"
    );
    writer.withdraw();
    assert_eq!(
        request(&mut handle).await.unwrap(),
        "spiffe://a.example/web"
    );
    let config = client_config(&client, Authorizer::any());
    assert!(
        connect(running.address, config).await.is_err(),
        "a new handshake does not"
    );
}

#[tokio::test]
async fn a_root_taken_out_of_the_bundle_is_not_trusted_by_the_next_handshake() {
    let (old, new) = (Ca::new("a.example"), Ca::new("a.example"));
    let (server, writer) = source(&old, "/api");
    let (client, _c) = Source::memory(old.svid("/web"), old.bundles());
    let running = Running::new(&server, Authorizer::any()).await;
    let mut before = one_connection(&running, &client).await;
    assert!(request(&mut before).await.is_ok());
    assert!(writer.replace_bundles(new.bundles()));
    // In TLS 1.3 the client learns of the server's verdict with its first read.
    let config = client_config(&client, Authorizer::any());
    assert!(
        crate::support::attempt(running.address, config)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn with_both_roots_in_the_bundle_either_generation_is_recognised() {
    let (old, new) = (Ca::new("a.example"), Ca::new("a.example"));
    let mut both = bundles([&old]);
    both.insert(
        old.trust_domain.clone(),
        vec![old.certificate.clone(), new.certificate.clone()],
    )
    .unwrap();
    let (server, _s) = Source::memory(new.svid("/api"), both.clone());
    let running = Running::new(&server, Authorizer::any()).await;
    for ca in [&old, &new] {
        let (client, _c) = Source::memory(ca.svid("/web"), both.clone());
        let mut handle = one_connection(&running, &client).await;
        assert_eq!(
            request(&mut handle).await.unwrap(),
            "spiffe://a.example/web"
        );
    }
}
