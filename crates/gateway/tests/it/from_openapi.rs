//! Another API's operations, called through ours over real connections.

mod answers;
mod roles;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use hostler_gateway::{
    Credential, Exposed, ForeignApi, HttpAdapter, ImportError, Imported, LeftOut,
};
use hostler_operations::{Registry, Scope};
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::ServiceExt as _;
use url::Url;

use crate::shelf::READ;
use crate::world::{anonymous, call, porter, self_signed, soon};

const SECRET: &str = "planted-credential-4711";

/// What the API was asked: method, target, the credential's header, body.
type Asked = (String, String, Option<String>, String);

/// An API that nobody here wrote operations for.
struct Api {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    /// A permit for each stream that nobody reads any more.
    left: Arc<Semaphore>,
}

impl Api {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let (asked, left) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let state = (Arc::clone(&asked), Arc::clone(&left));
        let app = Router::new().fallback(answer).with_state(state);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            address,
            asked,
            left,
        }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What it was asked last, as `METHOD target body`.
    fn last(&self) -> String {
        let (method, target, _, body) = self.asked().pop().expect("a request");
        format!("{method} {target} {body}").trim_end().to_owned()
    }

    fn base(&self) -> Url {
        let base = format!("http://{}/v2/", self.address);
        base.parse().expect("a URL")
    }

    fn foreign(&self) -> ForeignApi {
        let (_, trust) = self_signed();
        ForeignApi::new("acme", anonymous(trust))
            .base_url(self.base())
            .credential(Credential::Bearer(SECRET.into()))
    }

    fn imported(&self, exposed: Option<Exposed>) -> Imported {
        let mut api = self.foreign();
        if let Some(exposed) = exposed {
            api = api.exposed(READ, exposed);
        }
        let document = document().to_string();
        api.import(document.as_bytes()).expect("a document")
    }

    /// It under another document, with all that this has.
    fn attached(&self, document: &Value) -> Imported {
        let api = self.foreign().exposed(READ, Exposed::All);
        let document = document.to_string();
        api.import(document.as_bytes()).expect("a document")
    }

    fn everything(&self) -> Router {
        router(self.imported(Some(Exposed::All)))
    }
}

fn router(imported: Imported) -> Router {
    let registry = Registry::builder().service(imported.service, &imported.upstream);
    let registry = registry.build().expect("the definitions agree");
    let adapter = HttpAdapter::builder(registry, porter()).build();
    adapter.expect("an adapter").router()
}

type Shared = (Arc<Mutex<Vec<Asked>>>, Arc<Semaphore>);

async fn answer(State((asked, left)): State<Shared>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let text = |name| {
        let value = head.headers.get(name)?;
        Some(value.to_str().expect("ASCII").to_owned())
    };
    let credential = text("authorization").or_else(|| text("x-key"));
    let path = head.uri.path().to_owned();
    let seen = (
        head.method.to_string(),
        head.uri.to_string(),
        credential.clone(),
        String::from_utf8_lossy(&body).into_owned(),
    );
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(seen);
    if let Some(code) = path.strip_prefix("/v2/status/") {
        let code: StatusCode = code.parse().expect("a status");
        let said = format!("no, {}", credential.unwrap_or_default());
        return (code, Json(json!({ "message": said }))).into_response();
    }
    match path.as_str() {
        "/v2/events" => {
            struct Leaves(Arc<Semaphore>);
            impl Drop for Leaves {
                fn drop(&mut self) {
                    self.0.add_permits(1);
                }
            }
            let first = format!("data: {{\"step\":1}}\n\ndata: {}\n\n", credential.unwrap_or_default());
            let state = (Some(Bytes::from(first)), Leaves(left));
            let pieces = stream::unfold(state, async |(piece, leaves)| match piece {
                Some(piece) => Some((Ok::<_, std::io::Error>(piece), (None, leaves))),
                None => std::future::pending().await,
            });
            ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response()
        }
        "/v2/odd-events" => {
            let large = "x".repeat(2 << 20);
            let text = format!("\u{feff}data: {{\"step\":1}}\r\rdata: {large}\r\r");
            ([(CONTENT_TYPE, "Text/Event-Stream; charset=utf-8")], text).into_response()
        }
        "/v2/later" => (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, "120")]).into_response(),
        "/v2/zipped" => ([(CONTENT_ENCODING, "gzip")], "who knows what").into_response(),
        "/v2/held" => held(StatusCode::OK, 15),
        "/v2/failing" => held(StatusCode::INTERNAL_SERVER_ERROR, 1),
        "/v2/elsewhere" => {
            (StatusCode::FOUND, [(LOCATION, "/v2/never")], "there").into_response()
        }
        "/v2/text" => "plainly".into_response(),
        "/v2/words" => {
            let credential = credential.unwrap_or_default();
            let (_, rest) = credential.split_once(' ').unwrap_or_default();
            let encoded = rest.replace('+', "%2B").replace('/', "%2f");
            format!("{rest} {encoded}").into_response()
        }
        "/v2/large" => vec![b'x'; 17 << 20].into_response(),
        "/v2/broken" => ([(CONTENT_TYPE, "application/json")], "{").into_response(),
        "/v2/nothing" => StatusCode::NO_CONTENT.into_response(),
        _ => Json(json!({ "path": path, "told": head.headers.get("x-trace").map(|v| v.to_str().expect("ASCII")), "credential": credential })).into_response(),
    }
}

/// An answer of so many MiB that does not end.
fn held(status: StatusCode, mib: usize) -> Response {
    static MIB: [u8; 1 << 20] = [b'x'; 1 << 20];
    let pieces = stream::iter((0..mib).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&MIB))));
    let pieces = pieces.chain(stream::pending());
    (status, Body::from_stream(pieces)).into_response()
}

/// A document with an operation for each of these paths.
fn plainly(names: &[&str]) -> Value {
    let paths = names.iter().map(|name| {
        let text = json!({ "200": { "description": "It.", "content": { "text/plain": {} } } });
        (
            format!("/{name}"),
            json!({ "get": { "operationId": name, "responses": text } }),
        )
    });
    json!({ "openapi": "3.1.0", "paths": paths.collect::<serde_json::Map<_, _>>() })
}

fn document() -> Value {
    let ok = |content: Value| json!({ "200": { "description": "Fine.", "content": content } });
    let json_of = |schema: Value| ok(json!({ "application/json": { "schema": schema } }));
    let plain = |id: &str| json!({ "get": { "operationId": id, "responses": json_of(json!({})) } });
    let path_id =
        json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } });
    let body = |media: &str| json!({ "required": true, "content": { media: { "schema": { "$ref": "#/components/schemas/Thing" } } } });
    json!({
        "openapi": "3.0.3",
        "info": { "title": "Acme", "version": "1" },
        "servers": [{ "url": "https://acme.example/v2" }],
        "paths": {
            "/things/{id}": {
                "parameters": [path_id],
                "get": {
                    "operationId": "getThing",
                    "summary": "One thing.",
                    "parameters": [
                        { "name": "tags", "in": "query", "schema": { "type": "array", "items": { "type": "string" } } },
                        { "name": "few", "in": "query", "explode": false, "schema": { "type": "array", "items": { "type": "integer" } } },
                        { "name": "exact", "in": "query", "schema": { "type": "boolean", "nullable": true } },
                        { "name": "filter", "in": "query", "content": { "application/json": { "schema": { "type": "object" } } } },
                        { "name": "X-Trace", "in": "header", "schema": { "type": "string" } },
                        { "name": "Authorization", "in": "header", "schema": { "type": "string" } },
                        { "name": "session", "in": "cookie", "schema": { "type": "string" } },
                    ],
                    "responses": {
                        "200": { "description": "It.", "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Thing" } } } },
                        "404": { "description": "There is none." },
                    },
                },
            },
            "/things": { "post": {
                "operationId": "create_thing",
                "parameters": [{ "name": "body", "in": "query", "schema": { "type": "integer", "minimum": 0, "exclusiveMinimum": true } }],
                "requestBody": body("application/json"),
                "responses": { "201": { "description": "Made." } },
            } },
            "/status/{code}": { "get": {
                "operationId": "status",
                "parameters": [{ "name": "code", "in": "path", "required": true, "schema": { "type": "integer" } }],
                "responses": json_of(json!({})),
            } },
            "/events": { "get": { "operationId": "listen", "responses": ok(json!({ "text/event-stream": {} })) } },
            "/elsewhere": plain("elsewhere"),
            "/text": { "get": { "operationId": "text", "responses": ok(json!({ "text/plain": {} })) } },
            "/large": plain("large"),
            "/broken": plain("broken"),
            "/nothing": { "delete": { "responses": { "204": { "description": "Gone." } } } },
            "/upload": { "put": { "operationId": "upload", "requestBody": body("application/octet-stream"), "responses": {} } },
            "/image": { "get": { "operationId": "image", "responses": ok(json!({ "image/png": {} })) } },
            "/cookies": { "get": { "operationId": "cookies", "parameters": [{ "name": "c", "in": "cookie", "required": true, "schema": {} }], "responses": {} } },
            "/remote": { "get": { "operationId": "remote", "parameters": [{ "$ref": "https://evil.example/p.json" }], "responses": {} } },
            "/circle": { "get": { "operationId": "circle", "parameters": [{ "$ref": "#/components/parameters/Circle" }], "responses": {} } },
            "/without-end": { "post": { "operationId": "endless", "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Endless" } } } }, "responses": {} } },
            "/wide": { "post": { "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Wide" } } } }, "responses": {} } },
            "/hosted": { "get": { "parameters": [{ "name": "hOsT", "in": "header", "required": true, "schema": {} }], "responses": {} } },
            "/holes/{hole}": { "get": { "operationId": "holes", "responses": {} } },
        },
        "components": {
            "parameters": { "Circle": { "$ref": "#/components/parameters/Circle" } },
            "schemas": { "Wide": { "anyOf": (0..200).map(|_| json!({ "$ref": "#/components/schemas/Wider" })).collect::<Vec<_>>() }, "Wider": { "anyOf": (0..200).map(|n| json!({ "const": n })).collect::<Vec<_>>() }, "Endless": { "allOf": [{ "$ref": "#/components/schemas/Endless" }, { "$ref": "#/components/schemas/Endless" }] }, "Thing": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": { "type": "string", "pattern": "^[a-z" },
                    "parent": { "allOf": [{ "$ref": "#/components/schemas/Thing" }], "nullable": true },
                },
            } },
        },
    })
}

struct Answered {
    status: u16,
    head: http::HeaderMap,
    body: Value,
    text: String,
}

async fn ask(router: &Router, token: &str, path: &str, input: Value) -> Answered {
    let request = call("POST", path, token, Some(&input)).map(Body::new);
    let response = router.clone().oneshot(request).await.expect("infallible");
    let (head, body) = response.into_parts();
    let body = soon("a body", body.collect())
        .await
        .expect("a body")
        .to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    Answered {
        status: head.status.as_u16(),
        head: head.headers,
        body: serde_json::from_str(&text).unwrap_or(Value::Null),
        text,
    }
}

#[tokio::test]
async fn what_a_document_describes_is_called_as_it_says() {
    let api = Api::start().await;
    let acme = api.everything();
    let input = json!({
        "id": "a b", "tags": ["x", "y&z"], "few": [1, 2], "exact": true,
        "filter": {"a": 1}, "X-Trace": "t-1",
    });
    let thing = ask(&acme, "reader", "/acme/get-thing", input).await;
    assert_eq!(thing.status, 200, "{}", thing.text);
    assert_eq!(thing.body["path"], "/v2/things/a%20b");
    assert_eq!(thing.body["told"], "t-1");
    assert_eq!(
        api.last(),
        "GET /v2/things/a%20b?tags=x&tags=y%26z&few=1%2C2&exact=true&filter=%7B%22a%22%3A1%7D"
    );
    let input = json!({"body": {"name": "n", "parent": null}, "body_in_query": 7});
    let created = ask(&acme, "reader", "/acme/create-thing", input).await;
    assert_eq!(created.status, 200, "{}", created.text);
    let asked = api.last();
    let body = asked
        .strip_prefix("POST /v2/things?body=7 ")
        .expect("it was asked so");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!(body, json!({"name": "n", "parent": null}));

    let text = ask(&acme, "reader", "/acme/text", json!({})).await;
    assert_eq!(text.body, "plainly");
    let nothing = ask(&acme, "reader", "/acme/delete-nothing", json!({})).await;
    assert_eq!((nothing.status, nothing.body), (200, Value::Null));
    assert_eq!(api.last(), "DELETE /v2/nothing");
}

#[tokio::test]
async fn input_is_checked_before_the_api_is_asked() {
    let api = Api::start().await;
    let acme = api.everything();
    for (path, input, said) in [
        ("/acme/get-thing", json!({}), "id"),
        ("/acme/get-thing", json!({"id": "x", "tagz": []}), "tagz"),
        (
            "/acme/get-thing",
            json!({"id": "x", "exact": "yes"}),
            "exact",
        ),
        ("/acme/create-thing", json!({"body": {}}), "name"),
        (
            "/acme/create-thing",
            json!({"body": {"name": "n"}, "body_in_query": 0}),
            "body_in_query",
        ),
        ("/acme/create-thing", json!({}), "body"),
        ("/acme/get-thing", json!({"id": ""}), "id"),
        ("/acme/get-thing", json!({"id": ".."}), "path"),
        ("/acme/get-thing", json!({"id": "."}), "path"),
        (
            "/acme/get-thing",
            json!({"id": "x", "X-Trace": "a\r\nx-evil: 1"}),
            "X-Trace",
        ),
    ] {
        let refused = ask(&acme, "reader", path, input.clone()).await;
        assert_eq!(refused.status, 422, "{input}: {}", refused.text);
        assert_eq!(refused.body["error"]["code"], "INVALID_INPUT");
        assert!(refused.text.contains(said), "{input}: {}", refused.text);
    }
    assert_eq!(api.asked(), []);
}

#[tokio::test]
async fn no_value_leaves_its_place() {
    let api = Api::start().await;
    let acme = api.everything();
    for (id, target) in [
        ("../admin", "/v2/things/..%2Fadmin"),
        ("a/b", "/v2/things/a%2Fb"),
        ("x?y=1#z", "/v2/things/x%3Fy%3D1%23z"),
        ("%2e%2e", "/v2/things/%252e%252e"),
        ("\u{e9}\n", "/v2/things/%C3%A9%0A"),
        ("...", "/v2/things/..."),
    ] {
        let thing = ask(&acme, "reader", "/acme/get-thing", json!({ "id": id })).await;
        assert_eq!(thing.status, 200, "{id:?}: {}", thing.text);
        assert_eq!(api.last(), format!("GET {target}"));
    }
}

#[tokio::test]
async fn an_operation_is_there_for_those_it_was_exposed_to() {
    let api = Api::start().await;
    let unknown = ask(&api.everything(), "reader", "/acme/no-such", json!({})).await;
    for exposed in [None, Some(Exposed::Only(vec!["text".to_owned()]))] {
        let only_text = exposed.is_some();
        let acme = router(api.imported(exposed));
        let internal = ask(&acme, "reader", "/acme/get-thing", json!({"id": "x"})).await;
        assert_eq!((internal.status, &internal.text), (404, &unknown.text));
        let text = ask(&acme, "reader", "/acme/text", json!({})).await;
        assert_eq!(text.status, if only_text { 200 } else { 404 });
        let document = acme
            .clone()
            .oneshot(call("GET", "/openapi.json", "reader", None).map(Body::new));
        let document = document.await.expect("infallible").into_body().collect();
        let document = document.await.expect("a document").to_bytes();
        let document = String::from_utf8_lossy(&document).into_owned();
        assert_eq!(document.contains("/acme/text"), only_text);
        assert!(!document.contains("get-thing") && !document.contains(SECRET));
    }
    let (_, trust) = self_signed();
    let scoped = ForeignApi::new("acme", anonymous(trust))
        .base_url(format!("http://{}/v2", api.address).parse().expect("a URL"))
        .exposed(Scope::new("acme:call"), Exposed::All)
        .import(document().to_string().as_bytes());
    let scoped = router(scoped.expect("a document"));
    let asked = api.asked().len();
    assert_eq!(ask(&scoped, "", "/acme/text", json!({})).await.status, 401);
    let forbidden = ask(&scoped, "reader", "/acme/text", json!({})).await;
    assert_eq!(forbidden.status, 403);
    assert!(forbidden.text.contains("acme:call"), "{}", forbidden.text);
    assert_eq!(api.asked().len(), asked);
}

#[tokio::test]
async fn an_error_keeps_its_status_and_says_no_credential() {
    let api = Api::start().await;
    let acme = api.everything();
    for (code, retryable) in [
        (400, false),
        (401, false),
        (404, false),
        (418, false),
        (429, true),
        (500, false),
        (503, true),
    ] {
        let failed = ask(&acme, "reader", "/acme/status", json!({ "code": code })).await;
        let error = &failed.body["error"];
        assert_eq!(failed.status, code, "{}", failed.text);
        assert_eq!(error["code"], format!("HTTP_{code}"));
        assert_eq!(error["retryable"], retryable, "{code}");
        assert_eq!(error["message"], "no, Bearer [credential]");
        assert_eq!(error["details"]["status"], code);
        assert!(!failed.text.contains(SECRET), "{}", failed.text);
        // It is not the caller's token that was refused.
        assert_eq!(failed.head.get("www-authenticate"), None);
    }
    let redirect = ask(&acme, "reader", "/acme/elsewhere", json!({})).await;
    assert_eq!(
        (redirect.status, redirect.body["error"]["code"].as_str()),
        (502, Some("HTTP_302"))
    );
    assert_eq!(api.last(), "GET /v2/elsewhere", "it was not followed");
    for path in ["/acme/large", "/acme/broken"] {
        let odd = ask(&acme, "reader", path, json!({})).await;
        let error = &odd.body["error"];
        assert_eq!(
            (odd.status, error["code"].as_str()),
            (502, Some("UPSTREAM_UNAVAILABLE"))
        );
    }
}

#[tokio::test]
async fn an_api_that_is_not_there_is_said_to_be_so() {
    let gone = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = gone.local_addr().expect("its address");
    drop(gone);
    let api = Api {
        address,
        asked: Arc::default(),
        left: Arc::new(Semaphore::new(0)),
    };
    let failed = ask(&api.everything(), "reader", "/acme/text", json!({})).await;
    let error = &failed.body["error"];
    assert_eq!(
        (failed.status, error["code"].as_str()),
        (502, Some("UPSTREAM_UNAVAILABLE"))
    );
    assert_eq!(error["retryable"], true);
}

#[tokio::test]
async fn the_credential_is_sent_and_never_comes_back() {
    let api = Api::start().await;
    let basic = Credential::Basic("ada".to_owned(), SECRET.into());
    let header = Credential::Header(HeaderName::from_static("x-key"), SECRET.into());
    for (credential, sent) in [
        (
            Credential::Bearer(SECRET.into()),
            format!("Bearer {SECRET}"),
        ),
        (header, SECRET.to_owned()),
        (
            basic,
            "Basic YWRhOnBsYW50ZWQtY3JlZGVudGlhbC00NzEx".to_owned(),
        ),
    ] {
        assert!(!format!("{credential:?}").contains(SECRET));
        let (_, trust) = self_signed();
        let imported = ForeignApi::new("acme", anonymous(trust))
            .base_url(format!("http://{}/v2", api.address).parse().expect("a URL"))
            .credential(credential)
            .exposed(READ, Exposed::All)
            .import(document().to_string().as_bytes())
            .expect("a document");
        assert!(!format!("{:?}", imported.upstream).contains(SECRET));
        let thing = ask(
            &router(imported),
            "reader",
            "/acme/get-thing",
            json!({"id": "x"}),
        )
        .await;
        let (_, _, credential, _) = api.asked().pop().expect("a request");
        assert_eq!(credential, Some(sent.clone()));
        let told = thing.body["credential"].as_str().expect("an echo");
        assert!(told.ends_with("[credential]"), "{told}");
        assert!(!thing.text.contains(&sent) && !thing.text.contains(SECRET));
    }
}

#[tokio::test]
async fn a_stream_of_events_is_a_subscription_that_ends_when_its_caller_leaves() {
    let api = Api::start().await;
    let acme = api.everything();
    let mut request = call("POST", "/acme/listen", "reader", Some(&json!({}))).map(Body::new);
    let accept = "text/event-stream".parse().expect("a value");
    request.headers_mut().insert("accept", accept);
    let response = acme.oneshot(request).await.expect("infallible");
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut text = String::new();
    while text.matches("\n\n").count() < 2 {
        let frame = soon("an event", body.frame()).await.expect("an event");
        let data = frame.expect("an event").into_data().expect("data");
        text.push_str(&String::from_utf8_lossy(&data));
    }
    assert_eq!(
        text,
        "id: 1\ndata: {\"step\":1}\n\nid: 2\ndata: \"Bearer [credential]\"\n\n"
    );
    assert_eq!(api.left.available_permits(), 0);
    drop(body);
    let left = tokio::time::timeout(Duration::from_secs(5), api.left.acquire()).await;
    left.expect("the API is left").expect("a permit").forget();
}

#[tokio::test]
async fn what_cannot_be_called_is_left_out_with_its_reason() {
    let api = Api::start().await;
    let Imported {
        names, left_out, ..
    } = api.imported(None);
    let reasons: Vec<String> = left_out
        .iter()
        .map(|LeftOut { operation, reason }| format!("{operation}: {reason}"))
        .collect();
    for (operation, reason) in [
        ("PUT /upload", "body is not JSON"),
        ("GET /image", "neither JSON nor text"),
        ("GET /cookies", "parameter c"),
        ("GET /remote", "elsewhere"),
        ("GET /circle", "circle"),
        ("GET /holes/{hole}", "{hole}"),
        ("POST /without-end", "defined by itself"),
        ("POST /wide", "too large"),
        ("GET /hosted", "hOsT"),
    ] {
        let said = |line: &&String| line.starts_with(operation) && line.contains(reason);
        assert!(
            reasons.iter().any(|line| said(&line)),
            "{operation}: {reasons:?}"
        );
    }
    assert_eq!(left_out.len(), 9, "{reasons:?}");
    assert_eq!(names.len(), 9, "{names:?}");
}

fn imported(document: &[u8], base: &str) -> Result<Imported, ImportError> {
    let (_, trust) = self_signed();
    let base = base.parse().expect("a URL");
    ForeignApi::new("acme", anonymous(trust))
        .base_url(base)
        .import(document)
}

#[test]
fn a_document_that_is_none_is_refused_with_what_is_wrong() {
    let here = "http://127.0.0.1:1/";
    let deep = format!(
        "{{\"openapi\":\"3.1.0\",\"paths\":{}{}}}",
        "[".repeat(10_000),
        "]".repeat(10_000)
    );
    let huge = vec![b' '; 20 << 20];
    for (document, said) in [
        (&b"openapi: 3.1.0"[..], "expected"),
        (b"{}", "openapi"),
        (br#"{"openapi":"2.0"}"#, "3.0 and 3.1"),
        (br#"{"openapi":"3.1.0"}"#, "no operations"),
        (deep.as_bytes(), "recursion"),
        (&huge, "larger"),
    ] {
        let refused = imported(document, here)
            .err()
            .expect("it is refused")
            .to_string();
        assert!(refused.contains(said), "{refused}");
    }
    let twice = json!({"openapi": "3.1.0", "paths": {
        "/a": {"get": {"operationId": "readIt", "responses": {}}},
        "/b": {"get": {"operationId": "read_it", "responses": {}}},
    }});
    let refused = imported(twice.to_string().as_bytes(), here)
        .err()
        .expect("two of one name");
    assert!(
        matches!(&refused, ImportError::Twice { name, .. } if name == "read-it"),
        "{refused}"
    );
    let document = document().to_string();
    for plain in [
        "http://acme.example/v2",
        "http://10.0.0.1/",
        "ftp://acme.example/",
    ] {
        let refused = imported(document.as_bytes(), plain)
            .err()
            .expect("a plain way");
        assert!(matches!(refused, ImportError::Plain(_)), "{refused}");
    }
    let (_, trust) = self_signed();
    let unknown = ForeignApi::new("acme", anonymous(trust))
        .exposed(READ, Exposed::Only(vec!["no-such".to_owned()]))
        .import(document.as_bytes());
    let told = unknown.err().expect("nothing to expose").to_string();
    assert!(
        told.contains("no-such") && told.contains("get-thing"),
        "{told}"
    );
    let (_, trust) = self_signed();
    let named = ForeignApi::new("No Word", anonymous(trust)).import(document.as_bytes());
    assert!(matches!(named, Err(ImportError::Name(_))));
}

#[test]
fn a_config_that_offers_protocols_is_taken_as_well() {
    let (_, trust) = self_signed();
    let mut tls = anonymous(trust);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let imported = ForeignApi::new("acme", tls).import(document().to_string().as_bytes());
    assert!(imported.is_ok_and(|imported| !imported.names.is_empty()));
}

#[test]
fn what_operations_share_counts_for_each_of_them() {
    let many = (0..9000).map(|n| (format!("p{n}"), json!({})));
    let large = "x".repeat(8 << 20);
    let answering = |schema: &str| {
        let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
        let content = json!({ "application/json": { "schema": schema } });
        json!({ "get": { "responses": { "200": { "description": "", "content": content } } } })
    };
    for schema in ["Many", "Large"] {
        let paths = (0..50).map(|n| (format!("/{n}"), answering(schema)));
        let document = json!({
            "openapi": "3.1.0",
            "paths": paths.collect::<serde_json::Map<_, _>>(),
            "components": { "schemas": {
                "Many": { "properties": many.clone().collect::<serde_json::Map<_, _>>() },
                "Large": { "description": large },
            } },
        });
        let document = document.to_string();
        let Imported {
            names, left_out, ..
        } = imported(document.as_bytes(), "http://127.0.0.1:1/").expect("a document");
        // 33 of 9,000 schemas each, 36 of 8 MiB each.
        assert!((30..40).contains(&names.len()), "{schema}: {}", names.len());
        assert_eq!(names.len() + left_out.len(), 50);
        let reason = &left_out[0].reason;
        assert!(reason.contains("300000 schemas"), "{reason}");
    }
}

#[test]
fn our_own_document_is_one_of_those_that_are_read() {
    let own = include_bytes!("../../../../docs/openapi.json");
    let Imported {
        names, left_out, ..
    } = imported(own, "https://fleet.example/").expect("it is one");
    assert_eq!(left_out, []);
    assert!(names.len() > 100, "{}", names.len());
    assert!(imported(own, "https://fleet.example/").is_ok_and(|again| {
        Registry::builder()
            .service(again.service, &again.upstream)
            .build()
            .is_ok()
    }));
}

/// Anything that JSON can be, of words that documents are made of.
fn anything() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "/a/{id}",
        "/b",
        "id",
        "get",
        "post",
        "$ref",
        "#/paths/~1b",
        "#/components/schemas/X",
        "schema",
        "string",
        "type",
        "object",
        "array",
        "items",
        "properties",
        "required",
        "parameters",
        "name",
        "in",
        "path",
        "query",
        "requestBody",
        "content",
        "application/json",
        "responses",
        "200",
        "operationId",
        "nullable",
        "readOnly",
        "writeOnly",
        "enum",
        "exclusiveMinimum",
        "allOf",
        "anyOf",
        "additionalProperties",
    ]);
    let word = words.prop_map(str::to_owned);
    let leaf = prop_oneof![
        word.clone().prop_map(Value::String),
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(|n| json!(n)),
        Just(Value::Null),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(word.clone(), inner, 0..6).prop_map(|fields| json!(fields)),
        ]
    })
}

proptest! {
    #[test]
    fn no_document_makes_the_importer_panic(paths in anything(), schemas in anything()) {
        let document = json!({
            "openapi": "3.1.0",
            "paths": { "/a/{id}": { "get": paths.clone(), "post": { "operationId": "p", "parameters": [paths.clone()], "requestBody": paths.clone(), "responses": { "200": paths } } } },
            "components": { "schemas": { "X": schemas } },
        });
        if let Ok(imported) = imported(document.to_string().as_bytes(), "http://127.0.0.1:1/") {
            let built = Registry::builder().service(imported.service, &imported.upstream).build();
            prop_assert!(built.is_ok(), "{:?}", built.err());
        }
    }
}
