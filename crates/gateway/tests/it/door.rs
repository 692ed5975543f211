//! The door itself: protocols, identities, closing, and patience.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hostler_gateway::{Admission, DoorLimits};
use hostler_identity::{Authorizer, Source, SourceWriter, Svid, TrustBundles, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use secrecy::SecretString;
use serde_json::json;
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::world::{Answer, Client, World, call, provider, soon};

#[tokio::test]
async fn alpn_chooses_the_protocol_and_silence_means_http_1() {
    let world = World::start().await;
    let both = world.tls(&["h2", "http/1.1"]).await;
    assert_eq!(both.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut client = Client::http2(both).await;
    assert_eq!(
        client.send(call("GET", "/healthz", "", None)).await.status,
        200
    );
    let silent = world.tls(&[]).await;
    let mut client = Client::http1(silent).await;
    for _ in 0..3 {
        assert_eq!(
            client.send(call("GET", "/healthz", "", None)).await.status,
            200
        );
    }
}

#[tokio::test]
async fn a_handler_learns_where_the_call_came_from() {
    let world = World::start().await;
    let answer = world.get("reader", "/v1/who").await;
    assert_eq!(answer.json()["remote"], "127.0.0.1");
    assert_eq!(answer.json()["subject"], "reader");
}

/// A private CA, and what it issues.
pub(crate) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(crate) fn new(name: SanType) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![name];
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a root"))
    }

    fn root(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    fn issue(&self, name: SanType) -> (rcgen::Certificate, KeyPair) {
        self.issue_until(name, None)
    }

    pub(crate) fn issue_until(
        &self,
        name: SanType,
        not_after: Option<OffsetDateTime>,
    ) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::default();
        if let Some(not_after) = not_after {
            params.not_after = not_after;
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.subject_alt_names = vec![name];
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.0).expect("a certificate"), key)
    }

    /// A source, and the writer without which it is withdrawn.
    pub(crate) fn source(&self, id: &str) -> (Source, SourceWriter) {
        self.source_from(self.issue(uri(id)))
    }

    pub(crate) fn source_from(
        &self,
        (leaf, key): (rcgen::Certificate, KeyPair),
    ) -> (Source, SourceWriter) {
        let key = SecretString::from(key.serialize_pem());
        let svid = Svid::from_pem(&leaf.pem(), &key).expect("an SVID");
        let mut bundles = TrustBundles::new();
        let domain = TrustDomain::new("shelf.test").expect("a trust domain");
        bundles.insert(domain, vec![self.root()]).expect("a bundle");
        Source::memory(svid, bundles)
    }
}

#[tokio::test]
async fn a_peer_that_is_admitted_no_more_is_cut_and_nobody_else() {
    let ca = Ca::new(uri("spiffe://shelf.test"));
    let (door, _door_writer) = ca.source("spiffe://shelf.test/door");
    let tls = hostler_identity::server_config(&door, Authorizer::any());
    let dismissed = Arc::new(AtomicBool::new(false));
    let (changes, changed) = watch::channel(());
    let admission = {
        let dismissed = Arc::clone(&dismissed);
        let is_out = move || dismissed.load(Ordering::SeqCst);
        Admission::new(move |id| !(id.path() == "/guest/7" && is_out()), changed)
    };
    let (trust, limits) = (RootCertStore::empty(), DoorLimits::default());
    let world = World::admitting(&tls, trust, limits, |adapter| adapter, Some(admission)).await;
    let (seven, _seven_writer) = ca.source("spiffe://shelf.test/guest/7");
    let (eight, _eight_writer) = ca.source("spiffe://shelf.test/guest/8");
    for alpn in ["http/1.1", "h2"] {
        dismissed.store(false, Ordering::SeqCst);
        let connect = async |source: &Source| {
            let config = hostler_identity::client_config(source, Authorizer::any());
            let stream = world.tls_as(config, &[alpn]).await;
            match alpn {
                "h2" => Client::http2(stream).await,
                _ => Client::http1(stream).await,
            }
        };
        let (mut out, mut stays) = (connect(&seven).await, connect(&eight).await);
        let ask = || call("GET", "/v1/who", "", None);
        // A change that does not concern them changes nothing.
        changes.send_replace(());
        assert_eq!(out.send(ask()).await.status, 200);
        dismissed.store(true, Ordering::SeqCst);
        changes.send_replace(());
        let cut = async { while out.try_send(ask()).await.is_ok() {} };
        soon("the cut", cut).await;
        assert_eq!(stays.send(ask()).await.status, 200, "{alpn}");
        let mut late = connect(&seven).await;
        assert!(
            late.try_send(ask()).await.is_err(),
            "{alpn}: the door stood open"
        );
    }
}

#[tokio::test]
async fn a_connection_is_closed_before_the_certificate_expires_that_it_began_with() {
    let ca = Ca::new(uri("spiffe://shelf.test"));
    let (door, _door_writer) = ca.source("spiffe://shelf.test/door");
    let tls = hostler_identity::server_config(&door, Authorizer::any());
    let (trust, limits) = (RootCertStore::empty(), DoorLimits::default());
    let world = World::behind(&tls, trust, limits, |adapter| adapter).await;
    for alpn in ["http/1.1", "h2"] {
        let end = OffsetDateTime::now_utc() + Duration::from_secs(5);
        let guest = ca.issue_until(uri("spiffe://shelf.test/guest/7"), Some(end));
        let (guest, _guest_writer) = ca.source_from(guest);
        let config = hostler_identity::client_config(&guest, Authorizer::any());
        let stream = world.tls_as(config, &[alpn]).await;
        let mut client = match alpn {
            "h2" => Client::http2(stream).await,
            _ => Client::http1(stream).await,
        };
        let mut answered = 0;
        while let Ok(answer) = client.try_send(call("GET", "/v1/who", "", None)).await {
            assert_eq!(answer.status, 200, "{alpn}: it is good until the end");
            answered += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(
            OffsetDateTime::now_utc() < end && answered > 10,
            "{alpn}: {answered}"
        );
    }
}

pub(crate) fn uri(id: &str) -> SanType {
    SanType::URI(id.try_into().expect("an IA5 string"))
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("an IA5 string"))
}

#[tokio::test]
async fn a_peer_is_known_by_the_spiffe_id_of_its_handshake() {
    let ca = Ca::new(uri("spiffe://shelf.test"));
    let (door, _door_writer) = ca.source("spiffe://shelf.test/door");
    let tls = hostler_identity::server_config(&door, Authorizer::any());
    let world = World::behind(
        &tls,
        RootCertStore::empty(),
        DoorLimits::default(),
        |adapter| adapter,
    )
    .await;
    let (guest, _guest_writer) = ca.source("spiffe://shelf.test/guest/7");
    for alpn in ["http/1.1", "h2"] {
        let config = hostler_identity::client_config(&guest, Authorizer::any());
        let stream = world.tls_as(config, &[alpn]).await;
        let mut client = match alpn {
            "h2" => Client::http2(stream).await,
            _ => Client::http1(stream).await,
        };
        let answer = client.send(call("GET", "/v1/who", "", None)).await;
        assert_eq!(answer.json()["subject"], "spiffe://shelf.test/guest/7");
        assert_eq!(
            client.send(call("GET", "/v1/books", "", None)).await.status,
            200
        );
    }
}

#[tokio::test]
async fn a_certificate_of_a_private_ca_is_shown_to_the_provider() {
    let ca = Ca::new(dns("a private CA"));
    let mut roots = RootCertStore::empty();
    roots.add(ca.root()).expect("a root");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider()).build();
    let (leaf, key) = ca.issue(dns("localhost"));
    let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let tls = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(vec![leaf.der().clone()], key())
        .expect("a key that fits");
    let world = World::behind(&tls, roots.clone(), DoorLimits::default(), |adapter| {
        adapter
    })
    .await;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![leaf.der().clone()], key())
        .expect("a key that fits");
    let mut client = Client::http1(world.tls_as(config, &["http/1.1"]).await).await;
    let answer = client.send(call("GET", "/v1/who", "", None)).await;
    assert_eq!(answer.json()["subject"], "somebody with a certificate");
}

type Nap = JoinHandle<hyper::Result<Answer>>;

/// Two calls that last until somebody wakes them, one over each protocol, both under way.
async fn two_naps(world: &World) -> Vec<Nap> {
    let mut napping = Vec::new();
    for mut client in [world.http1().await, world.http2().await] {
        napping.push(tokio::spawn(async move {
            client
                .try_send(call("POST", "/rooms/nap", "", Some(&json!({}))))
                .await
        }));
    }
    soon("both naps", world.shelf.napping.acquire_many(2))
        .await
        .expect("open")
        .forget();
    napping
}

#[tokio::test]
async fn a_closing_door_finishes_what_is_in_flight_and_takes_nothing_new() {
    let world = World::start().await;
    let (mut idle1, mut idle2) = (world.http1().await, world.http2().await);
    for idle in [&mut idle1, &mut idle2] {
        assert_eq!(
            idle.send(call("GET", "/healthz", "", None)).await.status,
            200
        );
    }
    let napping = two_naps(&world).await;
    world.shutdown.cancel();
    soon("the idle ones", async {
        (idle1.connection.await, idle2.connection.await)
    })
    .await
    .0
    .ok();
    let refused = soon("a refusal", async {
        while TcpStream::connect(world.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    refused.await;
    assert!(
        !world.served.is_finished(),
        "the door waits for what is in flight"
    );
    world.shelf.wake.add_permits(2);
    for nap in napping {
        let answer = soon("the end of a nap", nap)
            .await
            .expect("no panic")
            .expect("an answer");
        assert_eq!(answer.json(), json!("well rested"));
    }
    soon("the door", world.served).await.expect("no panic");
}

#[tokio::test]
async fn a_closing_door_says_that_it_is_draining() {
    let world = World::start().await;
    let mut stream = world.tls(&["h2"]).await;
    // Preface and SETTINGS; the pings that would end the connection are never answered.
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stream.write_all(hello).await.expect("sent");
    let mut said = Vec::new();
    soon("its settings", stream.read_buf(&mut said))
        .await
        .expect("bytes");
    world.shutdown.cancel();
    // HEADERS on stream 1: GET, https, literal path /healthz (RFC 7541, appendix A).
    let ask = b"\0\0\x0c\x01\x05\0\0\0\x01\x82\x87\x04\x08/healthz";
    stream.write_all(ask).await.expect("sent");
    let answer = soon("an answer", async {
        while !said.windows(8).any(|word| word == b"draining") {
            if stream.read_buf(&mut said).await.unwrap_or(0) == 0 {
                break;
            }
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    assert!(answer.await.contains("draining"));
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cut() {
    let mut limits = DoorLimits::default();
    limits.drain_time = Duration::from_millis(50);
    let world = World::with(limits, |adapter| adapter).await;
    let napping = two_naps(&world).await;
    world.shutdown.cancel();
    soon("the door", world.served).await.expect("no panic");
    for nap in napping {
        let answer = soon("the cut", nap).await.expect("no panic");
        assert!(answer.is_err(), "the connection should have been cut");
    }
    soon("the naps' end", world.shelf.disturbed.acquire_many(2))
        .await
        .expect("open")
        .forget();
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_query() {
    let world = World::start().await;
    for mut client in [world.http1().await, world.http2().await] {
        let nap = call("POST", "/rooms/nap", "", Some(&json!({})));
        let napping = client.begin(nap);
        tokio::select! {
            _ = napping => panic!("nobody wakes it"),
            nap = soon("a nap", world.shelf.napping.acquire()) => nap.expect("open").forget(),
        }
        client.connection.abort();
        drop(client);
        soon("its end", world.shelf.disturbed.acquire())
            .await
            .expect("open")
            .forget();
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let mut limits = DoorLimits::default();
    limits.idle_time = Duration::from_secs(2);
    let world = World::with(limits, |adapter| adapter).await;
    for alpn in ["http/1.1", "h2"] {
        let mut client = match alpn {
            "h2" => world.http2().await,
            _ => world.http1().await,
        };
        assert_eq!(
            client.send(call("GET", "/healthz", "", None)).await.status,
            200
        );
        soon("the end of an idle connection", client.connection)
            .await
            .expect("no panic");
    }
    // A call that takes longer than that is not idleness.
    let mut client = world.http1().await;
    let shelf = Arc::clone(&world.shelf);
    let nap = tokio::spawn(async move {
        client
            .try_send(call("POST", "/rooms/nap", "", Some(&json!({}))))
            .await
    });
    soon("a nap", shelf.napping.acquire())
        .await
        .expect("open")
        .forget();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    shelf.wake.add_permits(1);
    assert_eq!(nap.await.expect("no panic").expect("an answer").status, 200);
}

#[tokio::test]
async fn a_handshake_that_stalls_is_given_up() {
    let mut limits = DoorLimits::default();
    limits.handshake_time = Duration::from_millis(100);
    let world = World::with(limits, |adapter| adapter).await;
    let mut silent = TcpStream::connect(world.address)
        .await
        .expect("a connection");
    let read = soon("the end of a silent connection", silent.read(&mut [0; 16])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_their_turn() {
    let mut limits = DoorLimits::default();
    limits.connections = 1;
    let world = World::with(limits, |adapter| adapter).await;
    let mut first = world.http1().await;
    assert_eq!(
        first.send(call("GET", "/healthz", "", None)).await.status,
        200
    );
    let second = world.get("", "/healthz");
    tokio::pin!(second);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut second).await;
    assert!(early.is_err(), "there was room for one");
    first.connection.abort();
    drop(first);
    assert_eq!(second.await.status, 200);
}

#[tokio::test]
async fn a_door_whose_address_is_taken_says_so() {
    let world = World::start().await;
    let (tls, _) = crate::world::self_signed();
    let router = axum::Router::new();
    let second =
        hostler_gateway::Door::bind(world.address, &tls, router, DoorLimits::default()).await;
    let error = second.expect_err("the address is taken").to_string();
    assert!(error.contains(&world.address.to_string()), "{error}");
}

#[tokio::test]
async fn a_door_that_is_dropped_cuts_everything() {
    let world = World::start().await;
    let mut client = world.http1().await;
    assert_eq!(
        client.send(call("GET", "/healthz", "", None)).await.status,
        200
    );
    world.served.abort();
    soon("the cut", client.connection).await.expect("no panic");
    assert!(TcpStream::connect(world.address).await.is_err());
}
