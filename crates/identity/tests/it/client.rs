//! The HTTP client, as its callers see it.

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Redirect;
use axum::routing::{any, get};
use bytes::Bytes;
use hostler_identity::{Authorizer, Client, ClientError, Source, SourceWriter};
use http_body_util::BodyExt;

use crate::certs::Ca;
use crate::support::{Running, soon, source};

struct Stage {
    running: Running,
    client: Client,
    _writers: [SourceWriter; 2],
    _server: Source,
}

async fn stage(app: Router) -> Stage {
    let ca = Ca::new("a.example");
    let ((server, s), (web, w)) = (source(&ca, "/api"), source(&ca, "/web"));
    let running = Running::with_app(&server, Authorizer::any(), app).await;
    let client = Client::new(&web, Authorizer::any());
    Stage {
        running,
        client,
        _writers: [s, w],
        _server: server,
    }
}

#[tokio::test]
async fn every_method_arrives_with_its_body_and_media_type() {
    let echo = any(|request: Request| async move {
        let (parts, body) = request.into_parts();
        let kind = parts
            .headers
            .get("content-type")
            .map(|value| value.to_str().unwrap());
        let body = body.collect().await.unwrap().to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        format!("{} {} {:?} {body}", parts.method, parts.uri.path(), kind)
    });
    let Stage {
        running, client, ..
    } = &stage(Router::new().route("/x", echo)).await;
    let url = running.url("/x");
    let text = |answer: http::Response<Bytes>| String::from_utf8(answer.body().to_vec()).unwrap();
    assert_eq!(text(client.get(&url).await.unwrap()), "GET /x None ");
    assert_eq!(text(client.delete(&url).await.unwrap()), "DELETE /x None ");
    let json = "application/json";
    let expected = |method| format!("{method} /x Some(\"application/json\") {{}}");
    assert_eq!(
        text(client.post(&url, json, "{}").await.unwrap()),
        expected("POST")
    );
    assert_eq!(
        text(client.put(&url, json, "{}").await.unwrap()),
        expected("PUT")
    );
    assert_eq!(
        text(client.patch(&url, json, "{}").await.unwrap()),
        expected("PATCH")
    );
    let raw = http::Request::builder()
        .method("PURGE")
        .uri(&url)
        .body(Bytes::new())
        .unwrap();
    assert_eq!(text(client.request(raw).await.unwrap()), "PURGE /x None ");
    assert_eq!(
        client.get(&running.url("/none")).await.unwrap().status(),
        404
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_a_timeout_of_the_client_or_the_request() {
    let silent = get(|| async { std::future::pending::<&str>().await });
    let Stage {
        running, client, ..
    } = &stage(Router::new().route("/", silent)).await;
    let hurried = client.clone().with_timeout(Duration::from_millis(300));
    let error = soon(hurried.get(&running.url("/"))).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error:?}");
    assert!(error.may_have_been_carried_out());
    let request = http::Request::get(running.url("/")).body(Bytes::new());
    let patient = client.clone().with_timeout(Duration::from_secs(3600));
    let within = patient.request_within(Duration::from_millis(200), request.unwrap());
    let error = soon(within).await.unwrap_err();
    let after = Duration::from_millis(200);
    assert!(
        matches!(error, ClientError::Timeout { after: stated, .. } if stated == after),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_refused() {
    let large = get(|| async { vec![b'x'; 10_000] });
    let Stage {
        running, client, ..
    } = &stage(Router::new().route("/", large)).await;
    let url = running.url("/");
    let exact = client.clone().with_max_response_bytes(10_000);
    assert_eq!(exact.get(&url).await.unwrap().body().len(), 10_000);
    let error = client
        .clone()
        .with_max_response_bytes(9_999)
        .get(&url)
        .await
        .unwrap_err();
    assert!(
        matches!(error, ClientError::TooLarge { limit: 9_999, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = get(|| async { Redirect::temporary("https://other.example/") });
    let Stage {
        running, client, ..
    } = &stage(Router::new().route("/", elsewhere)).await;
    assert_eq!(client.get(&running.url("/")).await.unwrap().status(), 307);
}

#[tokio::test]
async fn nobody_listening_is_a_connection_error_that_is_safe_to_retry() {
    let Stage { client, .. } = &stage(Router::new()).await;
    let error = soon(client.get("https://127.0.0.1:1/")).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    assert!(!error.may_have_been_carried_out());
    let said = error.to_string();
    assert!(
        said.contains("127.0.0.1:1") && said.contains("refused"),
        "{said}"
    );
}

#[tokio::test]
async fn a_url_without_tls_is_refused_before_anything_is_sent() {
    let Stage { client, .. } = &stage(Router::new()).await;
    for url in ["http://127.0.0.1:1/", "/relative", "not a url"] {
        let error = client.get(url).await.unwrap_err();
        assert!(
            matches!(error, ClientError::InvalidRequest(_)),
            "{url}: {error:?}"
        );
    }
    let broken = client
        .post("https://127.0.0.1:1/", "bad\nmedia type", "")
        .await
        .unwrap_err();
    assert!(
        matches!(broken, ClientError::InvalidRequest(_)),
        "{broken:?}"
    );
}
