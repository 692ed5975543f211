//! Identities of processes, end to end: entries at the control plane, the Workload API on a host,
//! asked by an implementation that is not ours, the crate `spiffe`. The process that runs the tests
//! is the workload.

mod dismissal;
mod rotation;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use hostler_identity::Source;
use serde_json::Value;
use spiffe::{WorkloadApiClient, WorkloadApiError};

use crate::support::{Agent, PATIENCE, Plane, Stopwatch, curl, wait_for};

/// From a change at the control plane until hosts and processes have it.
const SOON: Duration = Duration::from_secs(5);
/// A refusal needs nobody else's answer.
const AT_ONCE: Duration = Duration::from_secs(2);

fn my_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn mine() -> String {
    format!("unix:uid:{}", my_uid())
}

fn create(plane: &Plane, path: &str, more: &[&str]) -> String {
    let (selector, create) = (mine(), ["entry", "create", path, "--selector"]);
    let entry = plane.ask(&[&create, &[selector.as_str()][..], more].concat());
    entry["id"].as_str().expect("an id").to_owned()
}

fn endpoint(agent: &Agent) -> String {
    let socket = agent.data().join("workload/api.sock");
    format!("unix://{}", socket.display())
}

async fn client(agent: &Agent) -> WorkloadApiClient {
    let endpoint = endpoint(agent);
    let connecting = WorkloadApiClient::connect_to(&endpoint);
    connecting.await.expect("a connection")
}

/// Waits for a future, for so long as a [`Stopwatch`] counts it.
async fn within<T>(time: Duration, what: &str, future: impl Future<Output = T>) -> T {
    let watch = Stopwatch::start();
    let too_late = async {
        while watch.elapsed() < time {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        biased;
        answer = future => answer,
        () = too_late => panic!("{what}: not within {time:?}"),
    }
}

/// Asks until the host gives this process an identity, which must be soon.
async fn granted(client: &WorkloadApiClient) -> spiffe::X509Svid {
    let asking = async {
        loop {
            if let Ok(svid) = client.fetch_x509_svid().await {
                return svid;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(SOON, "an identity", asking).await
}

/// Asks until the host gives this process none; why.
async fn denied(client: &WorkloadApiClient) -> String {
    let asking = async {
        loop {
            if let Err(WorkloadApiError::PermissionDenied(reason)) = client.fetch_x509_svid().await
            {
                return reason;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(SOON, "a denial", asking).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_on_its_hosts_within_five_seconds_and_gone_as_soon() {
    let plane = Plane::start();
    let agent = plane.enrol("host");
    let client = client(&agent).await;
    denied(&client).await;
    let inside = std::fs::read_dir(agent.data()).expect("its data").flatten();
    for entry in inside.filter(|entry| entry.file_name() != "workload") {
        let mode = entry.metadata().expect("its mode").permissions().mode();
        assert_eq!(
            mode & 0o077,
            0,
            "{} is open to others",
            entry.path().display()
        );
    }

    let entry = create(&plane, "/web", &["--hint", "front"]);
    let svid = granted(&client).await;
    assert_eq!(
        svid.spiffe_id().to_string(),
        "spiffe://hostler.internal/web"
    );
    assert_eq!(svid.hint(), Some("front"));
    let mut source = within(
        PATIENCE,
        "a source",
        Source::workload_api(&endpoint(&agent)),
    )
    .await
    .expect("a source");

    let audience = ["spiffe://hostler.internal/api"];
    let token = client
        .fetch_jwt_svid(audience, None)
        .await
        .expect("a token");
    let bundles = client.fetch_jwt_bundles().await.expect("bundles");
    let valid = spiffe::JwtSvid::parse_and_validate(token.token(), &bundles, &audience);
    assert_eq!(valid.expect("a good one").spiffe_id(), svid.spiffe_id());
    let other = spiffe::JwtSvid::parse_and_validate(token.token(), &bundles, &["other"]);
    assert!(other.is_err(), "it is for one audience");
    // What everybody can read at the people's door is what the process was given.
    let published = plane.curl(None, &[], "/bundle").json();
    let roots = client.fetch_x509_bundles().await.expect("bundles");
    let roots = roots.get(svid.spiffe_id().trust_domain()).expect("our own");
    let published: Vec<_> = keys(&published, "x509-svid").collect();
    assert_eq!(roots.authorities().len(), published.len());

    plane.ask(&["entry", "delete", &entry]);
    let reason = denied(&client).await;
    assert!(reason.contains(&mine()), "it says what it saw: {reason}");
    within(SOON, "the withdrawal", async {
        while source.svid().is_ok() {
            source.changed().await.expect("open");
        }
    })
    .await;
    assert_eq!(plane.ask(&["entry", "list"]), serde_json::json!([]));
    let token = client.fetch_jwt_svid(audience, None).await;
    assert!(matches!(token, Err(WorkloadApiError::PermissionDenied(_))));
}

/// The entries of a bundle document that are for this use.
fn keys<'a>(bundle: &'a Value, purpose: &'a str) -> impl Iterator<Item = &'a Value> {
    let keys = bundle["keys"].as_array().expect("keys").iter();
    keys.filter(move |key| key["use"] == purpose)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_another_user_is_told_so_at_once() {
    let plane = Plane::start();
    let agent = plane.enrol("host");
    let other = format!("unix:uid:{}", my_uid() + 1);
    plane.ask(&["entry", "create", "/other", "--selector", &other]);
    create(&plane, "/web", &[]);
    let client = client(&agent).await;
    // The other one came first, so it is there too.
    assert_eq!(granted(&client).await.spiffe_id().path(), "/web");
    let listed = plane.ask(&[
        "entry",
        "list",
        "--spiffe-id",
        "spiffe://hostler.internal/web",
    ]);
    let id = listed[0]["id"].as_str().expect("an id");
    plane.ask(&["entry", "delete", id]);
    denied(&client).await;
    let begun = Stopwatch::start();
    let token = client.fetch_jwt_svid(["x"], None).await;
    assert!(
        matches!(token, Err(WorkloadApiError::PermissionDenied(_))),
        "{token:?}"
    );
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[test]
fn an_entry_that_cannot_be_is_refused() {
    let plane = Plane::start();
    let refused = |id: &str, more: &[&str]| {
        let create = ["entry", "create", id, "--selector", "unix:uid:0"];
        plane.refused(&[&create, more].concat())
    };
    for (id, why) in [
        ("/host/x", "own machines"),
        ("spiffe://hostler.internal/control-plane/2", "own machines"),
        ("spiffe://other.example/web", "trust domain"),
        ("spiffe://hostler.internal", "path"),
        ("//", "SPIFFE ID"),
    ] {
        let told = refused(id, &[]);
        assert!(told.contains(why), "{id}: {told}");
    }
    let told = refused("/web", &["--host", "host-0000000000000000000000000"]);
    assert!(told.contains("404"), "{told}");
    let told = plane.refused(&["entry", "create", "/web", "--selector", "uid:0"]);
    assert!(told.contains("selectors"), "{told}");
    let told = refused("/web", &["--ttl", "1"]);
    assert!(told.contains("ttl_secs"), "{told}");
    create(&plane, "/web", &[]);
    let again = plane.refused(&["entry", "create", "/web", "--selector", &mine()]);
    assert!(again.contains("409"), "{again}");
}

/// A host's own certificate and key as files, for curl and openssl.
fn own_files(plane: &Plane, agent: &Agent) -> [PathBuf; 2] {
    let credentials = agent.data().join("agent/credentials.json");
    // The control plane knows of a host a moment before the host has saved what it was told.
    let text = wait_for("credentials", || std::fs::read_to_string(&credentials).ok());
    let credentials: Value = serde_json::from_str(&text).expect("JSON");
    ["svid_pem", "key_pem"].map(|part| {
        let path = plane.path(&format!("{}.{part}", agent.id));
        let pem = credentials[part].as_str().expect("PEM");
        std::fs::write(&path, pem).expect("written");
        path
    })
}

/// Asks at the machines' door as this host.
fn ask_as(plane: &Plane, agent: &Agent, path: &str, body: &Value) -> crate::support::Answer {
    let [cert, key] = own_files(plane, agent);
    let url = format!("https://127.0.0.1:{}{path}", plane.machines);
    let (cert, key) = (cert.to_str().expect("text"), key.to_str().expect("text"));
    let body = body.to_string();
    let arguments = [
        "--insecure",
        "--cert",
        cert,
        "--key",
        key,
        "--json",
        &body,
        &url,
    ];
    curl(&arguments, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_speaks_for_the_entries_that_hold_on_it_and_for_no_others() {
    let plane = Plane::start();
    let (one, two) = (plane.enrol("one"), plane.enrol("two"));
    create(&plane, "/one", &["--host", &one.id]);
    create(&plane, "/tagged", &["--tag", "front"]);
    assert_eq!(
        granted(&client(&one).await).await.spiffe_id().path(),
        "/one"
    );
    let on_two = client(&two).await;
    denied(&on_two).await;
    plane.ask(&["host", "tag", "add", &two.id, "front"]);
    assert_eq!(granted(&on_two).await.spiffe_id().path(), "/tagged");
    plane.ask(&["host", "tag", "remove", &two.id, "front"]);
    denied(&on_two).await;

    // Whoever has taken over a host has what that host has, and nothing of another.
    let mint = |of: &str, id: &str| {
        let body = serde_json::json!({ "spiffe_id": id, "audience": ["x"] });
        ask_as(
            &plane,
            &one,
            &format!("/v1/hosts/{of}/workloads/jwt-svid"),
            &body,
        )
    };
    let own = mint(&one.id, "spiffe://hostler.internal/one");
    assert_eq!(own.status, 200, "{own:?}");
    for (of, id) in [
        (&one.id, "spiffe://hostler.internal/tagged"),
        (&one.id, "spiffe://hostler.internal/host/x"),
        (&two.id, "spiffe://hostler.internal/one"),
        (&two.id, "spiffe://hostler.internal/tagged"),
    ] {
        let refused = mint(of, id);
        assert_eq!(
            (refused.status, &*refused.code()),
            (403, "forbidden"),
            "{of} {id}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_control_plane_is_away_what_is_valid_is_served_on() {
    let mut plane = Plane::start();
    let agent = plane.enrol("host");
    create(&plane, "/web", &[]);
    let first = client(&agent).await;
    let before = granted(&first).await;
    plane.daemon().take().expect("it runs").kill();

    let another = client(&agent).await;
    let after = within(AT_ONCE, "what is valid", another.fetch_x509_svid()).await;
    assert_eq!(
        after.expect("an identity").cert_chain(),
        before.cert_chain()
    );
    let begun = Stopwatch::start();
    let token = another.fetch_jwt_svid(["x"], None).await;
    assert!(token.is_err(), "nobody can issue it");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );

    plane.restart(&[]);
    let recovered = async {
        while another.fetch_jwt_svid(["x"], None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(PATIENCE, "recovery", recovered).await;
    // News come again, too: it was away for a moment, so within the pause after a few attempts.
    create(&plane, "/second", &[]);
    let both = async {
        while another
            .fetch_all_x509_svids()
            .await
            .map_or(0, |all| all.len())
            < 2
        {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    within(Duration::from_secs(15), "the second identity", both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_recognise_members_of_a_federated_trust_domain() {
    let theirs = Plane::start_with(&[("HOSTLER_TRUST_DOMAIN", "b.example")]);
    let federate = format!(
        "b.example={}/bundle,ca={}",
        theirs.url(),
        theirs.ca().display()
    );
    let ours = Plane::start_with(&[("HOSTLER_FEDERATE", &federate)]);
    let (our_agent, their_agent) = (ours.enrol("ours"), theirs.enrol("theirs"));
    create(&ours, "/server", &[]);
    create(&theirs, "/client", &[]);
    let (our_client, their_client) = (client(&our_agent).await, client(&their_agent).await);
    granted(&our_client).await;
    let svid = granted(&their_client).await;
    let bundles = our_client.fetch_x509_bundles().await.expect("bundles");
    let published = their_client.fetch_x509_bundles().await.expect("bundles");
    let domain = svid.spiffe_id().trust_domain();
    let foreign = bundles.get(domain).expect("the foreign bundle");
    let own = published.get(domain).expect("their own");
    assert_eq!(foreign.authorities(), own.authorities());
    assert_eq!(
        published.iter().count(),
        1,
        "they have not federated with us"
    );

    let token = their_client
        .fetch_jwt_svid(["x"], None)
        .await
        .expect("a token");
    let jwt = our_client.fetch_jwt_bundles().await.expect("bundles");
    let valid = spiffe::JwtSvid::parse_and_validate(token.token(), &jwt, &["x"]);
    assert_eq!(valid.expect("a good one").spiffe_id(), svid.spiffe_id());
}

#[test]
fn a_federation_that_cannot_be_followed_stops_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    for (federate, why) in [
        ("hostler.internal=https://127.0.0.1:1/bundle", "our own"),
        ("b.example=http://127.0.0.1:1/bundle", "https"),
        ("b.example", "--federate"),
        (
            "b.example=https://127.0.0.1:1/,ca=/nonexistent.pem",
            "/nonexistent.pem",
        ),
    ] {
        let output = crate::support::hostler()
            .args([
                "server",
                "--listen",
                "127.0.0.1:0",
                "--fleet-listen",
                "127.0.0.1:0",
            ])
            .args(["--federate", federate, "--data-dir"])
            .arg(directory.path())
            .output()
            .expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{federate}: {told}");
        assert!(told.contains(why), "{federate}: {told}");
    }
}
