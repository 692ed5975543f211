//! A VM's memory in a file and back: QEMU's migration, with a file in the place of another host.
//!
//! QEMU is handed an open file over its monitor, so it needs no right to open any, and its sandbox
//! stays closed. The file holds memory and devices as one stream, empty pages left out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::qmp::Qmp;
use crate::driver::{LinkError, SaveError, processor};
use crate::files::{self, Context as _};

/// What QEMU is to call the file.
const NAME: &str = "memory";

/// How often QEMU is asked how far it is.
const ROUND: Duration = Duration::from_millis(2);

/// So long nothing may move before it counts as stuck.
const STALL: Duration = Duration::from_secs(60);

/// Bytes in a second, as a limit that is none: by itself QEMU leaves room on a network.
const FULL_SPEED: u64 = 1 << 40;

/// The stream in a snapshot's directory.
fn stream_in(directory: &Path) -> PathBuf {
    directory.join("memory")
}

/// Writes memory and devices to a directory.
pub(super) async fn save(qmp: &Qmp, directory: &Path) -> Result<(), SaveError> {
    let path = stream_in(directory);
    let mut file = files::create_private(&path)?;
    let status = qmp.execute("query-status", Value::Null).await?;
    if status.get("status") == Some(&json!("postmigrate")) {
        // It has been saved before and stood still since. QEMU saves nothing twice in a row, so
        // the guest runs for a moment.
        qmp.execute("cont", Value::Null).await?;
        qmp.execute("stop", Value::Null).await?;
    }
    let limits = json!({ "max-bandwidth": FULL_SPEED });
    qmp.execute("migrate-set-parameters", limits).await?;
    qmp.give_file(NAME, file.as_fd()).await?;
    let uri = json!({ "uri": format!("fd:{NAME}") });
    qmp.execute("migrate", uri).await?;
    let written = || file.metadata().map_or(0, |metadata| metadata.len());
    let done = until_done(qmp, "migrate", written).await;
    if done.is_err() {
        settle(qmp).await?;
        // QEMU says that it failed, and not why. A full disk says it itself.
        file.write_all(&[0; 64 * 1024]).context("write", &path)?;
    }
    Ok(done?)
}

/// Loads them into a QEMU that was started to wait for them.
pub(super) async fn load(qmp: &Qmp, directory: &Path) -> Result<(), SaveError> {
    let path = stream_in(directory);
    let file = File::open(&path).context("read", &path)?;
    qmp.give_file(NAME, file.as_fd()).await?;
    let uri = json!({ "uri": format!("fd:{NAME}") });
    qmp.execute("migrate-incoming", uri).await?;
    // Both have the file open, but not at a place of their own: how far QEMU has read shows here.
    let read = || rustix::fs::tell(&file).unwrap_or(0);
    Ok(until_done(qmp, "migrate-incoming", read).await?)
}

/// Ends a saving that nobody waits for any more.
pub(super) async fn settle(qmp: &Qmp) -> Result<(), LinkError> {
    let deadline = Instant::now() + STALL;
    loop {
        match status(&qmp.execute("query-migrate", Value::Null).await?) {
            Status::Going(_) if Instant::now() < deadline => {}
            _ => return Ok(()),
        }
        qmp.execute("migrate_cancel", Value::Null).await?;
        tokio::time::sleep(ROUND).await;
    }
}

/// Waits for a migration for as long as it moves.
async fn until_done(
    qmp: &Qmp,
    command: &'static str,
    progress: impl Fn() -> u64,
) -> Result<(), LinkError> {
    let (mut seen, mut moved) = (progress(), Instant::now());
    loop {
        match status(&qmp.execute("query-migrate", Value::Null).await?) {
            Status::Done => return Ok(()),
            Status::Failed(message) => return Err(LinkError::Refused { command, message }),
            Status::Going(doing) if moved.elapsed() > STALL => {
                let answer = format!("{doing}, and nothing has moved for {} s", STALL.as_secs());
                return Err(LinkError::Unknown { command, answer });
            }
            Status::Going(_) => {}
        }
        tokio::time::sleep(ROUND).await;
        let now = progress();
        if now != seen {
            (seen, moved) = (now, Instant::now());
        }
    }
}

/// Where a migration is.
#[derive(Debug, PartialEq, Eq)]
enum Status {
    Going(String),
    Done,
    Failed(String),
}

/// Reads the answer to `query-migrate` (QEMU's `MigrationStatus`).
fn status(answer: &Value) -> Status {
    match answer.get("status").and_then(Value::as_str) {
        Some("completed") => Status::Done,
        Some(status @ ("failed" | "cancelled" | "none")) => {
            let reason = answer.get("error-desc").and_then(Value::as_str);
            Status::Failed(reason.unwrap_or(status).to_owned())
        }
        // Of a QEMU that was never told to migrate.
        None => Status::Failed("it has not begun".to_owned()),
        Some(status) => Status::Going(status.to_owned()),
    }
}

/// What has to be the same for a stream to be loaded, read from a command line of QEMU: its
/// version, the machine and every device. QEMU itself notices only some of it, and loads the rest
/// into a guest that then goes wrong.
pub(super) fn form<'a>(
    version: &str,
    arguments: impl IntoIterator<Item = &'a str>,
    cpuinfo: &str,
) -> BTreeMap<String, String> {
    // Of one minor version all releases read each other's streams; machines like microvm promise
    // it for no others.
    let minor: Vec<&str> = version.splitn(3, '.').take(2).collect();
    let mut form = BTreeMap::from([("QEMU".to_owned(), minor.join("."))]);
    let mut devices = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(option) = arguments.next() {
        // The other options say which files and ports are behind it, or nothing to the guest.
        let what = match option {
            "-machine" => "machine",
            "-cpu" => "processor",
            "-bios" => "firmware",
            "-append" => "time-stamp counter",
            "-device" | "-netdev" => "devices",
            _ => continue,
        };
        let value = arguments.next().unwrap_or_default();
        let value = match option {
            "-device" => {
                devices.push(value);
                continue;
            }
            // What carries the packets, not where to.
            "-netdev" => {
                devices.push(value.split(',').next().unwrap_or_default());
                continue;
            }
            "-append" => match value.split(' ').find(|word| word.starts_with("tsc_")) {
                Some(word) => word.to_owned(),
                None => continue,
            },
            // The guest's processor is the host's.
            "-cpu" if value == "host" => processor(cpuinfo),
            _ => value.to_owned(),
        };
        form.insert(what.to_owned(), value);
    }
    form.insert("devices".to_owned(), devices.join(" "));
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_of_a_migration_are_told_apart() {
        assert_eq!(status(&json!({ "status": "completed" })), Status::Done);
        for going in ["setup", "active", "device", "cancelling", "a-new-one"] {
            assert_eq!(
                status(&json!({ "status": going })),
                Status::Going(going.to_owned())
            );
        }
        let failed = json!({ "status": "failed", "error-desc": "No space left on device" });
        assert_eq!(
            status(&failed),
            Status::Failed("No space left on device".to_owned())
        );
        assert!(matches!(status(&json!({})), Status::Failed(_)));
    }

    const LINE: [&str; 14] = [
        "-machine",
        "microvm,accel=tcg",
        "-cpu",
        "max",
        "-append",
        "quiet tsc_early_khz=1 panic=-1",
        "-drive",
        "if=none,id=d0,file=/a",
        "-device",
        "virtio-blk-device,drive=d0",
        "-netdev",
        "user,id=n0,hostfwd=tcp:127.0.0.1:1-:2",
        "-name",
        "web-1",
    ];

    #[test]
    fn another_version_machine_clock_or_device_is_another_form() {
        let here = form("7.2.22", LINE, "");
        assert_eq!(here["devices"], "virtio-blk-device,drive=d0 user");
        assert_eq!(here, form("7.2.30", LINE, ""));
        assert_ne!(here, form("7.1.22", LINE, ""));
        assert_ne!(here, form("10.0", LINE, ""));
        let with = |at: usize, value: &'static str| {
            let mut line = LINE;
            line[at] = value;
            form("7.2.22", line, "model name : A\nstepping : 1\n")
        };
        for at in [1, 3, 5, 9, 11] {
            assert_ne!(here, with(at, "tsc_other"), "{}", LINE[at]);
        }
        assert_eq!(with(3, "host")["processor"], "A, stepping 1");
    }

    #[test]
    fn other_files_ports_and_names_are_the_same_form() {
        for (at, value) in [
            (7, "if=none,id=d0,file=/b"),
            (11, "user,id=n0,hostfwd=tcp:127.0.0.1:3-:4"),
            (13, "web-2"),
        ] {
            let mut line = LINE;
            line[at] = value;
            assert_eq!(form("7.2.22", LINE, ""), form("7.2.22", line, ""));
        }
    }
}
