//! Python's `spiffe` and `spiffe-tls`: a workload on our socket that speaks with our server and
//! our client (`peer.py`).

use std::collections::BTreeSet;
use std::process::Stdio;

use hostler_identity::{Authorizer, Client, ClientError, JwtSvid, Source};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::house::{House, Serving, id, soon};
use crate::programs::python;

/// A running `peer.py`.
struct Peer {
    commands: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Peer {
    /// One that takes its identity from this socket and speaks with nobody but `only`.
    async fn new(endpoint: &str, only: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/peer.py");
        let mut process = Command::new(python().await)
            .args([script, endpoint, id(only).to_string().as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            commands: process.stdin.take().unwrap(),
            events: BufReader::new(process.stdout.take().unwrap()).lines(),
            _process: process,
        }
    }

    /// The next thing that it says.
    async fn says(&mut self) -> Value {
        let line = soon(self.events.next_line()).await.unwrap();
        serde_json::from_str(&line.expect("it goes on")).unwrap()
    }

    /// The next thing that it says of this kind.
    async fn event(&mut self, kind: &str) -> Value {
        loop {
            let said = self.says().await;
            if said["event"] == kind {
                return said;
            }
            assert_ne!(said["event"], "failed", "{said}");
        }
    }

    /// What it answers to a command: anything but a renewal that comes in between.
    async fn told(&mut self, command: Value) -> Value {
        let line = format!("{command}\n");
        self.commands.write_all(line.as_bytes()).await.unwrap();
        loop {
            let said = self.says().await;
            if said["event"] != "identity" && said["event"] != "handshake failed" {
                return said;
            }
        }
    }

    async fn calls(&mut self, serving: &Serving) -> Value {
        self.told(json!({"dial": serving.address.to_string()}))
            .await
    }

    /// Where it listens: the first thing that it says.
    async fn url(&mut self) -> String {
        let listening = self.event("listening").await;
        format!("https://127.0.0.1:{}/", listening["port"])
    }
}

#[tokio::test]
async fn python_speaks_with_us_both_ways_over_renewals_and_a_new_root() {
    let house = House::hasty();
    let socket = house.socket(Some("/python"));
    let ours = house.server("/ours", Authorizer::id(id("/python"))).await;
    let us = house.source("/ours");
    let mut peer = Peer::new(&socket.endpoint, "/ours").await;
    let url = peer.url().await;
    let (mut serials, mut vouching, mut most_roots) = (BTreeSet::new(), BTreeSet::new(), 0);
    while vouching.len() < 2 {
        let renewed = peer.event("identity").await;
        assert_eq!(renewed["id"], "spiffe://a.example/python");
        assert!(serials.insert(renewed["serial"].to_string()) || most_roots > 0);
        most_roots = most_roots.max(renewed["roots"].as_u64().unwrap());
        let root = renewed["vouching"].as_array().unwrap();
        assert_eq!(root.len(), 1, "{renewed}");
        vouching.insert(root[0].to_string());

        let answer = peer.calls(&ours).await;
        let text = answer["text"].as_str().unwrap_or_default();
        assert!(
            text.ends_with("hello, spiffe://a.example/python"),
            "{answer}"
        );
        // A client of its own each time, so that each shakes hands anew.
        let client = Client::new(&us, Authorizer::id(id("/python")));
        let answer = soon(client.get(&url)).await.unwrap();
        assert_eq!(answer.body(), "hello from python");
    }
    assert!(serials.len() > 3, "{serials:?}");
    // More than two, where this program was too slow for the next rotation but one.
    assert!(most_roots >= 2, "the new root was there before it signed");
}

#[tokio::test]
async fn python_and_we_refuse_whoever_is_not_expected() {
    let (house, impostor) = (House::new(), House::new());
    let (socket, false_socket) = (
        house.socket(Some("/python")),
        impostor.socket(Some("/python")),
    );
    let mut peer = Peer::new(&socket.endpoint, "/ours").await;
    let mut false_peer = Peer::new(&false_socket.endpoint, "/ours").await;
    let (url, _) = (peer.url().await, false_peer.url().await);

    let not_ours = house.server("/other", Authorizer::any()).await;
    assert_eq!(
        peer.calls(&not_ours).await["event"],
        "refused",
        "by python, as another server"
    );
    let not_theirs = house.server("/ours", Authorizer::id(id("/other"))).await;
    let refused = peer.calls(&not_theirs).await;
    assert_eq!(
        refused["event"], "refused",
        "by us, as another client: {refused}"
    );
    let ours = house.server("/ours", Authorizer::any()).await;
    let refused = false_peer.calls(&ours).await;
    assert_eq!(
        refused["event"], "refused",
        "by either, of another root: {refused}"
    );
    let answer = peer.calls(&ours).await;
    assert_eq!(
        answer["event"], "answer",
        "and this is how it looks when nobody refuses"
    );

    let calls = |source: &Source, server: &str| {
        let client = Client::new(source, Authorizer::id(id(server)));
        let url = url.clone();
        async move { soon(client.get(&url)).await }
    };
    let ours = house.source("/ours");
    let wrong = calls(&ours, "/other").await;
    assert!(
        matches!(wrong, Err(ClientError::WrongServer { .. })),
        "{wrong:?}"
    );
    // spiffe-tls refuses with the alert of an internal error, which does not say whose fault it is.
    let refused = calls(&house.source("/stranger"), "/python").await;
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(
        calls(&ours, "/python").await.unwrap().body(),
        "hello from python"
    );
}

#[tokio::test]
async fn python_fetches_and_checks_jwt_svids() {
    let house = House::new();
    let socket = house.socket(Some("/python"));
    let mut peer = Peer::new(&socket.endpoint, "/ours").await;
    peer.event("identity").await;

    let fetched = peer.told(json!({"fetch_jwt": "ours"})).await;
    assert_eq!(fetched["id"], "spiffe://a.example/python", "{fetched}");
    let token = fetched["token"].as_str().unwrap();
    let check = |audience| {
        let bundles = house.authority.jwt_bundles();
        JwtSvid::validate(token, audience, &bundles, Timestamp::now())
    };
    assert_eq!(*check("ours").unwrap().id(), id("/python"));
    assert!(check("others").is_err());

    let (me, now) = (id("/web"), Timestamp::now());
    let issued = house
        .authority
        .mint_jwt_svid(&me, &["python".to_owned()], None, now);
    let issued = issued.unwrap();
    let token = secrecy::ExposeSecret::expose_secret(&issued.token);
    let valid = peer
        .told(json!({"validate_jwt": token, "audience": "python"}))
        .await;
    assert_eq!(valid["here"], "spiffe://a.example/web", "{valid}");
    assert_eq!(valid["there"], "spiffe://a.example/web", "{valid}");
    let refused = peer
        .told(json!({"validate_jwt": token, "audience": "others"}))
        .await;
    assert_eq!(refused["event"], "refused", "{refused}");
}

#[tokio::test]
async fn python_is_told_at_once_that_it_has_no_entry_and_why() {
    let house = House::new();
    let socket = house.socket(None);
    let mut peer = Peer::new(&socket.endpoint, "/ours").await;
    let failed = peer.says().await;
    assert_eq!(failed["event"], "failed");
    let why = failed["why"].as_str().unwrap();
    assert!(
        why.contains("PERMISSION_DENIED") && why.contains("unix:pid:"),
        "{why}"
    );
}
