//! Being a host: heartbeats, renewal, refusal, and the end.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hostler_host::Host;
use hostler_host::agent::{Agent, Ended};
use hostler_identity::{Authorizer, Client, Server, Unavailable};
use http::StatusCode;
use tempfile::{TempDir, tempdir};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::control_plane::{ControlPlane, Door, HOST_ID, Heard};
use crate::support::{host, until};

/// An agent at work.
struct Running {
    data: TempDir,
    host: Arc<Host>,
    stop: CancellationToken,
    task: JoinHandle<Ended>,
}

impl Running {
    /// A newly enrolled one.
    async fn enrolled(plane: &ControlPlane) -> Self {
        let data = tempdir().unwrap();
        let host = host(data.path()).await;
        let config = plane.registering(data.path());
        let agent = Agent::start(config, host.clone()).await.unwrap();
        Self::run(agent, data, host)
    }

    fn run(agent: Agent, data: TempDir, host: Arc<Host>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(agent.run(stop.clone()));
        Self {
            data,
            host,
            stop,
            task,
        }
    }

    async fn stop(self) -> (TempDir, Arc<Host>) {
        self.stop.cancel();
        assert!(matches!(self.task.await.unwrap(), Ended::Stopped));
        (self.data, self.host)
    }

    async fn takes_work(&self, expected: bool) {
        until("the host to change its mind about work", async || {
            (self.host.takes_work() == expected).then_some(())
        })
        .await;
    }
}

fn credentials(data: &Path) -> String {
    std::fs::read_to_string(data.join("agent/credentials.json")).unwrap()
}

#[tokio::test]
async fn heartbeats_come_at_their_interval_and_a_stop_says_goodbye() {
    let plane = ControlPlane::start().await;
    let running = Running::enrolled(&plane).await;
    plane.hears_heartbeats(3).await;
    running.stop().await;
    let desk = plane.desk();
    let Some((Heard::Heartbeat(last), before)) = desk.heard.split_last() else {
        panic!(
            "it ended with something else than a heartbeat: {:?}",
            desk.heard
        )
    };
    assert_eq!(last["goodbye"], true);
    for heard in before {
        if let Heard::Heartbeat(body) = heard {
            assert_eq!(
                *body,
                serde_json::json!({ "address": "127.0.0.1:9443", "vms": [] })
            );
        }
    }
}

#[tokio::test]
async fn renewal_comes_at_half_life_with_a_new_key_and_drops_no_request() {
    let plane = ControlPlane::start().await;
    plane.desk().svid_life = Duration::from_secs(12);
    let data = tempdir().unwrap();
    let host = host(data.path()).await;
    let agent = Agent::start(plane.registering(data.path()), host.clone())
        .await
        .unwrap();

    let server = Server::bind("127.0.0.1:0", agent.source(), agent.callers())
        .await
        .unwrap();
    let url = format!("https://{}/", server.local_addr().unwrap());
    let closing = CancellationToken::new();
    let router = Router::new().route("/", get(|| async { "here" }));
    let door = tokio::spawn(server.serve(router, closing.clone().cancelled_owned()));
    let this_host = agent.source().id().unwrap();
    let client = Client::new(&plane.source, Authorizer::id(this_host));

    let first = agent.source().svid_expiry().unwrap();
    let source = agent.source().clone();
    let running = Running::run(agent, data, host);
    let since = std::time::Instant::now();
    until("two renewals", async || {
        let answer = client.get(&url).await.unwrap();
        assert_eq!(answer.body().as_ref(), b"here");
        (plane.renewals(Door::Machines).len() >= 2).then_some(())
    })
    .await;
    assert!(
        since.elapsed() > Duration::from_secs(8),
        "renewed long before half of its life"
    );
    assert!(source.svid_expiry().unwrap() > first);
    let keys = plane.renewals(Door::Machines);
    let different: HashSet<_> = keys.iter().collect();
    assert_eq!(different.len(), keys.len(), "a key was used twice");
    assert!(plane.renewals(Door::Peoples).is_empty());

    closing.cancel();
    door.await.unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_host_that_was_down_too_long_comes_back_by_its_host_token() {
    let plane = ControlPlane::start().await;
    plane.desk().svid_life = Duration::from_secs(2);
    let data = tempdir().unwrap();
    let host = host(data.path()).await;
    let agent = Agent::start(plane.registering(data.path()), host.clone())
        .await
        .unwrap();
    let lapsed = async || matches!(agent.source().id(), Err(Unavailable::Expired(_))).then_some(());
    until("the identity to lapse", lapsed).await;
    drop(agent);

    plane.desk().svid_life = Duration::from_secs(3600);
    let agent = Agent::start(plane.config(data.path()), host.clone())
        .await
        .unwrap();
    assert!(
        agent.source().id().is_err(),
        "a lapsed identity is presented"
    );
    let source = agent.source().clone();
    let running = Running::run(agent, data, host);
    plane.hears_heartbeats(1).await;
    assert_eq!(plane.renewals(Door::Peoples).len(), 1);
    assert_eq!(source.id().unwrap().path(), format!("/host/{HOST_ID}"));
    running.stop().await;
}

#[tokio::test]
async fn renewed_credentials_are_the_ones_that_a_restart_finds() {
    let plane = ControlPlane::start().await;
    let running = Running::enrolled(&plane).await;
    let before = credentials(running.data.path());
    plane.desk().heartbeats = StatusCode::UNAUTHORIZED;
    until("a renewal", async || {
        (plane.renewals(Door::Machines).len() == 1).then_some(())
    })
    .await;
    plane.desk().heartbeats = StatusCode::NO_CONTENT;
    plane.hears_heartbeats(2).await;
    let (data, host) = running.stop().await;
    assert_ne!(credentials(data.path()), before);
    let resumed = Agent::start(plane.config(data.path()), host).await.unwrap();
    assert_eq!(resumed.host_id(), HOST_ID);
}

#[tokio::test]
async fn a_refused_host_renews_then_stops_taking_work_until_it_is_accepted() {
    let plane = ControlPlane::start().await;
    plane.desk().heartbeats = StatusCode::FORBIDDEN;
    let running = Running::enrolled(&plane).await;
    running.takes_work(false).await;
    assert!(
        !plane.renewals(Door::Machines).is_empty(),
        "it gave up without renewing"
    );
    plane.desk().heartbeats = StatusCode::NO_CONTENT;
    running.takes_work(true).await;
    running.stop().await;
}

#[tokio::test]
async fn a_refused_certificate_is_renewed_by_the_host_token() {
    let plane = ControlPlane::start().await;
    plane.desk().heartbeats = StatusCode::UNAUTHORIZED;
    plane.desk().renewals_by_svid = StatusCode::UNAUTHORIZED;
    let running = Running::enrolled(&plane).await;
    until("a renewal", async || {
        (!plane.renewals(Door::Peoples).is_empty()).then_some(())
    })
    .await;
    plane.desk().heartbeats = StatusCode::NO_CONTENT;
    running.takes_work(true).await;
    running.stop().await;
}

#[tokio::test]
async fn a_deleted_host_forgets_its_credentials_and_ends() {
    let plane = ControlPlane::start().await;
    let running = Running::enrolled(&plane).await;
    plane.hears_heartbeats(1).await;
    plane.desk().heartbeats = StatusCode::NOT_FOUND;
    let ended = running.task.await.unwrap();
    let Ended::Forgotten(forgotten) = ended else {
        panic!("{ended:?}")
    };
    assert_eq!(forgotten.host_id, HOST_ID);
    assert!(forgotten.to_string().contains("--register"), "{forgotten}");
    assert!(!running.data.path().join("agent/credentials.json").exists());
}

#[tokio::test]
async fn an_absent_control_plane_stops_no_work_and_is_found_again() {
    let mut plane = ControlPlane::start().await;
    let running = Running::enrolled(&plane).await;
    plane.hears_heartbeats(1).await;
    plane.close().await;
    plane.turns_away(4).await;
    assert!(running.host.takes_work());
    assert!(!running.task.is_finished());
    plane.open().await;
    plane.hears_heartbeats(2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_restarted_host_needs_no_control_plane_to_start() {
    let mut plane = ControlPlane::start().await;
    let (data, host) = Running::enrolled(&plane).await.stop().await;
    plane.close().await;
    let agent = Agent::start(plane.config(data.path()), host.clone())
        .await
        .unwrap();
    assert!(agent.source().id().is_ok());
    let running = Running::run(agent, data, host);
    plane.open().await;
    plane.hears_heartbeats(1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_control_plane_in_trouble_is_not_taken_for_one_that_refuses() {
    let plane = ControlPlane::start().await;
    plane.desk().heartbeats = StatusCode::INTERNAL_SERVER_ERROR;
    let running = Running::enrolled(&plane).await;
    plane.hears_heartbeats(3).await;
    assert!(running.host.takes_work());
    assert!(plane.renewals(Door::Machines).is_empty());
    running.stop().await;
}
