//! Imports as callers see them: how far they are, and that they end with whoever asked.

use std::net::TcpListener;
use std::pin::pin;

use futures::StreamExt as _;
use hostler_operations::{Grants, Identity, Request};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;

fn request(input: Value, cancelled: CancellationToken) -> Request {
    Request {
        input,
        identity: Some(Identity::new("the control plane", Grants::All)),
        cancelled,
        ..Request::default()
    }
}

#[tokio::test]
async fn an_import_is_watched_and_is_given_up_when_its_caller_leaves() {
    let desk = Desk::open().await;
    let watch = request(json!({ "name": "a" }), CancellationToken::new());
    let watched = desk
        .registry
        .subscribe("images/import-progress", watch)
        .await;
    let mut watched = pin!(watched.unwrap());
    // A registry that is reached and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("{}/a:1", silent.local_addr().unwrap());
    let left = CancellationToken::new();
    let import = request(json!({ "source": source, "name": "a" }), left.clone());
    let import = desk.registry.invoke("images/import", import);
    let watching = async {
        let mut states = Vec::new();
        while let Some(progress) = watched.next().await {
            let progress = progress.unwrap();
            states.push(progress["state"].as_str().unwrap().to_owned());
            if progress["message"] == format!("looking at {source}") {
                left.cancel();
            }
        }
        states
    };
    let (imported, states) = tokio::join!(import, watching);
    assert!(imported.is_err());
    assert_eq!(states.last().unwrap(), "failed", "{states:?}");
    let images = desk.host.machines().config().data_dir.join("images");
    assert_eq!(std::fs::read_dir(images).unwrap().count(), 0);
}

#[tokio::test]
async fn an_import_that_cannot_work_says_whose_fault_it_is() {
    let desk = Desk::open().await;
    for (source, code) in [
        ("/no/such/file", "INVALID_INPUT"),
        ("../relative", "INVALID_INPUT"),
        ("127.0.0.1:1/a:1", "REGISTRY_UNAVAILABLE"),
    ] {
        let input = json!({ "source": source, "name": "a" });
        assert_eq!(desk.code("images/import", input).await, code, "{source}");
    }
    for wrong in [
        json!({ "source": "a", "name": "../a" }),
        json!({ "source": "a" }),
    ] {
        assert_eq!(desk.code("images/import", wrong).await, "INVALID_INPUT");
    }
}
