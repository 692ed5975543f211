//! Who gets in, who does not, and what is shown of ourselves.

use std::sync::Arc;

use hostler_identity::{
    Authorizer, Client, ClientError, PeerRefused, Source, SpiffeId, TrustDomain, Unavailable,
    client_config, crypto_provider, server_config,
};
use jiff::SignedDuration;
use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384};
use rustls::version::{TLS12, TLS13};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::certs::{Ca, bundles};
use crate::support::{Running, attempt, connect, reckless, reckless_with, soon, source};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

#[tokio::test]
async fn members_of_a_trust_domain_recognise_each_other() {
    let ca = Ca::new("a.example");
    let ((server, _s), (client, _c)) = (source(&ca, "/api"), source(&ca, "/web"));
    let running = Running::new(&server, Authorizer::any()).await;
    let client = Client::new(&client, Authorizer::id(id("spiffe://a.example/api")));
    let answer = client.get(&running.url("/")).await.unwrap();
    assert_eq!(answer.body(), "spiffe://a.example/web");
    assert_eq!(answer.version(), http::Version::HTTP_2);
    running.stop().await;
}

#[tokio::test]
async fn a_client_with_another_id_of_the_same_authority_is_refused() {
    let ca = Ca::new("a.example");
    let ((server, _s), (client, _c)) = (source(&ca, "/api"), source(&ca, "/other"));
    let running = Running::new(&server, Authorizer::id(id("spiffe://a.example/web"))).await;
    let client = Client::new(&client, Authorizer::any());
    let refused = client.get(&running.url("/")).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::RefusedByServer { .. }),
        "{refused:?}"
    );
    assert!(!refused.may_have_been_carried_out());
}

#[tokio::test]
async fn a_wrong_server_is_left_before_the_handshake_ends() {
    let ca = Ca::new("a.example");
    let ((server, _s), (client, _c)) = (source(&ca, "/impostor"), source(&ca, "/web"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(server_config(&server, Authorizer::any())));
    let impostor = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        acceptor.accept(tcp).await.map(|_| ())
    });
    let client = Client::new(&client, Authorizer::id(id("spiffe://a.example/api")));
    let refused = client
        .get(&format!("https://{address}/secret"))
        .await
        .unwrap_err();
    let ClientError::WrongServer { refused, .. } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        *refused,
        PeerRefused::NotAuthorized(id("spiffe://a.example/impostor"))
    );
    // The impostor never had a connection on which a request could have come.
    assert!(soon(impostor).await.unwrap().is_err());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let ca = Ca::new("a.example");
    let (server, _s) = source(&ca, "/api");
    let running = Running::new(&server, Authorizer::any()).await;
    assert!(
        attempt(running.address, reckless(None, &[&TLS13]))
            .await
            .is_err()
    );
    // The same client with a certificate shows that nothing else was in the way.
    let known = reckless(Some(ca.raw("/web", |_| {})), &[&TLS13]);
    assert!(
        attempt(running.address, known)
            .await
            .unwrap()
            .starts_with(b"HTTP/1.1 200")
    );
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let ca = Ca::new("a.example");
    let (server, _s) = source(&ca, "/api");
    let running = Running::new(&server, Authorizer::any()).await;
    let old = reckless(Some(ca.raw("/web", |_| {})), &[&TLS12]);
    assert!(attempt(running.address, old).await.is_err());
    let both = reckless(Some(ca.raw("/web", |_| {})), &[&TLS12, &TLS13]);
    assert!(attempt(running.address, both).await.is_ok());
}

#[tokio::test]
async fn a_foreign_trust_domain_is_refused_until_it_is_named() {
    let (ours, theirs) = (Ca::new("a.example"), Ca::new("b.example"));
    let both = bundles([&ours, &theirs]);
    let (server, _s) = Source::memory(ours.svid("/api"), both.clone());
    let (client, _c) = Source::memory(theirs.svid("/web"), both);
    let closed = Running::new(&server, Authorizer::any()).await;
    let foreign = TrustDomain::new("b.example").unwrap();
    let open = Running::new(&server, Authorizer::any().federating_with([foreign])).await;
    let client = Client::new(&client, Authorizer::id(id("spiffe://a.example/api")));
    let refused = client.get(&closed.url("/")).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::RefusedByServer { .. }),
        "{refused:?}"
    );
    assert_eq!(
        client.get(&open.url("/")).await.unwrap().body(),
        "spiffe://b.example/web"
    );
}

#[tokio::test]
async fn a_named_trust_domain_without_a_bundle_is_refused() {
    let (ours, theirs) = (Ca::new("a.example"), Ca::new("b.example"));
    let (server, _s) = Source::memory(theirs.svid("/api"), bundles([&ours, &theirs]));
    let (client, _c) = source(&ours, "/web");
    let running = Running::new(&server, Authorizer::any()).await;
    let foreign = TrustDomain::new("b.example").unwrap();
    let client = Client::new(&client, Authorizer::member_of(foreign.clone()));
    let refused = client.get(&running.url("/")).await.unwrap_err();
    let ClientError::WrongServer { refused, .. } = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(*refused, PeerRefused::NoBundle(foreign));
}

#[tokio::test]
async fn another_domains_authority_cannot_vouch_for_our_members() {
    let (ours, theirs) = (Ca::new("a.example"), Ca::new("b.example"));
    let (server, _s) = Source::memory(ours.svid("/api"), bundles([&ours, &theirs]));
    let foreign = TrustDomain::new("b.example").unwrap();
    let everybody = Authorizer::any().federating_with([foreign]);
    let running = Running::new(&server, everybody).await;
    let forged = theirs.raw("/web", |params| {
        params.subject_alt_names = vec![crate::certs::uri("spiffe://a.example/web")];
    });
    assert!(
        attempt(running.address, reckless(Some(forged), &[&TLS13]))
            .await
            .is_err()
    );
    let honest = theirs.raw("/web", |_| {});
    assert!(
        attempt(running.address, reckless(Some(honest), &[&TLS13]))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn expired_and_premature_clients_are_refused() {
    let ca = Ca::new("a.example");
    let (server, _s) = source(&ca, "/api");
    let running = Running::new(&server, Authorizer::any()).await;
    let at = |from: SignedDuration, until: SignedDuration| {
        let now = jiff::Timestamp::now().as_second();
        let utc = |shift: SignedDuration| {
            time::OffsetDateTime::from_unix_timestamp(now + shift.as_secs()).unwrap()
        };
        ca.raw("/web", |params| {
            (params.not_before, params.not_after) = (utc(from), utc(until))
        })
    };
    let expired = reckless(Some(at(-(MINUTE * 9), -MINUTE)), &[&TLS13]);
    assert!(attempt(running.address, expired).await.is_err());
    let premature = reckless(Some(at(MINUTE, MINUTE * 9)), &[&TLS13]);
    assert!(attempt(running.address, premature).await.is_err());
    let valid = reckless(Some(at(-MINUTE, MINUTE)), &[&TLS13]);
    assert!(attempt(running.address, valid).await.is_ok());
}

/// What a server shows of itself to a client that would take anything.
async fn shown_by(server: &Source) -> Option<Vec<u8>> {
    let running = Running::new(server, Authorizer::any()).await;
    let tls = crate::support::connect(running.address, reckless(None, &[&TLS13]))
        .await
        .ok()?;
    Some(tls.get_ref().1.peer_certificates()?.first()?.to_vec())
}

#[tokio::test]
async fn a_withdrawn_identity_is_not_presented_and_recognises_nobody() {
    let ca = Ca::new("a.example");
    let ((withdrawn, writer), (other, _o)) = (source(&ca, "/api"), source(&ca, "/web"));
    assert!(shown_by(&withdrawn).await.is_some());
    writer.withdraw();
    assert_eq!(withdrawn.id(), Err(Unavailable::Withdrawn));
    assert_eq!(shown_by(&withdrawn).await, None);

    let running = Running::new(&other, Authorizer::any()).await;
    let client = Client::new(&withdrawn, Authorizer::any());
    let refused = client.get(&running.url("/")).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ClientError::NoIdentity {
                unavailable: Unavailable::Withdrawn,
                ..
            }
        ),
        "{refused:?}"
    );
    // It comes back when it is given again.
    writer.replace(ca.svid("/api"), ca.bundles());
    assert_eq!(
        client.get(&running.url("/")).await.unwrap().body(),
        "spiffe://a.example/api"
    );
}

#[tokio::test]
async fn an_expired_identity_is_not_presented() {
    let ca = Ca::new("a.example");
    let old = ca.svid_between("/api", -(MINUTE * 9), -MINUTE);
    let (expired, _e) = Source::memory(old.clone(), ca.bundles());
    assert_eq!(expired.id(), Err(Unavailable::Expired(old.not_after())));
    assert_eq!(shown_by(&expired).await, None);
}

#[tokio::test]
async fn a_source_whose_writer_is_gone_presents_nothing() {
    let ca = Ca::new("a.example");
    let (mut orphan, writer) = source(&ca, "/api");
    assert!(orphan.svid().is_ok());
    drop(writer);
    assert_eq!(orphan.id(), Err(Unavailable::Closed));
    assert!(orphan.changed().await.is_err());
    assert_eq!(shown_by(&orphan).await, None);
}

#[tokio::test]
async fn sessions_are_not_resumed_so_each_handshake_asks_the_authorizer() {
    let ca = Ca::new("a.example");
    let ((server, _s), (client, _c)) = (source(&ca, "/api"), source(&ca, "/web"));
    let running = Running::new(&server, Authorizer::any()).await;
    // A client that would resume if it were given a ticket.
    let mut config = client_config(&client, Authorizer::any());
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    for _ in 0..2 {
        let mut tls = crate::support::connect(running.address, config.clone())
            .await
            .unwrap();
        assert_eq!(
            tls.get_ref().1.handshake_kind(),
            Some(rustls::HandshakeKind::Full)
        );
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        // Read something, so that a ticket, had there been one, would have been taken.
        tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        assert!(soon(tls.read_u8()).await.is_ok());
    }
}

#[tokio::test]
async fn peers_whose_handshakes_overlap_are_told_apart() {
    let ca = Ca::new("a.example");
    let (server, _s) = source(&ca, "/api");
    let running = Running::new(&server, Authorizer::any()).await;
    let peers = (0..8).map(|number| {
        let (peer, writer) = source(&ca, &format!("/peer/{number}"));
        let url = running.url("/");
        async move {
            for _ in 0..10 {
                // A client of its own has no connection to use again.
                let client = Client::new(&peer, Authorizer::any());
                let answer = client.get(&url).await.unwrap();
                assert_eq!(answer.body(), peer.id().unwrap().to_string().as_str());
            }
            drop(writer);
        }
    });
    soon(futures::future::join_all(peers)).await;
}

#[tokio::test]
async fn the_suite_is_ours_to_choose_and_a_client_that_wants_another_one_alone_gets_it() {
    let ca = Ca::new("a.example");
    let ((server, _s), (web, _w)) = (source(&ca, "/api"), source(&ca, "/web"));
    let running = Running::new(&server, Authorizer::any()).await;
    let presenter = client_config(&web, Authorizer::any()).client_auth_cert_resolver;
    for (offered, taken) in [
        (
            &[TLS13_AES_256_GCM_SHA384, TLS13_AES_128_GCM_SHA256][..],
            CipherSuite::TLS13_AES_128_GCM_SHA256,
        ),
        (
            &[TLS13_AES_256_GCM_SHA384],
            CipherSuite::TLS13_AES_256_GCM_SHA384,
        ),
    ] {
        let provider = CryptoProvider {
            cipher_suites: offered.to_vec(),
            ..crypto_provider().as_ref().clone()
        };
        let mut config = reckless_with(provider, None, &[&TLS13]);
        config.client_auth_cert_resolver = presenter.clone();
        let tls = soon(connect(running.address, config)).await.unwrap();
        let suite = tls.get_ref().1.negotiated_cipher_suite().unwrap();
        assert_eq!(suite.suite(), taken);
    }
}
