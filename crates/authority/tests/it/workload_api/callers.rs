//! Who is taken for whom.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use hostler_authority::workload_api::{Entries, Entry, Selector};
use hyper_util::rt::TokioIo;
use spiffe::WorkloadApiClient;

use super::{Running, my_uid, soon};
use crate::support::{id, new};

fn digest(path: &std::path::Path) -> [u8; 32] {
    let bytes = std::fs::read(path).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    digest.as_ref().try_into().unwrap()
}

#[tokio::test]
async fn every_selector_of_an_entry_must_match_the_caller() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, Entries::default());
    let client = running.client().await;
    let exe = std::env::current_exe().unwrap();
    let pid = i32::try_from(std::process::id()).unwrap();
    let gid = rustix::process::getegid().as_raw();
    let all = [
        my_uid(),
        Selector::Gid(gid),
        Selector::Pid(pid),
        Selector::Path(exe.clone()),
        Selector::Sha256(digest(&exe)),
    ];
    let wrong = [
        Selector::Uid(u32::MAX),
        Selector::Gid(gid + 1),
        Selector::Pid(pid + 1),
        Selector::Path("/usr/bin/true".into()),
        Selector::Sha256([0; 32]),
    ];
    let gets_one = async |selectors: Vec<Selector>| {
        let entry = Entry::new(id("/web"), selectors).unwrap();
        running.entries.send_replace(Entries::from_iter([entry]));
        soon(client.fetch_x509_svid()).await.is_ok()
    };
    assert!(gets_one(all.to_vec()).await);
    for (position, wrong) in wrong.into_iter().enumerate() {
        assert!(
            gets_one(vec![all[position].clone()]).await,
            "{}",
            all[position]
        );
        let mut selectors = all.to_vec();
        selectors[position] = wrong.clone();
        assert!(!gets_one(selectors).await, "{wrong}");
    }
}

#[tokio::test]
async fn another_process_is_another_caller() {
    let (authority, _dir) = new();
    let mine = Selector::Pid(i32::try_from(std::process::id()).unwrap());
    let entry = Entry::new(id("/web"), [mine]).unwrap();
    let running = Running::new(&authority, Entries::from_iter([entry]));
    assert!(soon(running.client().await.fetch_x509_svid()).await.is_ok());
    let told = in_another_process("asks_for_itself", &running).await;
    assert!(told.contains("no registration entry"), "{told}");
    assert!(
        !told.contains(&format!("unix:pid:{}", std::process::id())),
        "{told}"
    );
}

#[tokio::test]
#[ignore = "a part of another_process_is_another_caller"]
async fn asks_for_itself() {
    let endpoint = std::env::var("TEST_WORKLOAD_API").expect("run by its parent");
    let client = soon(WorkloadApiClient::connect_to(endpoint)).await.unwrap();
    let refused = soon(client.fetch_x509_svid()).await.unwrap_err();
    say(&refused.to_string());
}

#[tokio::test]
async fn a_connection_is_worth_nothing_once_the_process_that_opened_it_has_ended() {
    let (authority, _dir) = new();
    let entry = Entry::new(id("/web"), [my_uid()]).unwrap();
    let running = Running::new(&authority, Entries::from_iter([entry]));
    let told = in_another_process("hands_its_connection_on_and_ends", &running).await;
    assert!(told.contains("has ended"), "{told}");
    assert!(!told.contains("was given an identity"), "{told}");
}

/// Runs an ignored test of this binary as a process of its own, and answers with its output and
/// that of those it started.
async fn in_another_process(test: &'static str, running: &Running) -> String {
    let child = again(test)
        .env("TEST_WORKLOAD_API", &running.endpoint)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let answer = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap());
    let answer = soon(answer).await.unwrap();
    let told = String::from_utf8(answer.stdout).unwrap();
    assert!(answer.status.success(), "{told}");
    told
}

fn again(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = format!("workload_api::callers::{test}");
    command.args([&name, "--exact", "--ignored", "--nocapture"]);
    command
}

fn say(what: &str) {
    let mut out = std::io::stdout();
    out.write_all(format!("{what}\n").as_bytes()).unwrap();
}

#[test]
#[ignore = "a part of a_connection_is_worth_nothing_once_the_process_that_opened_it_has_ended"]
#[expect(
    clippy::zombie_processes,
    reason = "the child's whole point is to outlive us"
)]
fn hands_its_connection_on_and_ends() {
    let endpoint = std::env::var("TEST_WORKLOAD_API").expect("run by its parent");
    let connection = UnixStream::connect(endpoint.strip_prefix("unix://").unwrap()).unwrap();
    again("asks_on_its_input_once_its_parent_has_ended")
        .env("TEST_PARENT", std::process::id().to_string())
        .stdin(Stdio::from(OwnedFd::from(connection)))
        .spawn()
        .unwrap();
}

#[tokio::test]
#[ignore = "a part of a_connection_is_worth_nothing_once_the_process_that_opened_it_has_ended"]
async fn asks_on_its_input_once_its_parent_has_ended() {
    let parent = std::env::var("TEST_PARENT").expect("run by its parent");
    let orphaned = async {
        while rustix::process::getppid().is_some_and(|now| now.to_string() == parent) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(orphaned).await;
    let connection = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    connection.set_nonblocking(true).unwrap();
    let connection = tokio::net::UnixStream::from_std(connection).unwrap();
    let mut connection = Some(TokioIo::new(connection));
    let channel = tonic::transport::Endpoint::from_static("http://socket")
        .connect_with_connector(tower::service_fn(move |_| {
            let connection = connection.take().ok_or(std::io::ErrorKind::NotConnected);
            std::future::ready(connection.map_err(std::io::Error::from))
        }))
        .await
        .unwrap();
    let endpoint = "unix:///inherited".parse().unwrap();
    let client = WorkloadApiClient::new_with_channel(endpoint, channel);
    match soon(client.fetch_x509_svid()).await {
        Ok(_) => say("was given an identity"),
        Err(refused) => say(&refused.to_string()),
    }
}
