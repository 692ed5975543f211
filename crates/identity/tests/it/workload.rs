//! Identities from a Workload API.

use hostler_identity::{
    Authorizer, Client, Source, Svid, TrustDomain, Unavailable, WorkloadApiFailure, WorkloadStream,
    certificates_pem,
};
use tonic::Code;

use crate::agent::{Agent, leaf};
use crate::certs::Ca;
use crate::support::{Running, soon, source};

async fn changed(source: &mut Source) {
    soon(source.changed()).await.unwrap();
}

#[tokio::test]
async fn an_identity_comes_from_the_agent_and_follows_its_renewals() {
    let (ca, agent) = (Ca::new("a.example"), Agent::new());
    agent.give(&ca, ca.raw("/web", |_| {}), &[]);
    let mut web = soon(Source::workload_api(&agent.endpoint)).await.unwrap();
    assert_eq!(web.id().unwrap().to_string(), "spiffe://a.example/web");

    let renewed = ca.raw("/web", |_| {});
    let expected = leaf(&renewed);
    agent.give(&ca, renewed, &[]);
    changed(&mut web).await;
    assert_eq!(web.svid().unwrap().chain()[0], expected);
}

#[tokio::test]
async fn federated_bundles_come_along() {
    let (ours, theirs, agent) = (Ca::new("a.example"), Ca::new("b.example"), Agent::new());
    agent.give(&ours, ours.raw("/web", |_| {}), &[&theirs]);
    let web = soon(Source::workload_api(&agent.endpoint)).await.unwrap();
    let (server, _s) = Source::memory(theirs.svid("/api"), crate::certs::bundles([&ours, &theirs]));
    let us = Authorizer::member_of(TrustDomain::new("a.example").unwrap());
    let running = Running::new(&server, us).await;
    let them = Authorizer::member_of(TrustDomain::new("b.example").unwrap());
    let answer = Client::new(&web, them)
        .get(&running.url("/"))
        .await
        .unwrap();
    assert_eq!(answer.body(), "spiffe://a.example/web");
}

#[tokio::test]
async fn an_identity_that_the_agent_takes_back_is_withdrawn_until_it_returns() {
    let (ca, agent) = (Ca::new("a.example"), Agent::new());
    agent.give(&ca, ca.raw("/web", |_| {}), &[]);
    let mut web = soon(Source::workload_api(&agent.endpoint)).await.unwrap();
    agent.refuse(Code::PermissionDenied);
    changed(&mut web).await;
    assert_eq!(web.id(), Err(Unavailable::Withdrawn));
    agent.give(&ca, ca.raw("/web", |_| {}), &[]);
    changed(&mut web).await;
    assert_eq!(web.id().unwrap().to_string(), "spiffe://a.example/web");
}

#[tokio::test]
async fn an_agent_that_is_away_takes_nothing_back() {
    let (ca, agent) = (Ca::new("a.example"), Agent::new());
    agent.give(&ca, ca.raw("/web", |_| {}), &[]);
    let mut web = soon(Source::workload_api(&agent.endpoint)).await.unwrap();
    agent.refuse(Code::Unavailable);
    let quiet = std::time::Duration::from_millis(500);
    assert!(
        tokio::time::timeout(quiet, web.changed()).await.is_err(),
        "no change is seen"
    );
    assert!(web.svid().is_ok());
}

#[tokio::test]
async fn an_svid_that_breaks_our_rules_is_not_taken_from_the_agent_either() {
    let (ca, agent) = (Ca::new("a.example"), Agent::new());
    let half = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    };
    agent.give(&ca, ca.raw("/web", half), &[]);
    let refused = soon(Source::workload_api(&agent.endpoint))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, WorkloadApiFailure::Unusable { .. }),
        "{refused:?}"
    );

    agent.give(&ca, ca.raw("/web", |_| {}), &[]);
    let mut web = soon(Source::workload_api(&agent.endpoint)).await.unwrap();
    agent.give(&ca, ca.raw("/web", half), &[]);
    changed(&mut web).await;
    assert_eq!(web.id(), Err(Unavailable::Withdrawn));
}

#[tokio::test]
async fn a_process_without_an_entry_is_told_so_at_once() {
    let agent = Agent::new();
    let refused = soon(Source::workload_api(&agent.endpoint))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, WorkloadApiFailure::NoIdentity { .. }),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("register an entry"));
}

#[tokio::test]
async fn a_wrong_endpoint_is_an_error_at_once() {
    for (endpoint, reason) in [
        ("unix:///nowhere/agent.sock", "No such file"),
        ("tcp://127.0.0.1:1", "refused"),
    ] {
        let refused = soon(Source::workload_api(endpoint)).await.unwrap_err();
        assert!(
            matches!(refused, WorkloadApiFailure::Unreachable { .. }),
            "{refused:?}"
        );
        let said = refused.to_string();
        assert!(said.contains(endpoint) && said.contains(reason), "{said}");
    }
    for endpoint in ["http://x/", "nonsense"] {
        let refused = soon(Source::workload_api(endpoint)).await.unwrap_err();
        assert!(
            matches!(refused, WorkloadApiFailure::Endpoint { .. }),
            "{refused:?}"
        );
        assert!(refused.to_string().contains(endpoint));
    }
}

#[tokio::test]
async fn without_its_agent_a_server_serves_on_until_expiry_and_recovers_by_itself() {
    let (ca, mut agent) = (Ca::new("a.example"), Agent::new());
    let ends = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(8);
    let short_lived = ca.raw("/api", |params| {
        params.not_after = time::OffsetDateTime::from_unix_timestamp(ends.as_second()).unwrap();
    });
    agent.give(&ca, short_lived, &[]);
    let mut api = soon(Source::workload_api(&agent.endpoint)).await.unwrap();
    let running = Running::new(&api, Authorizer::any()).await;
    let url = running.url("/");
    let (web, _w) = source(&ca, "/web");
    // A client of its own for each request, so that each shakes hands.
    let ask = async || Client::new(&web, Authorizer::any()).get(&url).await;

    agent.die();
    assert_eq!(ask().await.unwrap().status(), 200, "served on");
    soon(async {
        while api.svid().is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(matches!(api.svid(), Err(Unavailable::Expired(_))));
    assert!(ask().await.is_err(), "not presented any more");

    agent.give(&ca, ca.raw("/api", |_| {}), &[]);
    agent.rise();
    changed(&mut api).await;
    assert_eq!(ask().await.unwrap().status(), 200, "recovered by itself");
}

#[tokio::test]
async fn a_stream_hands_an_identity_on_with_its_key() {
    let (ca, agent) = (Ca::new("a.example"), Agent::new());
    agent.give(&ca, ca.raw("/web", |_| {}), &[]);
    let mut stream = soon(WorkloadStream::open(&agent.endpoint)).await.unwrap();
    let first = stream.current().unwrap();
    let chain = certificates_pem(first.svid.chain());
    let again = Svid::from_pem(&chain, &first.key_pem).expect("the key is the chain's");
    assert_eq!(again.id(), first.svid.id());
    assert_eq!(first.bundles, ca.bundles());
    assert!(!format!("{first:?}").contains("BEGIN PRIVATE"));

    agent.refuse(Code::PermissionDenied);
    soon(stream.changed()).await.unwrap();
    assert!(stream.current().is_err(), "withdrawn");
}

#[tokio::test]
async fn a_server_on_an_agents_identity_presents_the_renewed_one() {
    let (ca, agent) = (Ca::new("a.example"), Agent::new());
    agent.give(&ca, ca.raw("/api", |_| {}), &[]);
    let mut api = soon(Source::workload_api(&agent.endpoint)).await.unwrap();
    let running = Running::new(&api, Authorizer::any()).await;
    let (web, _w) = source(&ca, "/web");
    let renewed = ca.raw("/api", |_| {});
    let expected = leaf(&renewed);
    agent.give(&ca, renewed, &[]);
    changed(&mut api).await;
    let config = hostler_identity::client_config(&web, Authorizer::any());
    let tls = crate::support::connect(running.address, config)
        .await
        .unwrap();
    assert_eq!(tls.get_ref().1.peer_certificates().unwrap()[0], expected);
}
