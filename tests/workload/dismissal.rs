//! A host that is deleted while it is connected.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use spiffe::WorkloadApiClient;

use super::{SOON, ask_as, client, create, endpoint, granted, own_files};
use crate::support::{Agent, Plane, Stopwatch, curl};

/// A connection to the machines' door that is held open.
struct Held {
    openssl: Child,
    answers: BufReader<ChildStdout>,
}

impl Held {
    fn open(plane: &Plane, agent: &Agent) -> Self {
        let [cert, key] = own_files(plane, agent);
        let mut openssl = Command::new("openssl")
            .args([
                "s_client",
                "-quiet",
                "-connect",
                &format!("127.0.0.1:{}", plane.machines),
            ])
            .arg("-cert")
            .arg(cert)
            .arg("-key")
            .arg(key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl runs");
        let answers = BufReader::new(openssl.stdout.take().expect("its output"));
        Self { openssl, answers }
    }

    /// Sends a request and reads its status line.
    fn asks(&mut self) -> String {
        let request = b"GET /healthz HTTP/1.1\r\nHost: machines\r\n\r\n";
        let input = self.openssl.stdin.as_mut().expect("its input");
        input.write_all(request).expect("sent");
        let (mut status, mut line) = (String::new(), String::new());
        self.answers.read_line(&mut status).expect("an answer");
        while line != "ok" {
            line.clear();
            // The body has no line end of its own.
            let mut head = self.answers.fill_buf().expect("more");
            let end = head
                .iter()
                .position(|b| *b == b'\n')
                .map_or(head.len(), |at| at + 1);
            head = &head[..end];
            line = String::from_utf8_lossy(head).trim().to_owned();
            self.answers.consume(end);
        }
        status
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.openssl.kill();
        let _ = self.openssl.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_host_is_out_within_five_seconds() {
    let plane = Plane::start();
    let (mut dismissed, stays) = (plane.enrol("dismissed"), plane.enrol("stays"));
    create(&plane, "/web", &[]);
    let named = create(&plane, "/named", &["--host", &dismissed.id]);
    granted(&client(&dismissed).await).await;
    let mint = |agent: &Agent| {
        let path = format!("/v1/hosts/{}/workloads/jwt-svid", agent.id);
        let id = "spiffe://hostler.internal/web";
        let body = serde_json::json!({ "spiffe_id": id, "audience": ["x"] });
        ask_as(&plane, agent, &path, &body)
    };
    assert_eq!(mint(&dismissed).status, 200);
    let mut held = Held::open(&plane, &dismissed);
    let mut others = Held::open(&plane, &stays);
    for _ in 0..2 {
        assert!(held.asks().contains("200"));
    }
    // Kept, because the host itself will remove them.
    let [cert, key] = own_files(&plane, &dismissed);

    plane.ask(&["host", "delete", &dismissed.id]);
    let begun = Stopwatch::start();
    let mut rest = String::new();
    let read = held.answers.read_to_string(&mut rest);
    assert!(
        read.is_ok() && begun.elapsed() < SOON,
        "{read:?} after {:?}",
        begun.elapsed()
    );
    let url = format!("https://127.0.0.1:{}/healthz", plane.machines);
    let (cert, key) = (cert.to_str().expect("text"), key.to_str().expect("text"));
    let again = curl(&["--insecure", "--cert", cert, "--key", key, &url], "");
    assert_eq!(again.status, 0, "its certificate opens the door: {again:?}");

    // It learns it, and takes the identities of its processes with it.
    let begun = Stopwatch::start();
    let (code, log) = dismissed.daemon().take().expect("it runs").end();
    assert_eq!(code, Some(1), "{log}");
    assert!(
        begun.elapsed() < SOON,
        "it lived on for {:?}",
        begun.elapsed()
    );
    assert!(
        WorkloadApiClient::connect_to(&endpoint(&dismissed))
            .await
            .is_err()
    );
    let entries = plane.ask(&["entry", "list"]);
    assert!(
        !entries.to_string().contains(&named),
        "its own entry goes with it: {entries}"
    );

    assert!(others.asks().contains("200"), "nobody else is cut");
    assert_eq!(mint(&stays).status, 200);
}
