//! The host door: who gets in, and as whom.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use hostler_host::Host;
use hostler_host::agent::Agent;
use hostler_identity::{Authorizer, Client, ClientError, PeerIdentity, Server, Source};
use hostler_operations::Scope;
use tempfile::tempdir;
use tokio_util::sync::CancellationToken;

use crate::control_plane::ControlPlane;
use crate::support::host;

async fn whoami(State(host): State<Arc<Host>>, peer: PeerIdentity) -> String {
    let identity = host.identify(Some(&peer)).unwrap();
    let may = [
        "vms:read",
        "vms:write",
        "images:read",
        "images:write",
        "hosts:read",
    ];
    assert!(
        may.iter()
            .all(|scope| identity.grants().holds(&Scope::new(scope)))
    );
    assert!(!identity.grants().holds(&Scope::new("hosts:write")));
    identity.subject().to_owned()
}

#[tokio::test]
async fn only_the_control_plane_gets_in_and_only_the_right_host_is_spoken_to() {
    let plane = ControlPlane::start().await;
    let data = tempdir().unwrap();
    let host = host(data.path()).await;
    assert!(host.identify(None).is_none());
    let agent = Agent::start(plane.registering(data.path()), host.clone())
        .await
        .unwrap();
    let server = Server::bind("127.0.0.1:0", agent.source(), agent.callers())
        .await
        .unwrap();
    let url = format!("https://{}/", server.local_addr().unwrap());
    let closing = CancellationToken::new();
    let router = Router::new().route("/", get(whoami)).with_state(host);
    let door = tokio::spawn(server.serve(router, closing.clone().cancelled_owned()));
    let this_host = agent.source().id().unwrap();

    let client = Client::new(&plane.source, Authorizer::id(this_host.clone()));
    let answer = client.get(&url).await.unwrap();
    assert_eq!(
        answer.body().as_ref(),
        b"spiffe://test.internal/control-plane/1"
    );

    let another = "spiffe://test.internal/host/another".parse().unwrap();
    let mistaken = Client::new(&plane.source, Authorizer::id(another));
    let refused = mistaken.get(&url).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::WrongServer { .. }),
        "{refused}"
    );

    for path in [
        "/host/another",
        "/control-plane",
        "/control-plane-2/1",
        "/operator",
    ] {
        let svid = plane.trust_domain_ca.svid(path);
        let (source, _writer) = Source::memory(svid, plane.trust_domain_ca.bundles());
        let client = Client::new(&source, Authorizer::id(this_host.clone()));
        let refused = client.get(&url).await.unwrap_err();
        assert!(
            matches!(refused, ClientError::RefusedByServer { .. }),
            "{path}: {refused}"
        );
    }
    closing.cancel();
    door.await.unwrap();
}
