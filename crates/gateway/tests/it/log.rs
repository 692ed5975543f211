//! The access log.

use std::io;
use std::sync::{Arc, Mutex};

use hostler_operations::protocol::AuthToken;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::world::{World, soon};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Lines {
    fn has(&self, part: &str) -> bool {
        !self.with(part).is_empty()
    }

    /// The line of the access log that has this in it, or nothing.
    fn with(&self, part: &str) -> String {
        let text = String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8");
        let mut lines = text.lines();
        let line = lines.find(|l| l.contains("hostler::access") && l.contains(part));
        line.unwrap_or_default().to_owned()
    }

    /// The line of the access log for the request with this id.
    fn of(&self, id: &str) -> String {
        let text = String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8");
        let line = text
            .lines()
            .find(|l| l.contains("hostler::access") && l.contains(id));
        line.unwrap_or_else(|| panic!("no line for {id} in\n{text}"))
            .to_owned()
    }
}

#[tokio::test]
async fn a_line_says_who_called_what_and_holds_no_credential() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(lines.clone())
        .finish();
    // While there is one subscriber, whichever thread comes first to a line of the code that logs asks
    // its own whether anybody listens there, and remembers it for all; with a second one it asks all.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    // This test's runtime has one thread, so the door logs here too.
    let _guard = tracing::subscriber::set_default(subscriber);
    let world = World::start().await;

    let answer = world
        .get("s3cr3t-of-ada", "/v1/books/Dune?title=Dune")
        .await;
    assert_eq!(answer.status, 200);
    let line = lines.of(answer.header("x-request-id").expect("an id"));
    let door = format!("door={}", world.address);
    for part in [
        door.as_str(),
        "method=GET",
        "route=\"/v1/books/{title}\"",
        "operation=\"books/get\"",
        "status=200",
        "subject=\"ada\"",
        "remote=127.0.0.1:",
        "ms=",
    ] {
        assert!(line.contains(part), "{part} is not in {line}");
    }
    let refused = world.get("s3cr3t-of-nobody", "/v1/books").await;
    let line = lines.of(refused.header("x-request-id").expect("an id"));
    assert!(
        line.contains("status=401") && !line.contains("subject"),
        "{line}"
    );
    let stray = world.get("", "/wp-admin/s3cr3t").await;
    let line = lines.of(stray.header("x-request-id").expect("an id"));
    assert!(
        line.contains("route=\"-\"") && line.contains("status=404"),
        "{line}"
    );

    let caller = world.caller().await;
    for (token, operation, expected) in [
        (
            "s3cr3t-of-ada",
            "/books/list",
            ["code=\"OK\"", "subject=\"ada\""],
        ),
        (
            "s3cr3t-of-nobody",
            "/books/get",
            ["code=\"FORBIDDEN\"", "operation=\"books/get\""],
        ),
    ] {
        let token = Some(AuthToken::new(token));
        let _answer = soon("an answer", caller.call(operation, json!({}), token)).await;
        // Its line comes after the answer was handed over.
        let written = async {
            while !lines.has(expected[0]) {
                tokio::task::yield_now().await;
            }
        };
        soon("a line", written).await;
        for part in [&expected[..], &["remote=127.0.0.1:", &door, "ms="]].concat() {
            assert!(lines.with(expected[0]).contains(part), "{part}");
        }
    }

    let everything = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("UTF-8");
    let ours: Vec<_> = everything
        .lines()
        .filter(|l| l.contains("hostler"))
        .collect();
    assert!(
        ours.iter().all(|line| !line.contains("s3cr3t")),
        "{ours:#?}"
    );
}
