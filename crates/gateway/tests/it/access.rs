//! Who may call what, and how it is told.

use http::Request;
use http_body_util::Full;
use serde_json::json;

use crate::world::{World, call};

#[tokio::test]
async fn without_a_token_a_restricted_operation_answers_401_and_asks_for_one() {
    let world = World::start().await;
    for (path, code) in [("/v1/books", "unauthorized"), ("/books/list", "FORBIDDEN")] {
        let answer = world.get("", path).await;
        assert_eq!(answer.failure(), (401, code.to_owned()));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert_eq!(answer.json()["error"]["message"], "authentication required");
    }
}

#[tokio::test]
async fn an_unknown_token_answers_401_even_where_none_is_needed() {
    let world = World::start().await;
    let paths = [
        ("/v1/books", "unauthorized"),
        ("/books/list", "FORBIDDEN"),
        ("/v1/who", "unauthorized"),
    ];
    for (path, code) in paths {
        let answer = world.get("stolen", path).await;
        assert_eq!(answer.failure(), (401, code.to_owned()));
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(challenge.starts_with("Bearer"), "{challenge}");
        assert_eq!(
            answer.json()["error"]["message"],
            "this token is unknown; log in again"
        );
    }
}

#[tokio::test]
async fn a_token_without_the_scope_answers_403_and_names_it() {
    let world = World::start().await;
    let book = json!({"title": "Solaris", "pages": 204});
    for (path, code) in [("/v1/books", "forbidden"), ("/books/create", "FORBIDDEN")] {
        let answer = world.post("reader", path, book.clone()).await;
        assert_eq!(answer.failure(), (403, code.to_owned()));
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains("books:write"), "{message}");
    }
    assert!(!world.shelf.titles().contains(&"Solaris".to_owned()));
}

#[tokio::test]
async fn credentials_that_cannot_be_checked_answer_503_and_keep_the_cause_to_the_log() {
    let world = World::start().await;
    let answer = world.get("nobody-home", "/v1/books").await;
    assert_eq!(answer.failure(), (503, "unavailable".to_owned()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(!String::from_utf8_lossy(&answer.body).contains("asleep"));
}

#[tokio::test]
async fn a_configured_header_is_a_credential_and_another_is_not() {
    let world = World::start().await;
    let with = |name: &str, value: &str| {
        let request = Request::get("/v1/who")
            .header("host", "localhost")
            .header(name, value);
        request.body(Full::default()).expect("a request")
    };
    let known = world.send(with("x-shelf-token", "shelf")).await;
    assert_eq!(known.json()["subject"], "shelf");
    let wrong = world.send(with("x-shelf-token", "wrong")).await;
    assert_eq!(wrong.failure(), (401, "unauthorized".to_owned()));
    let other = world.send(with("x-other-token", "shelf")).await;
    assert_eq!(other.json()["subject"], json!(null));
}

#[tokio::test]
async fn two_tokens_in_one_request_are_refused() {
    let world = World::start().await;
    let mut request = call("GET", "/v1/who", "reader", None);
    request
        .headers_mut()
        .append("authorization", "Bearer writer".parse().expect("a value"));
    assert_eq!(
        world.send(request).await.failure(),
        (401, "unauthorized".to_owned())
    );
}

#[tokio::test]
async fn who_may_not_call_is_told_so_before_the_body_is_read() {
    let world = World::start().await;
    for body in ["not json", "{\"titel\": 1}"] {
        let mut request = call("POST", "/v1/books", "", None);
        *request.body_mut() = Full::from(body);
        assert_eq!(
            world.send(request).await.failure(),
            (401, "unauthorized".to_owned())
        );
        let mut request = call("POST", "/v1/books", "reader", None);
        *request.body_mut() = Full::from(body);
        assert_eq!(
            world.send(request).await.failure(),
            (403, "forbidden".to_owned())
        );
    }
}
