//! What is read of an API's answers.

use futures::future::select_all;

use super::*;

#[tokio::test]
async fn answers_that_are_read_at_once_share_a_limit() {
    let api = Api::start().await;
    let acme = router(api.attached(&plainly(&["held", "large"])));
    // Eight of them fit; none of them ends.
    let nine = (0..9).map(|_| Box::pin(ask(&acme, "reader", "/acme/held", json!({}))));
    let (refused, _, others) = soon("a refusal", select_all(nine)).await;
    let error = &refused.body["error"];
    assert_eq!(
        (refused.status, error["code"].as_str()),
        (502, Some("UPSTREAM_UNAVAILABLE"))
    );
    assert_eq!(error["retryable"], true);
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains("too many large answers"), "{message}");
    // What those had who left is there again.
    drop(others);
    let large = ask(&acme, "reader", "/acme/large", json!({})).await;
    assert!(large.text.contains("more than 16777216"), "{}", large.text);
}

#[tokio::test]
async fn of_an_error_only_the_beginning_is_read() {
    let api = Api::start().await;
    let acme = router(api.attached(&plainly(&["failing"])));
    let failing = ask(&acme, "reader", "/acme/failing", json!({}));
    let failed = soon("the error", failing).await;
    assert_eq!(failed.status, 500, "{}", failed.text);
    assert_eq!(failed.body["error"]["code"], "HTTP_500");
    assert_eq!(failed.body["error"]["details"], json!({ "status": 500 }));
}

fn with_key(api: &Api, key: &str) -> ForeignApi {
    let key = Credential::Header(HeaderName::from_static("x-key"), key.into());
    api.foreign().credential(key).exposed(READ, Exposed::All)
}

#[tokio::test]
async fn the_header_of_the_credential_is_no_input() {
    let api = Api::start().await;
    let mut document = plainly(&["text"]);
    document["paths"]["/text"]["get"]["parameters"] = json!([
        { "name": "X-Key", "in": "header", "required": true, "schema": { "type": "string" } },
        { "name": "x-key", "in": "query", "schema": { "type": "string" } },
    ]);
    let imported = with_key(&api, SECRET).import(document.to_string().as_bytes());
    let acme = router(imported.expect("a document"));
    let input = json!({ "x-key": "a parameter of the query" });
    let text = ask(&acme, "reader", "/acme/text", input).await;
    assert_eq!(text.status, 200, "{}", text.text);
    let (_, target, credential, _) = api.asked().pop().expect("a request");
    assert_eq!(target, "/v2/text?x-key=a%20parameter%20of%20the%20query");
    assert_eq!(credential.as_deref(), Some(SECRET));
    let chosen = ask(&acme, "reader", "/acme/text", json!({ "X-Key": "mine" })).await;
    assert_eq!(chosen.status, 422, "{}", chosen.text);
}

#[test]
fn no_error_says_who_is_named_in_a_url() {
    let document = plainly(&["text"]).to_string();
    for base in [
        "http://ada:planted@acme.example/v2?key=planted",
        "https://ada:planted@acme.example/v2",
    ] {
        let refused = imported(document.as_bytes(), base);
        let told = refused.err().expect("a user in it").to_string();
        assert!(!told.contains("planted") && !told.contains("ada"), "{told}");
    }
}

#[tokio::test]
async fn a_credential_is_recognised_in_parts_and_escaped_unless_it_is_short() {
    let api = Api::start().await;
    let document = plainly(&["words", "text"]).to_string();
    let with = |key: &str| {
        let api = with_key(&api, key);
        router(api.import(document.as_bytes()).expect("a document"))
    };
    let words = ask(
        &with("Token pla+nted/4711"),
        "reader",
        "/acme/words",
        json!({}),
    )
    .await;
    assert_eq!(words.body, "[credential] [credential]");
    let text = ask(&with("plainly"), "reader", "/acme/text", json!({})).await;
    assert_eq!(text.body, "plainly", "seven bytes");
}

#[tokio::test]
async fn events_come_before_the_error_that_ends_them_however_they_are_written() {
    let api = Api::start().await;
    let mut document = plainly(&["odd-events"]);
    document["paths"]["/odd-events"]["get"]["responses"]["200"]["content"] =
        json!({ "TEXT/event-stream;charset=utf-8": {} });
    let acme = router(api.attached(&document));
    let mut request = call("POST", "/acme/odd-events", "reader", Some(&json!({}))).map(Body::new);
    let accept = "text/event-stream".parse().expect("a value");
    request.headers_mut().insert("accept", accept);
    let response = acme.oneshot(request).await.expect("infallible");
    let body = soon("the end", response.into_body().collect()).await;
    let text = String::from_utf8_lossy(&body.expect("a body").to_bytes()).into_owned();
    let rest = text.strip_prefix("id: 1\ndata: {\"step\":1}\n\nevent: error\n");
    let rest = rest.unwrap_or_else(|| panic!("{text}"));
    assert!(rest.contains("UPSTREAM_UNAVAILABLE") && rest.contains("too large"));
}

#[tokio::test]
async fn an_answer_that_cannot_be_looked_through_is_an_error() {
    let api = Api::start().await;
    let acme = router(api.attached(&plainly(&["zipped"])));
    let zipped = ask(&acme, "reader", "/acme/zipped", json!({})).await;
    assert_eq!(zipped.status, 502, "{}", zipped.text);
    assert_eq!(zipped.body["error"]["code"], "UPSTREAM_UNAVAILABLE");
    assert!(zipped.text.contains("content-encoding"), "{}", zipped.text);
}

#[tokio::test]
async fn when_the_api_may_be_asked_again_reaches_the_caller() {
    let api = Api::start().await;
    let acme = router(api.attached(&plainly(&["later"])));
    let later = ask(&acme, "reader", "/acme/later", json!({})).await;
    assert_eq!(later.status, 429, "{}", later.text);
    assert_eq!(later.head["retry-after"], "120");
    assert_eq!(later.body["error"]["details"]["retry_after_secs"], 120);
}
