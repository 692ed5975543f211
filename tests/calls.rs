//! The call protocol at the doors of a real server.

use std::net::SocketAddr;
use std::time::Duration;

use hostler_gateway::CallClient;
use hostler_operations::protocol::AuthToken;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use crate::support::Plane;

/// Longer than anything here takes on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(PATIENCE, future).await;
    output.unwrap_or_else(|_| panic!("still waiting: {what}"))
}

fn trusting(plane: &Plane) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(plane.ca()).expect("a certificate");
    roots.add(ca).expect("a root");
    ClientConfig::builder_with_provider(hostler_identity::crypto_provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn address(url: &str) -> SocketAddr {
    let address = url.strip_prefix("https://").expect("a URL");
    address.parse().expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_calls_the_peoples_door_and_watches_it() {
    let plane = tokio::task::spawn_blocking(Plane::start)
        .await
        .expect("a server");
    let client = CallClient::builder(trusting(&plane));
    let connecting = client.connect(address(&plane.url()), "127.0.0.1");
    let client = soon("the handshake", connecting)
        .await
        .expect("a handshake");
    let key = || Some(AuthToken::new(plane.key()));

    let refused = soon("a refusal", client.call("/hosts/list", json!({}), None)).await;
    let refused = refused.expect_err("no token came");
    assert_eq!(
        (&*refused.code, &*refused.message),
        ("FORBIDDEN", "authentication required")
    );

    // From the first event on, wherever the server is with this when the host is created.
    let everything = json!({"after": 0});
    let watch = client.subscribe("/hosts/watch", everything, key()).await;
    let mut watch = watch.expect("a stream");
    let created = client.call("/hosts/create", json!({"type": "regular"}), key());
    let created = soon("a host", created).await.expect("a host");
    let id = created["host"]["id"].as_str().expect("an id").to_owned();
    let event = soon("an event", watch.next())
        .await
        .expect("an event")
        .expect("an event");
    assert!(event.to_string().contains(&id), "{event}");
    let hosts = soon("hosts", client.call("/hosts/list", json!({}), key())).await;
    let hosts = hosts.expect("hosts");
    assert_eq!(hosts.as_array().map(Vec::len), Some(1), "{hosts}");
    let deleted = client.call("/hosts/delete", json!({"id": id}), key());
    assert_eq!(soon("the end of a host", deleted).await, Ok(Value::Null));
    client.close().await;

    let log = plane.log();
    assert!(
        log.contains("hosts/create"),
        "no line for the call in {log}"
    );
    assert!(!log.contains(plane.key()), "the key is in the log");
    tokio::task::spawn_blocking(move || drop(plane))
        .await
        .expect("it stops");
}
