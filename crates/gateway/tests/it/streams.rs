//! Subscriptions as event streams.

use std::process::Stdio;

use http_body_util::BodyExt;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::shelf::{LEFT, LEFT_LOG};
use crate::world::{World, call, now_millis, soon};

#[tokio::test]
async fn each_output_is_an_event_with_an_increasing_id_and_the_end_closes() {
    let world = World::start().await;
    for path in ["/v1/books/watch?count=3", "/books/watch?count=3"] {
        for mut client in [world.http1().await, world.http2().await] {
            let mut request = call("GET", path, "reader", None);
            let accept = "text/event-stream".parse().expect("a value");
            request.headers_mut().insert("accept", accept);
            let answer = client.send(request).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("content-type"), Some("text/event-stream"));
            let expected = "id: 1\ndata: 1\n\nid: 2\ndata: 2\n\nid: 3\ndata: 3\n\n";
            assert_eq!(String::from_utf8_lossy(&answer.body), expected);
        }
    }
}

#[tokio::test]
async fn a_failure_is_an_error_event_and_the_last_one() {
    let world = World::start().await;
    let answer = world
        .get("reader", "/v1/books/watch?count=1&then=fail")
        .await;
    let events = String::from_utf8_lossy(&answer.body).into_owned();
    let (first, error) = events.split_once("\n\n").expect("two events");
    assert_eq!(first, "id: 1\ndata: 1");
    let data = error
        .strip_prefix("event: error\ndata: ")
        .expect("an error event");
    let error: serde_json::Value = serde_json::from_str(data.trim_end()).expect("JSON");
    assert_eq!(
        (&error["code"], &error["retryable"]),
        (&"all_out".into(), &true.into())
    );
}

#[tokio::test]
async fn a_stream_ends_when_what_it_began_with_is_not_good_any_more() {
    let world = World::start().await;
    let token = format!("reader-until-{}", now_millis() + 1000);
    let path = "/v1/books/watch?count=1&then=wait";
    let begun = std::time::Instant::now();
    let answer = soon("the end of the stream", world.get(&token, path)).await;
    assert_eq!(answer.status, 200);
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1));
    let events = String::from_utf8_lossy(&answer.body).into_owned();
    let (first, error) = events.split_once("\n\n").expect("two events");
    assert_eq!(first, "id: 1\ndata: 1");
    assert!(error.starts_with("event: error\n"), "{error}");
    assert!(error.contains("\"forbidden\""), "{error}");
}

#[tokio::test]
async fn what_fails_before_the_stream_begins_is_an_ordinary_answer() {
    let world = World::start().await;
    let answer = world.get("", "/v1/books/watch").await;
    assert_eq!(answer.failure(), (401, "unauthorized".to_owned()));
    let answer = world.get("reader", "/v1/books/watch?count=many").await;
    assert_eq!(answer.failure(), (400, "invalid_request".to_owned()));
    let mut request = call("GET", "/v1/books/watch", "reader", None);
    request
        .headers_mut()
        .insert("accept", "application/json".parse().expect("a value"));
    assert_eq!(
        world.send(request).await.failure(),
        (406, "not_acceptable".to_owned())
    );
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_subscription_and_a_closing_door_ends_the_stream() {
    // One test, because both wait for the same signal.
    let world = World::start().await;
    for mut client in [world.http1().await, world.http2().await] {
        let request = call("GET", "/v1/books/watch?count=1&then=wait", "reader", None);
        let mut body = client.begin(request).await.expect("an answer").into_body();
        let event = soon("an event", body.frame())
            .await
            .expect("one")
            .expect("whole");
        assert_eq!(event.into_data().expect("data"), "id: 1\ndata: 1\n\n");
        drop(body);
        client.connection.abort();
        soon("the end of the subscription", LEFT.acquire())
            .await
            .expect("open")
            .forget();
    }

    let mut client = world.http1().await;
    let request = call("GET", "/v1/books/watch?count=1&then=wait", "reader", None);
    let mut body = client.begin(request).await.expect("an answer").into_body();
    soon("an event", body.frame())
        .await
        .expect("one")
        .expect("whole");
    world.shutdown.cancel();
    let rest = soon("the end of the stream", body.collect())
        .await
        .expect("a polite end");
    assert!(rest.to_bytes().is_empty());
    soon("the door", world.served).await.expect("no panic");
}

#[tokio::test]
async fn curl_reads_a_stream_comes_back_to_where_it_was_and_is_noticed_when_it_leaves() {
    let world = World::start().await;
    let curl = |version: &str, seen: &str| {
        Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--no-buffer",
                "--insecure",
                version,
            ])
            .args(["--header", "accept: text/event-stream"])
            .args(["--header", "authorization: Bearer reader"])
            .args(["--header", &format!("last-event-id: {seen}")])
            .arg(format!("https://{}/v1/books/log", world.address))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("curl is installed")
    };
    // What no event had as its id says nothing; what is beyond the last has nothing after it.
    let cases = [
        ("--http1.1", "17", 18),
        ("--http2", "19", 20),
        ("--http2", "x", 11),
    ];
    for (version, seen, first) in cases {
        let mut child = curl(version, seen);
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        for number in first..=20 {
            for expected in [
                format!("id: {number}"),
                format!("data: {{\"number\":{number},\"what\":\"thing {number}\"}}"),
                String::new(),
            ] {
                let line = soon("a line", lines.next_line()).await.expect("text");
                assert_eq!(line, Some(expected), "{version} after {seen}");
            }
        }
        child.kill().await.expect("killed");
        let second = std::time::Duration::from_secs(1);
        let begun = tokio::time::Instant::now();
        soon("the end of the subscription", LEFT_LOG.acquire())
            .await
            .expect("open")
            .forget();
        // On a machine that has nothing else to do it is milliseconds.
        assert!(begun.elapsed() < 5 * second, "{:?}", begun.elapsed());
    }
}
