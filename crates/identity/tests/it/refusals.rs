//! Bad peers, on both ends: refused with a reason in our log, and nothing about it to them.

use std::sync::Arc;

use hostler_identity::{Authorizer, Client, ClientError, crypto_provider};
use jiff::{SignedDuration, Timestamp};
use rcgen::{BasicConstraints, IsCa};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{AlertDescription, Error};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::certs::{Ca, Raw, uri};
use crate::log::Log;
use crate::support::{Running, attempt, connect, reckless, soon, source};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn between(ca: &Ca, from: SignedDuration, until: SignedDuration) -> Raw {
    let at = |shift: SignedDuration| {
        let moment = Timestamp::now() + shift;
        time::OffsetDateTime::from_unix_timestamp(moment.as_second()).unwrap()
    };
    ca.raw("/web", |params| {
        (params.not_before, params.not_after) = (at(from), at(until));
    })
}

/// Who must not get in, and what the log says about it.
fn bad_peers(ca: &Ca) -> Vec<(&'static str, Raw, &'static str)> {
    let mut broken = ca.raw("/web", |_| {});
    broken.chain[0] = broken.chain[0][..200].to_vec().into();
    let two = |params: &mut rcgen::CertificateParams| {
        params
            .subject_alt_names
            .push(uri("spiffe://a.example/second"));
    };
    let authority = |params: &mut rcgen::CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    };
    vec![
        (
            "of another trust domain",
            Ca::new("b.example").raw("/web", |_| {}),
            "spiffe://b.example/web is of another trust domain",
        ),
        (
            "signed by somebody who calls himself like our authority",
            Ca::new("a.example").raw("/web", |_| {}),
            "the roots of its trust domain do not vouch for spiffe://a.example/web",
        ),
        ("expired", between(ca, -(MINUTE * 9), -MINUTE), "expired"),
        (
            "not yet valid",
            between(ca, MINUTE, MINUTE * 9),
            "not valid yet",
        ),
        ("two URI SANs", ca.raw("/web", two), "it has 2 URI SANs"),
        (
            "a CA as leaf",
            ca.raw("/web", authority),
            "no certificate authority",
        ),
        ("broken DER", broken, "not a well-formed DER certificate"),
    ]
}

/// A valid chain with somebody else's key: what a thief of a certificate has.
fn wrong_key(ca: &Ca) -> Raw {
    Raw {
        chain: ca.raw("/web", |_| {}).chain,
        key: ca.raw("/web", |_| {}).key,
    }
}

/// A chain of more than a mebibyte.
fn huge(ca: &Ca) -> Raw {
    let mut raw = ca.raw("/web", |_| {});
    let each = ca.certificate.len();
    let padding = std::iter::repeat_n(ca.certificate.clone(), 1024 * 1024 / each + 1);
    raw.chain.extend(padding);
    raw
}

/// The alert by which a server refuses, seen from a client that takes whatever it is told.
async fn alert_for(running: &Running, peer: Raw) -> AlertDescription {
    let refused = soon(async {
        let mut tls = connect(running.address, reckless(Some(peer), &[&TLS13])).await?;
        tls.read_u8().await
    });
    let refused = refused.await.expect_err("it is refused");
    match refused.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(Error::AlertReceived(alert)) => *alert,
        _ => panic!("{refused:?}"),
    }
}

#[tokio::test]
async fn a_bad_client_is_refused_with_a_reason_in_the_log_and_none_for_it() {
    let log = Log::new();
    let ca = Ca::new("a.example");
    let (server, _s) = source(&ca, "/api");
    let running = Running::new(&server, Authorizer::any()).await;
    for (what, peer, reason) in bad_peers(&ca) {
        log.take();
        let alert = alert_for(&running, peer).await;
        assert_eq!(alert, AlertDescription::CertificateUnknown, "{what}");
        let logged = log.take();
        assert!(logged.contains(reason), "{what}: {logged}");
        assert!(logged.contains("from=127.0.0.1:"), "who it was: {logged}");
        assert_eq!(logged.lines().count(), 1, "said once: {logged}");
    }
    // The proof of the key has an alert of its own (RFC 8446 §4.4.3).
    let alert = alert_for(&running, wrong_key(&ca)).await;
    assert_eq!(alert, AlertDescription::DecryptError);
    let logged = log.take();
    assert!(
        logged.contains("has not the key of its certificate"),
        "{logged}"
    );

    let good = reckless(Some(ca.raw("/web", |_| {})), &[&TLS13]);
    assert!(attempt(running.address, good).await.is_ok());
}

#[tokio::test]
async fn a_chain_of_a_mebibyte_is_refused_before_it_is_looked_at() {
    let log = Log::new();
    let ca = Ca::new("a.example");
    let (server, _s) = source(&ca, "/api");
    let running = Running::new(&server, Authorizer::any()).await;
    let peer = reckless(Some(huge(&ca)), &[&TLS13]);
    assert!(attempt(running.address, peer).await.is_err());
    // The client may learn of it before the server has written its line.
    let mut logged = String::new();
    soon(async {
        while !logged.contains("connection not accepted") {
            tokio::task::yield_now().await;
            logged.push_str(&log.take());
        }
    })
    .await;
    assert!(logged.contains("TooLarge"), "{logged}");
}

/// A server that presents whatever it is given, and what its end of the handshake came to.
async fn ask_bad_server(client: &Client, present: Raw) -> (ClientError, std::io::Error) {
    let key = crypto_provider()
        .key_provider
        .load_private_key(present.key)
        .unwrap();
    let certified = Arc::new(SingleCertAndKey::from(CertifiedKey::new(
        present.chain,
        key,
    )));
    let config = rustls::ServerConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(certified);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/secret", listener.local_addr().unwrap());
    let server = async {
        let (tcp, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(Arc::new(config))
            .accept(tcp)
            .await
            .map(|_| ())
    };
    let (answer, handshake) = soon(async { tokio::join!(client.get(&url), server) }).await;
    (answer.unwrap_err(), handshake.unwrap_err())
}

#[tokio::test]
async fn a_bad_server_is_left_with_a_reason_for_us_and_none_for_it() {
    let ca = Ca::new("a.example");
    let (web, _w) = source(&ca, "/web");
    let client = Client::new(&web, Authorizer::any());
    for (what, peer, reason) in bad_peers(&ca) {
        let (ours, theirs) = ask_bad_server(&client, peer).await;
        assert!(
            matches!(ours, ClientError::WrongServer { .. }),
            "{what}: {ours:?}"
        );
        assert!(ours.to_string().contains(reason), "{what}: {ours}");
        assert!(!ours.may_have_been_carried_out(), "{what}");
        let alert = theirs.get_ref().and_then(|inner| inner.downcast_ref());
        let expected = Error::AlertReceived(AlertDescription::CertificateUnknown);
        assert_eq!(alert, Some(&expected), "{what}");
    }
    for peer in [wrong_key(&ca), huge(&ca)] {
        let (ours, _) = ask_bad_server(&client, peer).await;
        assert!(matches!(ours, ClientError::Handshake { .. }), "{ours:?}");
    }
}
