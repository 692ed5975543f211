//! Roots that succeed one another, by plan and by force, while processes on two hosts talk.

use std::process::Command;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hostler_identity::{Authorizer, Client, PeerIdentity, Server, Source};
use spiffe::X509Source;
use tokio::task::JoinHandle;

use super::{SOON, client, create, endpoint, granted, keys, own_files, within};
use crate::support::{Agent, PATIENCE, Plane, wait_for};

/// A server and a client with the identities of processes on two hosts, which shake hands anew for
/// every request, until they are told to stop.
struct Talk {
    stop: tokio::sync::watch::Sender<bool>,
    talking: JoinHandle<usize>,
}

impl Talk {
    async fn begin(server: &Agent, client: &Agent) -> Self {
        let source = |agent: &Agent| {
            let endpoint = endpoint(agent);
            async move {
                let source = within(PATIENCE, "a source", Source::workload_api(&endpoint)).await;
                source.expect("a source")
            }
        };
        let (serving, calling) = (source(server).await, source(client).await);
        let anybody = Authorizer::any();
        let server = Server::bind("127.0.0.1:0", &serving, anybody.clone()).await;
        let server = server.expect("a port");
        let url = format!("https://{}/", server.local_addr().expect("an address"));
        let app = Router::new().route(
            "/",
            get(|peer: PeerIdentity| async move { peer.id().to_string() }),
        );
        tokio::spawn(server.serve(app, std::future::pending()));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let talking = tokio::spawn(async move {
            let mut handshakes = 0;
            while !*stopped.borrow() {
                // A client of its own has no connection to use again.
                let answer = Client::new(&calling, anybody.clone()).get(&url).await;
                let answer = answer.unwrap_or_else(|error| panic!("{handshakes}: {error}"));
                assert_eq!(answer.body(), "spiffe://hostler.internal/talk");
                handshakes += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            handshakes
        });
        Self { stop, talking }
    }

    /// Ends it; none of all the handshakes has failed.
    async fn end(self) -> usize {
        self.stop.send_replace(true);
        self.talking.await.expect("no handshake failed")
    }
}

/// Waits until something about a source is so.
async fn until(source: &X509Source, what: &str, so: impl Fn(&X509Source) -> bool) {
    let mut updates = source.updated();
    let waiting = async {
        while !so(source) {
            updates.changed().await.expect("open");
        }
    };
    within(PATIENCE, what, waiting).await;
}

fn roots(source: &X509Source) -> Vec<Vec<u8>> {
    let svid = source.svid().expect("an identity");
    let bundles = source.bundle_set().expect("bundles");
    let bundle = bundles
        .get(svid.spiffe_id().trust_domain())
        .expect("our own");
    let roots = bundle.authorities().iter();
    roots.map(|root| root.as_bytes().to_vec()).collect()
}

/// Whether this root has signed the source's certificate, by the names in both.
fn signed_by(source: &X509Source, root: &[u8]) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let svid = source.svid().expect("an identity");
    let (_, leaf) = X509Certificate::from_der(svid.cert_chain()[0].as_bytes()).expect("DER");
    let (_, root) = X509Certificate::from_der(root).expect("DER");
    leaf.issuer() == root.subject()
}

/// Two hosts with a process each, and a third process that watches.
async fn talking(plane: &Plane) -> ([Agent; 2], Talk, X509Source) {
    let agents = [plane.enrol("one"), plane.enrol("two")];
    create(plane, "/talk", &[]);
    granted(&client(&agents[0]).await).await;
    granted(&client(&agents[1]).await).await;
    let talk = Talk::begin(&agents[0], &agents[1]).await;
    let watching = X509Source::builder().endpoint(endpoint(&agents[1])).build();
    let watching = within(PATIENCE, "a source", watching)
        .await
        .expect("a source");
    (agents, talk, watching)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forced_rotation_gives_everybody_a_new_identity_and_fails_no_handshake() {
    let plane = Plane::start_with(&[("HOSTLER_SVID_TTL", "15")]);
    let (agents, talk, watching) = talking(&plane).await;
    // It will sleep through everything, and come back to an authority that it has never heard of.
    let mut away = plane.enrol("away");
    let left_with = own_serial(&plane, &away);
    away.daemon().take().expect("it runs").stop();
    let old = roots(&watching);
    assert_eq!(old.len(), 1);
    let published = plane.curl(None, &[], "/bundle").json();
    let sequence = published["spiffe_sequence"].as_u64().expect("a sequence");
    assert!(
        published["spiffe_refresh_hint"]
            .as_u64()
            .is_some_and(|hint| hint > 0)
    );
    assert_eq!(keys(&published, "jwt-svid").count(), 1);

    let rotation = plane.ask(&["svid", "rotate", "--overlap", "10"]);
    let again = plane.ask(&["svid", "rotate", "--overlap", "600"]);
    assert_eq!(rotation, again, "one that is under way is left alone");
    until(&watching, "both roots", |source| roots(source).len() == 2).await;
    assert!(
        signed_by(&watching, &old[0]),
        "the new root does not sign before it is known"
    );
    let published = plane.curl(None, &[], "/bundle").json();
    assert!(published["spiffe_sequence"].as_u64() > Some(sequence));
    assert_eq!(keys(&published, "jwt-svid").count(), 2);

    let signs_at: jiff::Timestamp = rotation["signs_at"]
        .as_str()
        .expect("a time")
        .parse()
        .expect("a time");
    hostler_identity::wait_until(signs_at).await;
    within(
        SOON,
        "a new identity after the overlap",
        until(&watching, "a new identity", |source| {
            !signed_by(source, &old[0])
        }),
    )
    .await;
    // The hosts themselves, too: they present what the new root has signed.
    for agent in &agents {
        wait_for("the host's own new certificate", || {
            let issuer = own_certificate(&plane, agent, "-issuer");
            let old = issuer_name(&old[0]);
            (!issuer.contains(&old)).then_some(())
        });
    }
    until(&watching, "the end of the old root", |source| {
        roots(source).len() == 1
    })
    .await;
    assert_ne!(roots(&watching), old);
    assert!(talk.end().await > 20);
    // What it has is signed by a root that is gone; what counts is its host token.
    away.launch(&plane, None);
    assert_ne!(own_serial(&plane, &away), left_with);
    let status = plane.ask(&["host", "status", &away.id]);
    assert!(status["hostname"].is_string(), "{status}");
    let status = plane.ask(&["host", "status", &agents[0].id]);
    assert!(
        status["hostname"].is_string(),
        "the way to the host is open: {status}"
    );
}

/// Something about the certificate that a host keeps of its own, as openssl reads it.
fn own_certificate(plane: &Plane, agent: &Agent, what: &str) -> String {
    let [svid, _] = own_files(plane, agent);
    let text = Command::new("openssl")
        .args(["x509", "-noout", what, "-in"])
        .arg(svid)
        .output();
    String::from_utf8_lossy(&text.expect("openssl runs").stdout).into_owned()
}

fn own_serial(plane: &Plane, agent: &Agent) -> String {
    own_certificate(plane, agent, "-serial")
}

/// The common name of a root, which has a part of its serial number in it.
fn issuer_name(root: &[u8]) -> String {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, root) = X509Certificate::from_der(root).expect("DER");
    let name = root.subject().iter_common_name().next().expect("a name");
    name.as_str().expect("text").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_known_before_it_signs_and_no_handshake_fails_over_its_succession() {
    // Published after 15 s, signs after 45 s (roots are back-dated by 30 s).
    let plane = Plane::start_with(&[("HOSTLER_SVID_TTL", "10"), ("HOSTLER_CA_TTL", "90")]);
    let (_agents, talk, watching) = talking(&plane).await;
    // The successor may have been published by now, and does not sign yet.
    let old = roots(&watching);
    let old = old.into_iter().find(|root| signed_by(&watching, root));
    let old = old.expect("one of them has signed it");
    until(&watching, "the successor", |source| roots(source).len() > 1).await;
    assert!(signed_by(&watching, &old), "it signs only when it is known");
    until(&watching, "the succession", |source| {
        !signed_by(source, &old)
    })
    .await;
    until(&watching, "the end of the old root", |source| {
        !roots(source).contains(&old)
    })
    .await;
    assert!(talk.end().await > 20);
}
