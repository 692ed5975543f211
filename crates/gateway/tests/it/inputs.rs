//! One input out of path, query string and body.

use http_body_util::Full;
use serde_json::json;

use crate::world::{World, call};

#[tokio::test]
async fn path_query_and_body_make_one_input_and_text_becomes_what_the_schema_says() {
    let world = World::start().await;
    let tagged = json!({"title": "a/b c", "pages": 7, "tags": ["x", "y"]});
    assert_eq!(
        world
            .post("writer", "/v1/books?pages=7", tagged.clone())
            .await
            .status,
        201
    );
    let got = world.get("reader", "/v1/books/a%2Fb%20c").await;
    assert_eq!(got.json(), tagged);
    let listed = world.get("reader", "/v1/books?tag=x&tag=y&limit=5").await;
    assert_eq!(listed.json(), json!([tagged]));
    let gone = world
        .send(call(
            "DELETE",
            "/v1/books/a%2fb+c?force=true",
            "writer",
            None,
        ))
        .await;
    assert_eq!(gone.status, 404, "a plus is a plus in a path");
}

#[tokio::test]
async fn a_field_given_twice_with_differing_values_is_an_error() {
    let world = World::start().await;
    for path in ["/v1/books?limit=1&limit=2", "/v1/books/Dune?title=Emma"] {
        let answer = world.get("reader", path).await;
        assert_eq!(
            answer.failure(),
            (400, "invalid_request".to_owned()),
            "{path}"
        );
        assert!(
            answer.json()["error"]["message"]
                .to_string()
                .contains("more than once")
        );
    }
    let body = json!({"title": "Emma", "days": 1});
    let answer = world.post("reader", "/v1/books/Dune/lend", body).await;
    assert_eq!(answer.failure(), (400, "invalid_request".to_owned()));
    let own = world.get("reader", "/books/list?limit=1&limit=2").await;
    assert_eq!(own.failure(), (422, "INVALID_INPUT".to_owned()));
    assert_eq!(
        world
            .get("reader", "/v1/books?limit=1&limit=1")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn text_that_does_not_read_as_its_type_is_refused_by_the_schema() {
    let world = World::start().await;
    for query in [
        "limit=five",
        "limit=0",
        "limit=1.5",
        "limit=",
        "limitt=5",
        "limit=1e9999",
    ] {
        let answer = world.get("reader", &format!("/v1/books?{query}")).await;
        assert_eq!(
            answer.failure(),
            (400, "invalid_request".to_owned()),
            "{query}"
        );
        let own = world.get("reader", &format!("/books/list?{query}")).await;
        assert_eq!(own.failure(), (422, "INVALID_INPUT".to_owned()), "{query}");
    }
}

#[tokio::test]
async fn a_query_string_that_is_not_encoded_utf_8_answers_400() {
    let world = World::start().await;
    for path in ["/v1/books?cursor=%ff", "/v1/books?cursor=%4"] {
        let answer = world.get("reader", path).await;
        assert_eq!(
            answer.failure(),
            (400, "invalid_request".to_owned()),
            "{path}"
        );
    }
    let own = world.get("reader", "/books/list?cursor=%ff").await;
    assert_eq!(own.failure(), (400, "INVALID_INPUT".to_owned()));
}

#[tokio::test]
async fn a_body_that_is_no_object_is_no_input() {
    let world = World::start().await;
    for body in [json!([1]), json!("x"), json!(null)] {
        let answer = world.post("writer", "/v1/books", body.clone()).await;
        assert_eq!(
            answer.failure(),
            (400, "invalid_request".to_owned()),
            "{body}"
        );
        let answer = world
            .post("reader", "/v1/books/Dune/lend", body.clone())
            .await;
        assert_eq!(
            answer.failure(),
            (400, "invalid_request".to_owned()),
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_get_with_a_body_is_refused_instead_of_half_read() {
    let world = World::start().await;
    let mut request = call("GET", "/v1/books", "reader", None);
    *request.body_mut() = Full::from("{\"limit\": 1}");
    let answer = world.send(request).await;
    assert_eq!(answer.failure(), (400, "invalid_request".to_owned()));
    assert!(
        answer.json()["error"]["message"]
            .to_string()
            .contains("query string")
    );
}

#[tokio::test]
async fn an_idempotency_key_may_come_as_a_header() {
    let world = World::start().await;
    let create = |title: &str, field: Option<&str>, header: &[u8]| {
        let mut book = json!({"title": title, "pages": 1});
        if let Some(field) = field {
            book["idempotency_key"] = json!(field);
        }
        let mut request = call("POST", "/v1/books", "writer", Some(&book));
        let value = http::HeaderValue::from_bytes(header).expect("a value");
        request.headers_mut().insert("idempotency-key", value);
        request
    };
    let made = world.send(create("A", None, b"k1")).await;
    assert_eq!(made.json()["tags"], json!(["key:k1"]));
    let same = world.send(create("B", Some("k1"), b"k1")).await;
    assert_eq!(same.status, 201);
    for (field, header) in [(Some("k2"), &b"k1"[..]), (None, b"k\xff")] {
        let refused = world.send(create("C", field, header)).await;
        assert_eq!(refused.failure(), (400, "invalid_request".to_owned()));
    }
    let mut elsewhere = call("GET", "/v1/who", "", None);
    elsewhere
        .headers_mut()
        .insert("idempotency-key", "k1".parse().expect("a value"));
    assert_eq!(
        world.send(elsewhere).await.status,
        200,
        "where it means nothing it is ignored"
    );
}

#[tokio::test]
async fn a_whole_number_may_be_written_with_a_point() {
    let world = World::start().await;
    for (pages, status) in [("7.0", 201), ("7.5", 400), ("1e2", 201)] {
        let title = format!("of {pages} pages");
        let book = format!(r#"{{"title": "{title}", "pages": {pages}}}"#);
        let book: serde_json::Value = serde_json::from_str(&book).expect("JSON");
        let answer = world.post("writer", "/v1/books", book).await;
        assert_eq!(answer.status, status, "{pages}");
    }
}
