//! The protocol's own conformance suite, against a bookshelf that speaks MCP. It knows no tokens and
//! no TLS, so both are added in front of the adapter. Its scenarios about things that a server of
//! tools does not have (resources, prompts, sampling) are left out, and those that call tools of
//! its own by name.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::map_request;
use hostler_gateway::{HttpAdapter, Mcp};
use http::HeaderValue;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::shelf::{self, Shelf};
use crate::world::{porter, soon};

const SCENARIOS: [&str; 5] = [
    "server-initialize",
    "ping",
    "tools-list",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
];

/// Where the suite and the Node that it needs are installed.
async fn peers() -> String {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = Command::new(here.join("../../scripts/node-peers"))
        .arg(here.join("tests/conformance"))
        .stderr(Stdio::inherit())
        .output();
    let made = made.await.expect("it runs");
    assert!(made.status.success(), "no Node peers; why is said above");
    let place = String::from_utf8(made.stdout).expect("text");
    format!("{}/node_modules", place.trim())
}

#[tokio::test]
async fn the_conformance_suite_of_the_protocol_is_content() {
    let peers = peers().await;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a free port");
    let address: SocketAddr = listener.local_addr().expect("an address");
    let origin = format!("http://{address}").parse().expect("a URL");
    let shelf = Arc::new(Shelf::default());
    let adapter = HttpAdapter::builder(shelf::registry(&shelf), porter())
        .about("Bookshelf", "1.2.3")
        .mcp(Mcp::new(["127.0.0.1"]).origin(&origin))
        .build()
        .expect("an adapter");
    let router = adapter
        .router()
        .layer(map_request(async |mut request: Request| {
            let token = HeaderValue::from_static("Bearer writer");
            request.headers_mut().insert("authorization", token);
            request
        }));
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let served = axum::serve(listener, router).with_graceful_shutdown(stopped);
    let served = tokio::spawn(served.into_future());
    for scenario in SCENARIOS {
        let run = Command::new(format!("{peers}/node/bin/node"))
            .arg(format!(
                "{peers}/@modelcontextprotocol/conformance/dist/index.js"
            ))
            .args(["server", "--url", &format!("http://{address}/mcp")])
            .args(["--scenario", scenario])
            .kill_on_drop(true)
            .output();
        let output = soon(scenario, run).await.expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{scenario}: {said}");
        let passed = said
            .lines()
            .any(|line| line.contains("Passed: ") && !line.contains("Passed: 0/"));
        assert!(passed, "{scenario} checked nothing: {said}");
    }
    stop.cancel();
    soon("the server's end", served)
        .await
        .expect("no panic")
        .expect("a listener");
}
