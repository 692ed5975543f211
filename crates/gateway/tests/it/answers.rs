//! Statuses, codes and headers: what each outcome of a call looks like over HTTP.

use http::Request;
use http_body_util::Full;
use serde_json::json;

use crate::world::{World, call};

#[tokio::test]
async fn an_operation_answers_the_same_on_its_own_path_and_on_its_rest_route() {
    let world = World::start().await;
    let own = world
        .post("reader", "/books/get", json!({"title": "Dune"}))
        .await;
    let read = world.get("reader", "/books/get?title=Dune").await;
    let rest = world.get("reader", "/v1/books/Dune").await;
    let expected = json!({"title": "Dune", "pages": 412, "tags": []});
    for answer in [own, read, rest] {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json(), expected);
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[tokio::test]
async fn a_success_has_the_status_of_its_route_and_204_has_no_body() {
    let world = World::start().await;
    let book = json!({"title": "Solaris", "pages": 204, "tags": ["moon"]});
    assert_eq!(
        world.post("writer", "/v1/books", book.clone()).await.status,
        201
    );
    let deleted = world
        .send(call(
            "DELETE",
            "/v1/books/Solaris?force=true",
            "writer",
            None,
        ))
        .await;
    assert_eq!((deleted.status.as_u16(), deleted.body.len()), (204, 0));
    assert_eq!(deleted.header("content-type"), None);
    assert_eq!(
        world.post("writer", "/books/create", book).await.status,
        200
    );
}

#[tokio::test]
async fn a_body_that_is_not_json_answers_400_on_both_surfaces() {
    let world = World::start().await;
    for (path, code) in [
        ("/v1/weigh", "invalid_request"),
        ("/rooms/weigh", "INVALID_INPUT"),
    ] {
        let mut request = call("POST", path, "", Some(&json!(0)));
        *request.body_mut() = Full::from("{\"text\": ");
        let answer = world.send(request).await;
        assert_eq!(answer.failure(), (400, code.to_owned()));
        assert!(
            answer.json()["error"]["message"]
                .to_string()
                .contains("line 1")
        );
    }
}

#[tokio::test]
async fn input_against_the_schema_answers_422_on_the_operation_path_and_400_on_rest() {
    let world = World::start().await;
    for (wrong, field) in [
        (json!({"title": "X", "pages": 0}), "pages"),
        (json!({"title": "X"}), "pages"),
        (json!({"title": "X", "pages": 1, "titel": "Y"}), "titel"),
    ] {
        let own = world.post("writer", "/books/create", wrong.clone()).await;
        assert_eq!(own.failure(), (422, "INVALID_INPUT".to_owned()), "{wrong}");
        let rest = world.post("writer", "/v1/books", wrong.clone()).await;
        assert_eq!(
            rest.failure(),
            (400, "invalid_request".to_owned()),
            "{wrong}"
        );
        let message = rest.json()["error"]["message"].to_string();
        assert!(message.contains(field), "{message} does not name {field}");
    }
}

#[tokio::test]
async fn a_declared_error_has_its_status_its_details_and_the_case_of_its_surface() {
    let world = World::start().await;
    let dune = json!({"title": "Dune", "pages": 1});
    let rest = world.post("writer", "/v1/books", dune.clone()).await;
    assert_eq!(rest.failure(), (409, "taken".to_owned()));
    assert_eq!(rest.json()["error"]["details"], json!({"title": "Dune"}));
    let own = world.post("writer", "/books/create", dune).await;
    assert_eq!(own.failure(), (409, "TAKEN".to_owned()));
    let missing = world.get("reader", "/v1/books/Nothing").await;
    assert_eq!(missing.failure(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn a_retryable_503_says_when_to_come_back() {
    let world = World::start().await;
    let answer = world
        .post("reader", "/v1/books/Dune/lend", json!({"days": 3}))
        .await;
    assert_eq!(answer.failure(), (503, "all_out".to_owned()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.json()["error"]["retryable"], true);
}

#[tokio::test]
async fn what_takes_too_long_answers_504_and_what_breaks_500_without_its_cause() {
    let world = World::start().await;
    let late = world.post("", "/rooms/dawdle", json!({})).await;
    assert_eq!(late.failure(), (504, "TIMEOUT".to_owned()));
    let broken = world.get("", "/v1/trip").await;
    assert_eq!(broken.failure(), (500, "internal_error".to_owned()));
    assert!(!String::from_utf8_lossy(&broken.body).contains("secret"));
    assert_eq!(
        world.get("", "/rooms/trip").await.failure(),
        (500, "INTERNAL".to_owned())
    );
}

#[tokio::test]
async fn a_wrong_method_on_a_known_path_answers_405_and_names_the_right_ones() {
    let world = World::start().await;
    for (method, path, allow, code) in [
        ("PUT", "/v1/books", "GET, POST, HEAD", "method_not_allowed"),
        (
            "POST",
            "/v1/books/Dune",
            "DELETE, GET, HEAD",
            "method_not_allowed",
        ),
        ("GET", "/books/create", "POST", "METHOD_NOT_ALLOWED"),
        (
            "DELETE",
            "/books/list",
            "GET, POST, HEAD",
            "METHOD_NOT_ALLOWED",
        ),
        (
            "PUT",
            "/books/watch",
            "GET, POST, HEAD",
            "METHOD_NOT_ALLOWED",
        ),
        ("POST", "/healthz", "GET, HEAD", "METHOD_NOT_ALLOWED"),
    ] {
        let answer = world.send(call(method, path, "", None)).await;
        assert_eq!(answer.failure(), (405, code.to_owned()), "{method} {path}");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_answers_413_and_one_at_the_limit_is_read() {
    let world = World::start().await;
    let weigh = |bytes: usize| json!({ "text": "x".repeat(bytes) });
    let overhead = weigh(0).to_string().len();
    let fits = (1 << 20) - overhead;
    for mut client in [world.http1().await, world.http2().await] {
        let read = client
            .send(call("POST", "/v1/weigh", "", Some(&weigh(fits))))
            .await;
        assert_eq!(read.json(), json!(fits));
        let refused = client
            .send(call("POST", "/v1/weigh", "", Some(&weigh(fits + 1))))
            .await;
        assert_eq!(refused.failure(), (413, "payload_too_large".to_owned()));
    }
}

#[tokio::test]
async fn a_client_that_sends_far_too_much_still_reads_why_it_was_refused() {
    let world = World::start().await;
    let much = json!({ "text": "x".repeat(6 << 20) });
    for (path, token, status) in [
        ("/v1/weigh", "", 413),
        ("/v1/books", "", 401),
        ("/v1/books", "reader", 403),
        ("/x", "", 404),
    ] {
        for mut client in [world.http1().await, world.http2().await] {
            let answer = client.send(call("POST", path, token, Some(&much))).await;
            assert_eq!(answer.status, status, "{path}");
        }
    }
}

#[tokio::test]
async fn a_body_of_another_type_answers_415() {
    let world = World::start().await;
    for kind in [
        Some("application/x-www-form-urlencoded"),
        Some("text/plain"),
        None,
    ] {
        let mut request = Request::post("/v1/weigh").header("host", "localhost");
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let request = request.body(Full::from("{}")).expect("a request");
        let answer = world.send(request).await;
        assert_eq!(
            answer.failure(),
            (415, "unsupported_media_type".to_owned()),
            "{kind:?}"
        );
    }
    let nothing = world.send(call("POST", "/v1/weigh", "", None)).await;
    assert_eq!(nothing.json(), json!(0), "no body needs no type");
}

#[tokio::test]
async fn every_answer_carries_a_request_id_and_a_sane_one_is_taken_over() {
    let world = World::start().await;
    for path in [
        "/v1/who",
        "/v1/books",
        "/nowhere",
        "/healthz",
        "/openapi.json",
    ] {
        let answer = world.get("", path).await;
        let id = answer.header("x-request-id").expect("an id");
        assert!(id.len() >= 16, "{path}: {id:?}");
    }
    let with = |id: &'static str| {
        let mut request = call("GET", "/v1/who", "", None);
        request
            .headers_mut()
            .insert("x-request-id", id.parse().expect("a value"));
        request
    };
    let sane = world.send(with("order-66")).await;
    assert_eq!(sane.header("x-request-id"), Some("order-66"));
    assert_eq!(sane.json()["request_id"], "order-66");
    let insane = world.send(with("order 66 <script>")).await;
    assert_ne!(insane.header("x-request-id"), Some("order 66 <script>"));
}

#[tokio::test]
async fn a_list_with_more_links_to_its_next_page_with_its_other_parameters() {
    let world = World::start().await;
    let mut titles = Vec::new();
    let mut next = Some("/v1/books?limit=1".to_owned());
    while let Some(path) = next {
        let answer = world.get("reader", &path).await;
        let page = answer.json();
        titles.extend(
            page.as_array()
                .expect("a list")
                .iter()
                .map(|b| b["title"].clone()),
        );
        next = answer.header("link").map(|link| {
            let url = link.strip_suffix(">; rel=\"next\"").expect("rel next");
            url.strip_prefix('<').expect("an address").to_owned()
        });
        assert!(
            next.as_ref().is_none_or(|next| next.contains("limit=1")),
            "{next:?}"
        );
    }
    assert_eq!(titles, ["Dune", "Emma", "Ulysses"]);
    let own = world
        .post("reader", "/books/list", json!({"limit": 2}))
        .await;
    assert_eq!(
        own.header("link"),
        Some("</books/list?limit=2&cursor=Emma>; rel=\"next\"")
    );
}

#[tokio::test]
async fn a_head_is_a_get_without_its_body() {
    let world = World::start().await;
    for mut client in [world.http1().await, world.http2().await] {
        let get = client
            .send(call("GET", "/v1/books/Dune", "reader", None))
            .await;
        let head = client
            .send(call("HEAD", "/v1/books/Dune", "reader", None))
            .await;
        assert_eq!(head.status, 200);
        assert_eq!(
            head.header("content-length"),
            Some(get.body.len().to_string().as_str())
        );
        assert!(head.body.is_empty());
    }
}

#[tokio::test]
async fn health_is_one_word_and_503_when_something_is_wrong() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let well = Arc::new(AtomicBool::new(true));
    let asked = Arc::clone(&well);
    let limits = hostler_gateway::DoorLimits::default();
    let world = World::with(limits, |adapter| {
        adapter.health(move || asked.load(Ordering::SeqCst))
    })
    .await;
    let answer = world.get("stolen", "/healthz").await;
    assert_eq!(
        (answer.status.as_u16(), answer.body.as_ref()),
        (200, b"ok".as_slice())
    );
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; charset=utf-8")
    );
    well.store(false, Ordering::SeqCst);
    assert_eq!(world.get("", "/healthz").await.status, 503);
}

#[tokio::test]
async fn routes_beside_the_operations_have_a_request_id_too() {
    let limits = hostler_gateway::DoorLimits::default();
    let bundle = axum::Router::new().route("/bundle", axum::routing::get(|| async { "roots" }));
    let world = World::with(limits, |adapter| adapter.beside(bundle)).await;
    let answer = world.get("", "/bundle").await;
    assert_eq!(answer.body.as_ref(), b"roots");
    assert!(answer.header("x-request-id").is_some());
    assert_eq!(world.get("reader", "/v1/books").await.status, 200);
}

#[tokio::test]
async fn a_route_for_text_answers_with_text_and_the_operations_own_path_with_json() {
    let world = World::start().await;
    let text = world.get("", "/v1/paper?bytes=3").await;
    assert_eq!(text.header("content-type"), Some("text/plain; version=1"));
    assert_eq!((text.status.as_u16(), &text.body[..]), (200, &b"###"[..]));
    let json = world.post("", "/rooms/print", json!({ "bytes": 3 })).await;
    assert_eq!(json.json(), json!("###"));
    let refused = world.get("", "/v1/paper?bytes=x").await;
    assert_eq!(refused.failure(), (400, "invalid_request".to_owned()));
}
