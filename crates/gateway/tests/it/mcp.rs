//! Operations as tools, over the Model Context Protocol.

use bytes::Bytes;
use hostler_gateway::{DoorLimits, Mcp};
use http::Request;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

use crate::world::{Answer, Client, World, call, soon};

const STATELESS: &str = "2026-07-28";

async fn world() -> World {
    let app = "https://app.example.org".parse().expect("a URL");
    let mcp = Mcp::new(["localhost"])
        .origin(&app)
        .instructions("Mind the dust.");
    World::with(DoorLimits::default(), |adapter| adapter.mcp(mcp)).await
}

/// A request as the newest revision has it.
fn stateless(token: &str, method: &str, mut params: Value) -> Request<Full<Bytes>> {
    let meta = &mut params["_meta"];
    meta["io.modelcontextprotocol/protocolVersion"] = STATELESS.into();
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
    let mut request = message(token, &json!({"id": 1, "method": method, "params": params}));
    let mut header = |name: &'static str, value: &str| {
        let value = value.parse().expect("a value");
        request.headers_mut().insert(name, value);
    };
    header("mcp-protocol-version", STATELESS);
    header("mcp-method", method);
    if let Some(name) = params["name"].as_str() {
        header("mcp-name", name);
    }
    request
}

/// A message of an older client, in this session.
fn in_session(token: &str, session: &str, message_: Value) -> Request<Full<Bytes>> {
    let mut request = message(token, &message_);
    let headers = request.headers_mut();
    headers.insert("mcp-session-id", session.parse().expect("a value"));
    headers.insert(
        "mcp-protocol-version",
        "2025-11-25".parse().expect("a value"),
    );
    request
}

fn message(token: &str, message: &Value) -> Request<Full<Bytes>> {
    let mut message = message.clone();
    message["jsonrpc"] = "2.0".into();
    let mut request = call("POST", "/mcp", token, Some(&message));
    let both = "application/json, text/event-stream".parse();
    request
        .headers_mut()
        .insert("accept", both.expect("a value"));
    request
}

/// Calls a tool in the newest revision; the result.
async fn tool(world: &World, token: &str, name: &str, arguments: Value) -> Value {
    let params = json!({"name": name, "arguments": arguments});
    let answer = world.send(stateless(token, "tools/call", params)).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let answer = answer.json();
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    answer["result"].clone()
}

async fn tools(world: &World, token: &str) -> Vec<Value> {
    let listed = world.send(stateless(token, "tools/list", json!({}))).await;
    let listed = listed.json();
    assert_eq!(listed["result"]["cacheScope"], "private", "{listed}");
    assert!(listed["result"]["ttlMs"].is_u64(), "{listed}");
    let tools = listed["result"]["tools"].as_array();
    tools.expect("tools").clone()
}

fn names(tools: &[Value]) -> Vec<&str> {
    let names = tools.iter().map(|tool| tool["name"].as_str());
    names.collect::<Option<_>>().expect("each has a name")
}

fn error(answer: &Answer) -> (u16, i64) {
    let code = answer.json()["error"]["code"].as_i64();
    (answer.status.as_u16(), code.expect("a number"))
}

#[tokio::test]
async fn a_client_that_shakes_hands_and_one_that_does_not_call_the_same_tools() {
    let world = world().await;
    for mut client in [world.http1().await, world.http2().await] {
        let discovered = client
            .send(stateless("reader", "server/discover", json!({})))
            .await
            .json();
        let result = &discovered["result"];
        assert_eq!(result["supportedVersions"], json!([STATELESS]));
        assert_eq!(result["instructions"], "Mind the dust.");
        assert_eq!(
            result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"],
            "Bookshelf"
        );

        let hello = json!({"id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "test", "version": "0"},
        }});
        let welcome = client.send(message("reader", &hello)).await;
        let session = welcome.header("mcp-session-id").expect("one").to_owned();
        let result = &welcome.json()["result"];
        assert_eq!(result["protocolVersion"], "2025-06-18");
        assert_eq!(result["serverInfo"]["version"], "1.2.3");
        assert!(result["capabilities"]["tools"].is_object());
        let ready = json!({"method": "notifications/initialized"});
        let answer = client.send(in_session("reader", &session, ready)).await;
        assert_eq!((answer.status.as_u16(), answer.body.len()), (202, 0));

        let ask = |method: &str, params| json!({"id": "a", "method": method, "params": params});
        let mut old = async |method: &str, params: Value| {
            let request = in_session("reader", &session, ask(method, params));
            client.send(request).await.json()
        };
        assert_eq!(old("ping", json!({})).await["result"], json!({}));
        let listed = old("tools/list", json!({})).await["result"]["tools"].clone();
        let called = old(
            "tools/call",
            json!({"name": "books_get", "arguments": {"title": "Emma"}}),
        )
        .await;
        assert_eq!(called["id"], "a");
        assert_eq!(called["result"]["structuredContent"]["pages"], 474);
        assert_eq!(listed, json!(tools(&world, "reader").await));
        let newer = tool(&world, "reader", "books_get", json!({"title": "Emma"})).await;
        assert_eq!(
            newer["structuredContent"],
            called["result"]["structuredContent"]
        );
        let text = newer["content"][0]["text"].as_str().expect("text");
        assert_eq!(
            serde_json::from_str::<Value>(text).expect("JSON"),
            newer["structuredContent"]
        );
    }
}

#[tokio::test]
async fn each_caller_sees_its_own_tools_and_can_call_no_others() {
    let world = world().await;
    let (reader, writer) = (tools(&world, "reader").await, tools(&world, "writer").await);
    let (reader, writer) = (names(&reader), names(&writer));
    assert!(reader.contains(&"books_get") && !reader.contains(&"books_create"));
    assert!(writer.contains(&"books_create"));
    for nobodys in ["books_watch", "books_shred"] {
        assert!(!writer.contains(&nobodys), "{nobodys}");
    }
    let refuse = async |name: &str| {
        let params = json!({"name": name, "arguments": {"title": "x", "pages": 1}});
        let answer = world.send(stateless("reader", "tools/call", params)).await;
        assert_eq!(error(&answer), (200, -32602));
        let message = answer.json()["error"]["message"].to_string();
        message.replace(name, "NAME")
    };
    let unknown = refuse("nothing_here").await;
    for other in [
        "books_create",
        "books_watch",
        "books_shred",
        "books/get",
        "",
    ] {
        if !other.is_empty() {
            assert_eq!(refuse(other).await, unknown, "{other}");
        }
    }
    assert_eq!(world.shelf.titles().len(), 3);
}

#[tokio::test]
async fn a_tool_says_what_it_does_and_answers_as_it_says() {
    let world = world().await;
    let tools = tools(&world, "writer").await;
    let find = |name| {
        let found = tools.iter().find(|tool| tool["name"] == name);
        found.expect("a tool").clone()
    };
    for tool in &tools {
        for schema in ["inputSchema", "outputSchema"] {
            assert_eq!(tool[schema]["type"], "object", "{tool}");
            jsonschema::draft202012::meta::validate(&tool[schema]).expect("a schema");
        }
    }
    assert_eq!(
        find("books_list")["annotations"],
        json!({"readOnlyHint": true})
    );
    assert_eq!(
        find("books_delete")["annotations"],
        json!({"readOnlyHint": false, "destructiveHint": true, "idempotentHint": true})
    );
    assert_eq!(
        find("books_create")["annotations"],
        json!({"readOnlyHint": false, "destructiveHint": false})
    );
    let calls = [
        ("books_get", json!({"title": "Dune"})),
        ("books_list", json!({"limit": 2})),
        ("books_list", json!({})),
        ("books_create", json!({"title": "Solaris", "pages": 204})),
        ("books_delete", json!({"title": "Solaris", "force": true})),
        ("rooms_weigh", json!({"text": "abc"})),
        ("services_list", json!({})),
    ];
    let mut answers = Vec::new();
    for (name, arguments) in calls {
        let result = tool(&world, "writer", name, arguments).await;
        assert_eq!(result["isError"], false, "{result}");
        let schema = &find(name)["outputSchema"];
        let validator = jsonschema::draft202012::new(schema).expect("a schema");
        validator
            .validate(&result["structuredContent"])
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        answers.push(result["structuredContent"].clone());
    }
    assert_eq!(answers[1]["items"].as_array().map(Vec::len), Some(2));
    let next = json!({"limit": 2, "cursor": answers[1]["next_cursor"]});
    let rest = tool(&world, "writer", "books_list", next).await;
    assert_eq!(rest["structuredContent"]["items"][0]["title"], "Ulysses");
    assert_eq!(answers[5], json!({"result": 3}));
}

#[tokio::test]
async fn a_call_that_fails_tells_the_model_why() {
    let world = world().await;
    let failed = async |name: &str, arguments: Value| {
        let result = tool(&world, "writer", name, arguments).await;
        assert_eq!(result["isError"], true, "{result}");
        assert!(result.get("structuredContent").is_none(), "{result}");
        let text = result["content"][0]["text"].as_str().expect("text");
        let told: Value = serde_json::from_str(text).expect("JSON");
        told["error"].clone()
    };
    let taken = failed("books_create", json!({"title": "Dune", "pages": 1})).await;
    assert_eq!(taken["code"], "TAKEN");
    assert_eq!(taken["details"], json!({"title": "Dune"}));
    let wrong = failed("books_create", json!({"title": "x", "pagez": 1})).await;
    assert_eq!(wrong["code"], "INVALID_INPUT");
    assert!(wrong["message"].to_string().contains("pagez"), "{wrong}");
    assert_eq!(
        failed("books_lend", json!({"title": "x"})).await["retryable"],
        true
    );
    let broken = failed("rooms_trip", json!({})).await;
    assert_eq!(broken["code"], "INTERNAL");
    assert!(broken["request_id"].is_string());
    assert!(!broken.to_string().contains("secret"), "{broken}");
}

/// The next message of an event stream, comments aside; `None` at its end.
async fn event(body: &mut hyper::body::Incoming) -> Option<Value> {
    loop {
        let frame = soon("an event", body.frame()).await?.expect("whole");
        let text = frame.into_data().expect("data");
        let text = String::from_utf8_lossy(&text).into_owned();
        if let Some(data) = text.strip_prefix("event: message\ndata: ") {
            return Some(serde_json::from_str(data).expect("JSON"));
        }
        assert!(text.is_empty() || text.starts_with(':'), "{text}");
    }
}

#[tokio::test]
async fn progress_is_told_as_it_is_made_and_the_response_is_the_last_event() {
    let world = world().await;
    let mut client = world.http2().await;
    let params = json!({
        "name": "rooms_walk", "arguments": {"steps": 2}, "_meta": {"progressToken": "t"},
    });
    let answer = client
        .begin(stateless("reader", "tools/call", params))
        .await
        .expect("an answer");
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    for step in 1..=2 {
        let told = event(&mut body).await.expect("progress");
        assert_eq!(told["method"], "notifications/progress");
        assert_eq!(
            told["params"],
            json!({
                "progressToken": "t", "progress": f64::from(step), "total": 2.0,
                "message": format!("step {step}"),
            })
        );
        world.shelf.wake.add_permits(1);
    }
    let response = event(&mut body).await.expect("the response");
    assert_eq!(response["result"]["structuredContent"]["result"], 2);
    assert_eq!(event(&mut body).await, None);
}

#[tokio::test]
async fn a_call_that_takes_long_becomes_a_stream_unless_the_client_reads_none() {
    let world = world().await;
    let request = || {
        let params = json!({"name": "rooms_nap", "_meta": {"progressToken": 7}});
        stateless("reader", "tools/call", params)
    };
    let mut client = world.http1().await;
    let answer = client.begin(request()).await.expect("an answer");
    let mut body = answer.into_body();
    let told = event(&mut body).await.expect("a sign of life");
    assert_eq!(told["params"]["progressToken"], 7);
    world.shelf.wake.add_permits(1);
    let mut last = told;
    while let Some(next) = event(&mut body).await {
        last = next;
    }
    assert_eq!(last["result"]["structuredContent"]["result"], "well rested");

    let mut request = request();
    let json_only = "application/json".parse().expect("a value");
    request.headers_mut().insert("accept", json_only);
    world.shelf.wake.add_permits(1);
    let answer = world.send(request).await.json();
    assert_eq!(
        answer["result"]["structuredContent"]["result"],
        "well rested"
    );
}

#[tokio::test]
async fn a_client_that_leaves_or_cancels_ends_its_call_and_nobody_elses() {
    let world = world().await;
    let napping = async || {
        soon("a nap", world.shelf.napping.acquire())
            .await
            .expect("open")
            .forget()
    };
    let disturbed = async || {
        soon("its end", world.shelf.disturbed.acquire())
            .await
            .expect("open")
            .forget()
    };
    let nap = json!({"id": 5, "method": "tools/call", "params": {"name": "rooms_nap"}});

    let mut client = world.http1().await;
    let left = tokio::spawn(async move {
        let params = json!({"name": "rooms_nap"});
        let _ = client
            .begin(stateless("reader", "tools/call", params))
            .await;
        drop(client);
    });
    napping().await;
    left.abort();
    disturbed().await;

    let mut client: Client = world.http2().await;
    let request = in_session("reader", "one", nap.clone());
    let answer = tokio::spawn(async move { client.send(request).await });
    napping().await;
    let cancel =
        |id: Value| json!({"method": "notifications/cancelled", "params": {"requestId": id}});
    for (token, session, id) in [
        ("reader", "two", json!(5)),
        ("writer", "one", json!(5)),
        ("reader", "one", json!("5")),
        ("reader", "one", json!(6)),
    ] {
        let answer = world.send(in_session(token, session, cancel(id))).await;
        assert_eq!(answer.status, 202);
    }
    assert_eq!(world.shelf.disturbed.available_permits(), 0);
    assert!(!answer.is_finished());
    world
        .send(in_session("reader", "one", cancel(json!(5))))
        .await;
    disturbed().await;
    let answer = soon("an answer", answer).await.expect("no panic");
    assert_eq!(answer.status, 200);
    assert!(String::from_utf8_lossy(&answer.body).contains("cancelled"));
}

#[tokio::test]
async fn a_stranger_learns_that_a_token_is_needed_and_nothing_else() {
    let world = world().await;
    let asked = json!({"id": 1, "method": "initialize", "params": {}});
    let answer = world.send(message("", &asked)).await;
    assert_eq!(answer.failure(), (401, "FORBIDDEN".to_owned()));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    // As every operation that asks for a token: nothing says what would answer here.
    let other = world.post("", "/books/create", asked.clone()).await;
    let but_its_id = |answer: &Answer| {
        let id = answer.header("x-request-id").expect("an id").to_owned();
        String::from_utf8_lossy(&answer.body).replace(&id, "ID")
    };
    assert_eq!(but_its_id(&answer), but_its_id(&other));
    let stolen = world.send(message("stolen", &asked)).await;
    assert_eq!(stolen.failure(), (401, "FORBIDDEN".to_owned()));
    let wrong = world.get("reader", "/mcp").await;
    assert_eq!(wrong.failure(), (405, "METHOD_NOT_ALLOWED".to_owned()));
    assert_eq!(wrong.header("allow"), Some("POST"));

    // Where it is not offered it is not there.
    let without = World::start().await;
    let answer = without.send(message("reader", &asked)).await;
    let unknown = without.post("reader", "/nothing-here", asked).await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.body, unknown.body);
}

#[tokio::test]
async fn another_name_or_a_foreign_page_is_refused_before_anything_else() {
    let world = world().await;
    let asked = json!({"id": 1, "method": "ping"});
    let send = async |name: &'static str, value: &str| {
        let mut request = message("reader", &asked);
        let value = value.parse().expect("a value");
        request.headers_mut().insert(name, value);
        world.send(request).await
    };
    for (name, value) in [
        ("host", "evil.example"),
        ("origin", "https://evil.example"),
        ("origin", "http://localhost"),
        ("origin", "null"),
    ] {
        let answer = send(name, value).await;
        assert_eq!(answer.failure(), (403, "FORBIDDEN".to_owned()), "{value}");
    }
    for (name, value) in [
        ("host", "localhost:8443"),
        ("origin", "https://localhost"),
        ("origin", "https://app.example.org"),
    ] {
        assert_eq!(send(name, value).await.status, 200, "{value}");
    }
}

#[tokio::test]
async fn what_is_no_proper_message_is_refused_in_the_protocols_own_words() {
    let world = world().await;
    let raw = async |body: &'static str| {
        let request = message("reader", &json!({"method": "x"}));
        let (head, _) = request.into_parts();
        let request = Request::from_parts(head, Full::new(Bytes::from_static(body.as_bytes())));
        error(&world.send(request).await)
    };
    assert_eq!(raw("").await, (400, -32700));
    assert_eq!(raw("{").await, (400, -32700));
    assert_eq!(raw("[]").await, (400, -32600));
    assert_eq!(
        raw(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#).await,
        (400, -32600)
    );
    let mut wrong = stateless("reader", "tools/list", json!({}));
    let other = "tools/call".parse().expect("a value");
    wrong.headers_mut().insert("mcp-method", other);
    assert_eq!(error(&world.send(wrong).await), (400, -32020));
    let unknown = stateless("reader", "resources/list", json!({}));
    assert_eq!(error(&world.send(unknown).await), (404, -32601));
    let unknown = in_session("reader", "s", json!({"id": 1, "method": "resources/list"}));
    assert_eq!(error(&world.send(unknown).await), (200, -32601));
}
