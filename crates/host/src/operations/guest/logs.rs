//! `vms/logs` and `vms/follow-logs`: what a VM's console shows.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{StreamExt, TryStreamExt, try_unfold};
use hostler_operations::{Call, Method, Outputs, Service, StatusCode, query, subscription};
use hostler_vmm::{ConsoleReading, Machines, VmName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::GuestError;
use crate::host::Host;
use crate::operations::VMS_READ;

/// How often a console that is followed is looked at.
const ROUND: Duration = Duration::from_millis(200);

/// Adds the operations on consoles.
pub(in crate::operations) fn operations(service: Service<Host>) -> Service<Host> {
    service
        .with(query("logs", logs).requires(VMS_READ).rest(
            Method::GET,
            "/v1/vms/{name}/logs",
            StatusCode::OK,
        ))
        .with(
            subscription("follow-logs", follow_logs)
                .requires(VMS_READ)
                .rest(Method::GET, "/v1/vms/{name}/logs/follow", StatusCode::OK),
        )
}

/// Shows the last lines of a VM's console: what its kernel and its init wrote there.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Logs {
    /// The VM's name.
    name: VmName,
    /// How many lines, up to 10000; 100 unless said.
    #[serde(default = "default_lines")]
    #[schemars(range(max = 10000))]
    lines: u32,
}

/// Shows the last lines of a VM's console, and then what is written there, until the VM stops.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FollowLogs {
    /// The VM's name.
    name: VmName,
    /// How many of the lines that are there, up to 10000; 100 unless said.
    #[serde(default = "default_lines")]
    #[schemars(range(max = 10000))]
    lines: u32,
}

fn default_lines() -> u32 {
    100
}

/// What a console shows.
#[derive(Serialize, JsonSchema)]
struct Shown {
    /// The text, with U+FFFD for what is none. The guest wrote it: it may hold what a terminal
    /// obeys.
    text: String,
    /// Whether there was more before it.
    truncated: bool,
}

async fn logs(host: &Host, _: Call, input: Logs) -> Result<Shown, GuestError> {
    let lines = input.lines as usize;
    let reading = host.machines().console(input.name.as_str(), lines).await?;
    Ok(Shown {
        text: String::from_utf8_lossy(&reading.bytes).into_owned(),
        truncated: reading.truncated,
    })
}

async fn follow_logs(
    host: &Host,
    _: Call,
    input: FollowLogs,
) -> Result<Outputs<Shown, GuestError>, GuestError> {
    let machines = host.machines().clone();
    let lines = input.lines as usize;
    let first = machines.console(input.name.as_str(), lines).await?;
    let follower = Follower {
        machines: Arc::new(machines),
        name: input.name,
        position: first.position,
        ready: Some(first),
        half: Vec::new(),
    };
    let shown = try_unfold(follower, |mut follower| async {
        let shown = follower.next().await?;
        Ok::<_, hostler_vmm::GuestError>(shown.map(|shown| (shown, follower)))
    });
    Ok(shown.map_err(GuestError::from).boxed())
}

struct Follower {
    machines: Arc<Machines>,
    name: VmName,
    position: u64,
    ready: Option<ConsoleReading>,
    /// The beginning of a character whose end is not written yet.
    half: Vec<u8>,
}

impl Follower {
    async fn next(&mut self) -> Result<Option<Shown>, hostler_vmm::GuestError> {
        loop {
            if let Some(reading) = self.ready.take()
                && !reading.bytes.is_empty()
            {
                return Ok(Some(Shown {
                    text: self.text(reading.bytes),
                    truncated: reading.truncated,
                }));
            }
            // In this order: what was written before the end is shown.
            let name = self.name.as_str();
            // One that has no process, however it lost it, says nothing more.
            let runs = self.machines.get(name).await?.started_at.is_some();
            let reading = self.machines.console_from(name, self.position).await?;
            self.position = reading.position;
            if reading.bytes.is_empty() {
                if !runs {
                    return Ok(None);
                }
                tokio::time::sleep(ROUND).await;
            }
            self.ready = Some(reading);
        }
    }

    /// The text of the bytes; the beginning of a character waits for its end.
    fn text(&mut self, bytes: Vec<u8>) -> String {
        let mut all = std::mem::take(&mut self.half);
        all.extend(bytes);
        let whole = all.utf8_chunks().fold(0, |end, chunk| {
            let unfinished = end + chunk.valid().len() + chunk.invalid().len() == all.len()
                && is_beginning(chunk.invalid());
            let invalid = if unfinished { 0 } else { chunk.invalid().len() };
            end + chunk.valid().len() + invalid
        });
        self.half = all.split_off(whole);
        String::from_utf8_lossy(&all).into_owned()
    }
}

/// Whether these bytes begin a character and do not end it.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_character_that_is_cut_in_two_is_shown_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let config = hostler_vmm::Config::new(dir.path());
        let mut follower = Follower {
            machines: Arc::new(Machines::open(config).await.expect("machines")),
            name: "x".parse().expect("a name"),
            position: 0,
            ready: None,
            half: Vec::new(),
        };
        let text = "aé€😀".as_bytes();
        for at in 0..=text.len() {
            let (one, two) = text.split_at(at);
            let shown = follower.text(one.to_vec()) + &follower.text(two.to_vec());
            assert_eq!(shown, "aé€😀", "cut at {at}");
        }
        assert_eq!(follower.text(b"a\xffb".to_vec()), "a\u{fffd}b");
    }
}
