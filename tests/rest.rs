//! Every REST route that the control plane's own document lists, met with every credential and
//! every malformed input. A route that is added is tested without a line here.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::Plane;

/// One route of the document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    method: String,
    /// With a name in place of each parameter.
    path: String,
    open: bool,
    takes_body: bool,
}

fn routes(plane: &Plane, token: &str) -> BTreeSet<Route> {
    let document = plane.curl(Some(token), &[], "/openapi.json").json();
    let paths = document["paths"].as_object().expect("paths");
    let rest = paths.iter().filter(|(path, _)| path.starts_with("/v1/"));
    rest.flat_map(|(path, operations)| {
        let operations = operations.as_object().expect("operations").iter();
        operations
            .filter(|(method, _)| *method != "parameters")
            .map(|(method, operation)| Route {
                method: method.to_uppercase(),
                path: filled(path),
                open: is_open(operation),
                takes_body: operation.get("requestBody").is_some(),
            })
    })
    .collect()
}

/// No way of proving oneself is asked for, or to show nothing is one of the ways.
fn is_open(operation: &Value) -> bool {
    let nothing = |way: &Value| way.as_object().is_some_and(|way| way.is_empty());
    let ways = operation["security"]
        .as_array()
        .expect("it says who may call");
    ways.is_empty() || ways.iter().any(nothing)
}

fn filled(path: &str) -> String {
    let segments = path
        .split('/')
        .map(|s| if s.starts_with('{') { "nothing" } else { s });
    segments.collect::<Vec<_>>().join("/")
}

#[test]
fn every_route_refuses_whoever_may_not_use_it() {
    let plane = Plane::start();
    let all = routes(&plane, plane.key());
    assert!(all.len() > 25, "the document lists only {all:#?}");
    let create = ["api-key", "create", "narrow", "--scope", "images:read"];
    let narrow = plane.ask(&create)["secret"]
        .as_str()
        .expect("a key")
        .to_owned();
    let permitted = routes(&plane, &narrow);
    assert!(permitted.len() < all.len() && !permitted.is_empty());

    for route in all.iter().filter(|route| !route.open) {
        let ask = |token| {
            let arguments = ["--request", &route.method, "--json", "{}"];
            plane.curl(token, &arguments, &route.path)
        };
        let anonymous = ask(None);
        assert_eq!(
            (anonymous.status, &*anonymous.code()),
            (401, "unauthorized"),
            "{route:?}"
        );
        assert!(
            anonymous
                .headers
                .to_lowercase()
                .contains("www-authenticate: bearer")
        );
        let stranger = ask(Some("hst_ffffffffffffffffffffffffffffffff"));
        assert_eq!(
            (stranger.status, &*stranger.code()),
            (401, "unauthorized"),
            "{route:?}"
        );
        if !permitted.contains(route) {
            let lesser = ask(Some(&narrow));
            assert_eq!(
                (lesser.status, &*lesser.code()),
                (403, "forbidden"),
                "{route:?}"
            );
            assert!(lesser.message().contains(':'), "which scope? {lesser:?}");
        }
    }
}

#[test]
fn every_route_refuses_input_that_it_does_not_know() {
    let plane = Plane::start();
    let big = plane.path("big.json");
    std::fs::write(&big, format!("{{\"x\":\"{}\"}}", "y".repeat(2 << 20))).expect("written");
    let big = format!("@{}", big.display());
    let ask = |route: &Route, arguments: &[&str], query: &str| {
        // curl's --json takes JSON only, and subscriptions answer with events.
        let request = ["--request", &route.method, "--header", "Accept: */*"];
        let arguments = [&request, arguments].concat();
        plane.curl(
            Some(plane.key()),
            &arguments,
            &format!("{}{query}", route.path),
        )
    };
    for route in routes(&plane, plane.key()) {
        let unknown = ask(&route, &[], "?no_such_field=1");
        assert_eq!(
            (unknown.status, &*unknown.code()),
            (400, "invalid_request"),
            "{route:?}"
        );
        assert!(
            unknown.message().contains("no_such_field"),
            "{route:?}: {unknown:?}"
        );
        if !route.takes_body {
            continue;
        }
        let broken = ask(&route, &["--json", "{\"a\":"], "");
        assert_eq!(
            (broken.status, &*broken.code()),
            (400, "invalid_request"),
            "{route:?}"
        );
        let unknown = ask(&route, &["--json", "{\"no_such_field\":1}"], "");
        assert_eq!(
            (unknown.status, &*unknown.code()),
            (400, "invalid_request"),
            "{route:?}"
        );
        assert!(
            unknown.message().contains("no_such_field"),
            "{route:?}: {unknown:?}"
        );
        let list = ask(&route, &["--json", "[1]"], "");
        assert_eq!(list.status, 400, "{route:?}: {list:?}");
        let large = ask(&route, &["--json", &big], "");
        assert_eq!(large.status, 413, "{route:?}: {large:?}");
        let form = ask(&route, &["--data", "a=b"], "");
        assert_eq!(form.status, 415, "{route:?}: {form:?}");
    }
}

#[test]
fn a_wrong_method_is_told_the_right_ones_and_an_operation_has_a_path_of_its_own() {
    let plane = Plane::start();
    let wrong = plane.curl(Some(plane.key()), &["--request", "PUT"], "/v1/hosts");
    assert_eq!(wrong.status, 405);
    let allowed = wrong.headers.to_lowercase();
    assert!(
        allowed.contains("allow:") && allowed.contains("post"),
        "{allowed}"
    );

    let by_name = plane.curl(Some(plane.key()), &["--json", "{}"], "/hosts/list");
    assert_eq!((by_name.status, by_name.body.as_str()), (200, "[]"));
    let unfit = plane.curl(Some(plane.key()), &["--json", "{\"x\":1}"], "/hosts/list");
    assert_eq!((unfit.status, &*unfit.code()), (422, "INVALID_INPUT"));
}

#[test]
fn what_does_not_exist_is_not_found() {
    let plane = Plane::start();
    for (method, path) in [
        ("GET", "/v1/vms/ghost"),
        ("DELETE", "/v1/vms/ghost"),
        ("POST", "/v1/vms/ghost/start"),
        ("POST", "/v1/vms/ghost/stop"),
        ("GET", "/v1/hosts/host-0000000000000000000000000"),
        ("DELETE", "/v1/hosts/host-0000000000000000000000000"),
        ("POST", "/v1/hosts/host-0000000000000000000000000/token"),
    ] {
        let answer = plane.curl(Some(plane.key()), &["--request", method], path);
        assert_eq!(
            (answer.status, &*answer.code()),
            (404, "not_found"),
            "{method} {path}"
        );
        assert!(!answer.message().is_empty());
    }
}

#[test]
fn the_committed_document_is_the_one_that_is_served() {
    let plane = Plane::start();
    let served = plane.curl(Some(plane.key()), &[], "/openapi.json").json();
    let text = serde_json::to_string_pretty(&served).expect("JSON") + "\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(path, &text).expect("written");
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/openapi.json is not what the control plane serves; run `UPDATE_OPENAPI=1 ./test \
         the_committed_document` and review the difference"
    );
}
