//! Addresses of a Workload API.

use hostler_identity::{EndpointError, WorkloadEndpoint};
use proptest::prelude::*;

fn parse(text: &str) -> Result<WorkloadEndpoint, EndpointError> {
    text.parse()
}

#[test]
fn sockets_and_ip_addresses_are_taken() {
    for (text, as_written) in [
        (
            "unix:///run/spire/agent/api.sock",
            "unix:///run/spire/agent/api.sock",
        ),
        ("unix:/run/api.sock", "unix:///run/api.sock"),
        ("unix:///a@b/c:d,e=f/..sock", "unix:///a@b/c:d,e=f/..sock"),
        ("tcp://127.0.0.1:8081", "tcp://127.0.0.1:8081"),
        ("tcp://[::1]:8081", "tcp://[::1]:8081"),
    ] {
        assert_eq!(parse(text).unwrap().to_string(), as_written);
    }
}

#[test]
fn everything_else_is_refused_with_its_reason() {
    use EndpointError as E;
    for (text, reason) in [
        ("", E::Scheme),
        ("/run/api.sock", E::Scheme),
        ("http://127.0.0.1:1", E::Scheme),
        ("UNIX:///run/api.sock", E::Scheme),
        (" unix:///run/api.sock", E::Scheme),
        ("tcp:127.0.0.1:1", E::Scheme),
        ("unix:", E::UnixPath),
        ("unix:///", E::UnixPath),
        ("unix:run/api.sock", E::UnixPath),
        ("unix://host/run/api.sock", E::UnixPath),
        ("unix://user@/run/api.sock", E::UnixPath),
        ("unix:///run/../api.sock", E::UnusualPath),
        ("unix:///run//api.sock", E::UnusualPath),
        ("unix:////run/api.sock", E::UnusualPath),
        ("unix:///run/", E::UnusualPath),
        ("unix:///run/api.sock?x", E::UnusualPath),
        ("unix:///run/api.sock#x", E::UnusualPath),
        ("unix:///run/a%20b", E::UnusualPath),
        ("unix:///run/a b", E::UnusualPath),
        ("unix:///run/a\n", E::UnusualPath),
        ("unix:///run/ä", E::UnusualPath),
        ("tcp://localhost:1", E::TcpAddress),
        ("tcp://127.0.0.1", E::TcpAddress),
        ("tcp://127.0.0.1:", E::TcpAddress),
        ("tcp://127.0.0.1:0", E::TcpAddress),
        ("tcp://127.0.0.1:65536", E::TcpAddress),
        ("tcp://127.0.0.1:1/", E::TcpAddress),
        ("tcp://127.0.0.1:1?x", E::TcpAddress),
        ("tcp://user@127.0.0.1:1", E::TcpAddress),
        ("tcp://127.1:1", E::TcpAddress),
        ("tcp://::1:1", E::TcpAddress),
        ("tcp://[fe80::1%1]:1", E::TcpAddress),
    ] {
        assert_eq!(parse(text), Err(reason), "{text:?}");
    }
}

#[test]
fn a_path_becomes_an_endpoint_if_it_can_be_written_as_one() {
    let endpoint = WorkloadEndpoint::unix("/run/api.sock".as_ref()).unwrap();
    assert_eq!(endpoint.to_string(), "unix:///run/api.sock");
    for path in ["run/api.sock", "/run/a b"] {
        assert!(WorkloadEndpoint::unix(path.as_ref()).is_err(), "{path}");
    }
}

proptest! {
    #[test]
    fn what_is_taken_is_written_as_it_is_read(
        text in "(unix:/{0,4}|tcp://)[a-z0-9.:@%?# \\[\\]/-]{0,20}",
    ) {
        if let Ok(endpoint) = parse(&text) {
            let written = endpoint.to_string();
            prop_assert_eq!(parse(&written), Ok(endpoint));
        }
    }

    #[test]
    fn any_text_is_judged_without_a_panic(text in "\\PC*") {
        let _ = parse(&text);
        let _ = parse(&format!("unix:/{text}"));
    }
}
