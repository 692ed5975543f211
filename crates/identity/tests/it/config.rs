//! Configuration: what a file and the environment say, and what of it is refused, and where.

use std::net::IpAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hostler_identity::config::{Config, ConfigError, Place, Policy, StartError};
use hostler_identity::{Authorizer, Client, ClientError, PeerIdentity};
use proptest::prelude::*;

use crate::agent::Agent;
use crate::certs::Ca;
use crate::support::{soon, source};

/// As the design of the library has it, word for word.
const SEED: &str = "# config.yaml
http:
  enabled: true
  port: 8443
  # Authentication only - use go-spiffe authorizers
  authentication:
    policy: trust-domain  # or: any, specific-id
    trust_domain: example.org
    allowed_ids:  # if policy is specific-id
      - spiffe://example.org/service/client1
      - spiffe://example.org/service/client2

spire:
  socket_path: unix:///tmp/spire-agent/public/api.sock
  trust_domain: example.org
";

fn parse(yaml: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse("config.yaml", yaml, variables)
}

/// The refusal of a text, as somebody reads it.
fn refusal(yaml: &str, variables: &[(&str, &str)]) -> String {
    parse(yaml, variables).expect_err(yaml).to_string()
}

#[test]
fn the_file_of_the_design_is_taken_and_each_of_its_policies() {
    let config = parse(SEED, &[]).unwrap();
    assert!(config.http.enabled);
    assert_eq!(config.http.port, 8443);
    assert_eq!(config.http.address, IpAddr::from([0, 0, 0, 0]));
    assert_eq!(config.http.timeout, Duration::from_secs(30));
    assert_eq!(config.http.health_port, None);
    let Policy::TrustDomain(domain) = &config.http.authentication else {
        panic!("{config:?}")
    };
    assert_eq!(domain.as_str(), "example.org");
    let endpoint = config.spire.socket_path.to_string();
    assert_eq!(endpoint, "unix:///tmp/spire-agent/public/api.sock");

    let specific = parse(
        &SEED.replace("policy: trust-domain", "policy: specific-id"),
        &[],
    );
    let Policy::SpecificId(ids) = specific.unwrap().http.authentication else {
        panic!()
    };
    assert_eq!(ids.len(), 2);

    let any = "http:\n  authentication:\n    policy: any\nspire:\n  socket_path: unix:///a\n";
    assert_eq!(parse(any, &[]).unwrap().http.authentication, Policy::Any);
}

#[test]
fn every_key_can_be_overridden_and_a_file_is_not_needed() {
    let variables = [
        ("HOSTLER_HTTP_ENABLED", "false"),
        ("HOSTLER_HTTP_ADDRESS", "::1"),
        ("HOSTLER_HTTP_PORT", "9000"),
        ("HOSTLER_HTTP_HEALTH_PORT", "9001"),
        ("HOSTLER_HTTP_TIMEOUT_SECS", "5"),
        ("HOSTLER_HTTP_AUTHENTICATION_POLICY", "specific-id"),
        ("HOSTLER_HTTP_AUTHENTICATION_TRUST_DOMAIN", "b.example"),
        (
            "HOSTLER_HTTP_AUTHENTICATION_ALLOWED_IDS",
            "spiffe://b.example/a, spiffe://b.example/b",
        ),
        ("HOSTLER_SPIRE_SOCKET_PATH", "tcp://127.0.0.1:1"),
        ("HOSTLER_SPIRE_TRUST_DOMAIN", "c.example"),
        // Not ours.
        ("HOSTLER_LOG", "info"),
        ("HOSTLER_HTTP_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    for yaml in [SEED, ""] {
        let config = parse(yaml, &variables).unwrap();
        assert!(!config.http.enabled);
        assert_eq!(config.http.address, "::1".parse::<IpAddr>().unwrap());
        assert_eq!(
            (config.http.port, config.http.health_port),
            (9000, Some(9001))
        );
        assert_eq!(config.http.timeout, Duration::from_secs(5));
        let Policy::SpecificId(ids) = config.http.authentication else {
            panic!()
        };
        assert_eq!(ids.len(), 2);
        assert_eq!(config.spire.socket_path.to_string(), "tcp://127.0.0.1:1");
        assert_eq!(config.spire.trust_domain.unwrap().as_str(), "c.example");
    }
}

#[test]
fn the_standard_variable_says_where_the_workload_api_is_when_nothing_else_does() {
    let standard = ("SPIFFE_ENDPOINT_SOCKET", "unix:///run/standard.sock");
    let policy = ("HOSTLER_HTTP_AUTHENTICATION_POLICY", "any");
    let config = parse("", &[standard, policy]).unwrap();
    assert_eq!(config.spire.socket_path.to_string(), standard.1);
    let config = parse(SEED, &[standard]).unwrap();
    assert!(
        config
            .spire
            .socket_path
            .to_string()
            .contains("/tmp/spire-agent")
    );
    let broken = refusal("", &[("SPIFFE_ENDPOINT_SOCKET", "/run/x"), policy]);
    assert!(
        broken.starts_with("the variable SPIFFE_ENDPOINT_SOCKET: "),
        "{broken}"
    );
}

#[test]
fn an_unknown_key_and_a_wrong_type_are_named_with_their_line() {
    for (from, to, words) in [
        ("  port:", "  prot:", ["`prot`", "line 4"]),
        ("policy:", "polcy:", ["`polcy`", "line 7"]),
        ("spire:", "spiffe:", ["`spiffe`", "line 13"]),
        ("8443", "eight", ["http.port", "line 4"]),
        ("8443", "84430", ["http.port", "line 4"]),
        ("true", "perhaps", ["http.enabled", "line 3"]),
    ] {
        let said = refusal(&SEED.replace(from, to), &[]);
        for word in words {
            assert!(said.contains(word), "{from} -> {to}: {said}");
        }
    }
    let twice = SEED.replace("  port: 8443", "  port: 8443\n  port: 8444");
    assert!(
        refusal(&twice, &[]).contains("duplicate"),
        "a key that stands twice"
    );
}

#[test]
fn a_policy_that_contradicts_itself_is_named_with_its_line() {
    let policy = "config.yaml line 7: http.authentication.policy: ";
    let with = |from: &str, to: &str| refusal(&SEED.replace(from, to), &[]);
    let said = with("policy: trust-domain", "policy: any");
    assert!(
        said.starts_with(policy) && said.contains("any contradicts"),
        "{said}"
    );
    let said = with("policy: trust-domain", "policy: everybody");
    assert!(
        said.starts_with(policy) && said.contains("no policy"),
        "{said}"
    );
    let said = with("    trust_domain: example.org\n    allowed", "    allowed");
    assert!(
        said.starts_with(policy) && said.contains("trust-domain needs"),
        "{said}"
    );
    let empty = SEED.replace("policy: trust-domain", "policy: specific-id");
    let list = &SEED[SEED.find("    allowed_ids").unwrap()..SEED.find("\nspire").unwrap()];
    let said = refusal(&empty.replace(list, ""), &[]);
    assert!(
        said.starts_with(policy) && said.contains("specific-id needs"),
        "{said}"
    );
    let said = refusal(&empty.replace(list, "    allowed_ids: []\n"), &[]);
    assert!(
        said.starts_with(policy) && said.contains("specific-id needs"),
        "{said}"
    );
    let any = "http:\n  authentication:\n    policy: any\n    allowed_ids: [spiffe://a/b]\n";
    assert!(refusal(any, &[]).contains("line 3"));

    let second = "config.yaml line 11: http.authentication.allowed_ids: ";
    for id in [
        "spiffe://other.org/x",
        "spiffe://example.org//x",
        "spiffe://example.org",
        "x",
    ] {
        let said = with("spiffe://example.org/service/client2", id);
        assert!(said.starts_with(second), "{said}");
    }
    let said = with(
        "  trust_domain: example.org\n",
        "  trust_domain: Example.org\n",
    );
    assert!(said.contains("lower case"), "{said}");
    let said = with("unix:///tmp", "/tmp");
    assert!(
        said.starts_with("config.yaml line 14: spire.socket_path: "),
        "{said}"
    );
    let said = refusal("spire:\n  socket_path: unix:///a\n", &[]);
    assert!(
        said.starts_with("config.yaml: http.authentication.policy: it is missing"),
        "{said}"
    );
    let said = with("  port: 8443", "  port: 8443\n  health_port: 8443");
    assert!(
        said.starts_with("config.yaml line 5: http.health_port: "),
        "{said}"
    );
    let said = with("  port: 8443", "  timeout_secs: 0");
    assert!(
        said.starts_with("config.yaml line 4: http.timeout_secs: "),
        "{said}"
    );
}

#[test]
fn a_variable_that_is_wrong_is_named() {
    let said = refusal(SEED, &[("HOSTLER_HTTP_PORT", "tcp://10.0.0.1:80")]);
    assert!(
        said.starts_with("the variable HOSTLER_HTTP_PORT: http.port: "),
        "{said}"
    );
    let error = parse(SEED, &[("HOSTLER_HTTP_AUTHENTICATION_POLICY", "any")]).unwrap_err();
    let ConfigError::Value { place, .. } = error else {
        panic!("{error}")
    };
    let name = "HOSTLER_HTTP_AUTHENTICATION_POLICY".to_owned();
    assert_eq!(place, Place::Variable(name));
    let said = refusal(
        SEED,
        &[(
            "HOSTLER_HTTP_AUTHENTICATION_ALLOWED_IDS",
            "spiffe://other.org/x",
        )],
    );
    assert!(
        said.starts_with("the variable HOSTLER_HTTP_AUTHENTICATION_ALLOWED_IDS: "),
        "{said}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let said = Config::load(Some("/nowhere/config.yaml".as_ref())).unwrap_err();
    assert!(said.to_string().contains("/nowhere/config.yaml"));
}

fn file_for(agent: &Agent, policy: &str, trust_domain: &str) -> String {
    format!(
        "http:\n  address: 127.0.0.1\n  port: 0\n  health_port: 0\n  authentication:\n{policy}\n\
         spire:\n  socket_path: {}\n  trust_domain: {trust_domain}\n",
        agent.endpoint
    )
}

#[tokio::test]
async fn a_configuration_becomes_a_server_and_a_client_in_one_call_each() {
    let ca = Ca::new("a.example");
    let (api, web) = (Agent::new(), Agent::new());
    api.give(&ca, ca.raw("/api", |_| {}), &[]);
    web.give(&ca, ca.raw("/web", |_| {}), &[]);
    let only = |id: &str| format!("    policy: specific-id\n    allowed_ids: [{id}]");
    let server = file_for(&api, &only("spiffe://a.example/web"), "a.example");
    let (_source, server) = soon(parse(&server, &[]).unwrap().server()).await.unwrap();
    let tell = get(|peer: PeerIdentity| async move { peer.id().to_string() });
    let running = server.start(Router::new().route("/", tell)).unwrap();
    assert!(running.health_addr().is_some());
    let url = format!("https://{}/", running.local_addr());

    let client = |id| parse(&file_for(&web, &only(id), "a.example"), &[]).unwrap();
    let (_source, right) = soon(client("spiffe://a.example/api").client())
        .await
        .unwrap();
    assert_eq!(
        soon(right.get(&url)).await.unwrap().body(),
        "spiffe://a.example/web"
    );
    let (_source, wrong) = soon(client("spiffe://a.example/other").client())
        .await
        .unwrap();
    let refused = soon(wrong.get(&url)).await.unwrap_err();
    assert!(
        matches!(refused, ClientError::WrongServer { .. }),
        "{refused:?}"
    );
    let (other, _o) = source(&ca, "/other");
    let refused = soon(Client::new(&other, Authorizer::any()).get(&url))
        .await
        .unwrap_err();
    assert!(
        matches!(refused, ClientError::RefusedByServer { .. }),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_a_configuration_describes_must_be_there() {
    let (ca, agent) = (Ca::new("a.example"), Agent::new());
    let any = "    policy: any";
    let config = parse(&file_for(&agent, any, "a.example"), &[]).unwrap();
    let refused = soon(config.server()).await.unwrap_err();
    assert!(matches!(refused, StartError::Identity(_)), "{refused:?}");

    agent.give(&ca, ca.raw("/api", |_| {}), &[]);
    let off = parse(
        &file_for(&agent, any, "a.example"),
        &[("HOSTLER_HTTP_ENABLED", "false")],
    );
    let refused = soon(off.unwrap().server()).await.unwrap_err();
    assert!(matches!(refused, StartError::Disabled), "{refused:?}");
    let elsewhere = parse(&file_for(&agent, any, "b.example"), &[]).unwrap();
    let refused = soon(elsewhere.source()).await.unwrap_err();
    assert!(
        matches!(refused, StartError::OtherTrustDomain { .. }),
        "{refused:?}"
    );

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for variable in ["HOSTLER_HTTP_PORT", "HOSTLER_HTTP_HEALTH_PORT"] {
        let config = parse(&file_for(&agent, any, "a.example"), &[(variable, &port)]).unwrap();
        let refused = soon(config.server()).await.unwrap_err();
        assert!(matches!(refused, StartError::Listen { .. }), "{refused:?}");
        assert!(refused.to_string().contains(&port), "{refused}");
    }
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(text in "\\PC*(\n *[a-z_]*:? \\PC*){0,6}") {
        let _ = parse(&text, &[]);
    }

    #[test]
    fn a_port_and_ids_that_are_written_are_read_back(
        port: u16,
        paths in prop::collection::btree_set("[a-z0-9]{1,8}(/[A-Za-z0-9_-]{1,8}){0,2}", 1..5),
        enabled: bool,
        timeout in 1_u64..100_000,
    ) {
        let ids: Vec<String> = paths.iter().map(|path| format!("spiffe://a.example/{path}")).collect();
        let list: String = ids.iter().map(|id| format!("      - {id}\n")).collect();
        let yaml = format!(
            "http:\n  enabled: {enabled}\n  port: {port}\n  timeout_secs: {timeout}\n  \
             authentication:\n    policy: specific-id\n    allowed_ids:\n{list}\
             spire:\n  socket_path: unix:///a\n"
        );
        let config = parse(&yaml, &[]).unwrap();
        prop_assert_eq!((config.http.port, config.http.enabled), (port, enabled));
        prop_assert_eq!(config.http.timeout, Duration::from_secs(timeout));
        let Policy::SpecificId(read) = config.http.authentication else { panic!() };
        let read: std::collections::BTreeSet<String> = read.iter().map(ToString::to_string).collect();
        prop_assert_eq!(read, ids.into_iter().collect());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_wherever_it_stands(
        key in "[a-z]{3,10}", above in 0_usize..4,
    ) {
        prop_assume!(!["http", "spire"].contains(&key.as_str()));
        let yaml = format!("{}{key}: 1\n", "# nothing\n".repeat(above));
        let said = refusal(&yaml, &[]);
        let (key, line) = (format!("`{key}`"), format!("line {}", above + 1));
        prop_assert!(said.contains(&key), "{said}");
        prop_assert!(said.contains(&line), "{said}");
    }
}
