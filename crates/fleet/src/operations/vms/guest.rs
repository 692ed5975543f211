//! Commands and files inside VMs, and their consoles: the VM's host does it. Here it is found out
//! whose VM it is and written down who went in; what they did there is in no book and no log.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use hostler_operations::{
    Call, Method, Outputs, Service, StatusCode, internal, mutation, query, subscription,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Asked, MARGIN, VmError, ask, find};
use crate::clock;
use crate::connector::{Ask, HostFailure, OrHost};
use crate::fleet::Fleet;
use crate::ids::TeamId;
use crate::model::{Host, Vm};
use crate::scopes::{VMS_EXEC, VMS_READ};
use crate::store;
use crate::store::audit::{self, Actor};

/// What a host allows itself beside the command: the guest may be coming up first, and a command
/// that is killed takes a moment.
const BESIDE_THE_COMMAND: Duration = Duration::from_secs(100);
const LONGEST_RUN: Duration = Duration::from_secs(3600);
/// For what is quick once the guest is up.
const QUICK: Duration = Duration::from_secs(70);
/// For the piece with which a file appears: a little longer than hosts wait until it is flushed.
const FLUSHED: Duration = Duration::from_secs(370);

pub(super) fn operations(service: Service<Fleet>) -> Service<Fleet> {
    service
        .with(
            mutation("run", run)
                .requires(VMS_EXEC)
                .timeout(LONGEST_RUN + BESIDE_THE_COMMAND + MARGIN)
                .rest(Method::POST, "/v1/vms/{name}/run", StatusCode::OK),
        )
        .with(
            subscription("exec", exec)
                .requires(VMS_EXEC)
                .timeout(QUICK + MARGIN)
                .rest(Method::POST, "/v1/vms/{name}/exec", StatusCode::OK),
        )
        .with(
            mutation("exec-input", exec_input)
                .requires(VMS_EXEC)
                .timeout(QUICK + MARGIN)
                .rest(
                    Method::POST,
                    "/v1/vms/{name}/exec/{id}/input",
                    StatusCode::OK,
                ),
        )
        .with(
            mutation("exec-resize", exec_resize)
                .requires(VMS_EXEC)
                .timeout(QUICK + MARGIN)
                .rest(
                    Method::POST,
                    "/v1/vms/{name}/exec/{id}/resize",
                    StatusCode::OK,
                ),
        )
        .with(
            query("read-file", read_file)
                .requires(VMS_EXEC)
                .timeout(QUICK + MARGIN)
                .rest(Method::GET, "/v1/vms/{name}/file", StatusCode::OK),
        )
        .with(
            mutation("write-file", write_file)
                .requires(VMS_EXEC)
                .timeout(FLUSHED + MARGIN)
                .rest(Method::PUT, "/v1/vms/{name}/file", StatusCode::OK),
        )
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

/// An input that is passed on to a VM's host: everything in it but whose VM it is.
trait Inside: Serialize {
    fn target(&self) -> (Option<TeamId>, &str);
}

macro_rules! inside {
    ($($input:ident),+ $(,)?) => {$(
        impl Inside for $input {
            fn target(&self) -> (Option<TeamId>, &str) {
                (self.team_id.clone(), &self.name)
            }
        }
    )+};
}

inside!(
    Run, Exec, ExecInput, ExecResize, ReadFile, WriteFile, Logs, FollowLogs
);

/// The VM that is meant, its host, and what the host is asked.
async fn prepared(
    fleet: &Fleet,
    call: &Call,
    input: &impl Inside,
) -> Result<(Vm, Host, Value), OrHost<VmError>> {
    let (team_id, name) = input.target();
    let mut db = fleet.store.read().await?;
    let (vm, host) = find(&mut db, call, team_id, name).await?;
    // The host may take its time; others need the connection meanwhile.
    drop(db);
    let broken = |error| OrHost::Own(VmError::from(internal(error)));
    let mut passed = serde_json::to_value(input).map_err(broken)?;
    if let Some(fields) = passed.as_object_mut() {
        fields.remove("team_id");
        fields.insert("name".to_owned(), json!(vm.id));
    }
    Ok((vm, host, passed))
}

/// Writes down that somebody went into a VM.
async fn noted(fleet: &Fleet, call: &Call, action: &str, vm: &Vm) -> Result<(), OrHost<VmError>> {
    let mut tx = fleet.store.begin().await?;
    audit::record(&mut tx, &Actor::of(call, clock::now()), action, &vm.id).await?;
    Ok(store::commit(tx).await?)
}

async fn pass_on<O: DeserializeOwned>(
    fleet: &Fleet,
    call: &Call,
    input: &impl Inside,
    action: Option<&str>,
    timeout: Duration,
) -> Asked<O> {
    let (vm, host, passed) = prepared(fleet, call, input).await?;
    if let Some(action) = action {
        noted(fleet, call, action, &vm).await?;
    }
    Ok(ask(fleet, call, (&vm, &host), passed, timeout).await?)
}

async fn follow<O: DeserializeOwned + Send + 'static>(
    fleet: &Fleet,
    call: &Call,
    input: &impl Inside,
    action: Option<&str>,
) -> Asked<Outputs<O, OrHost<VmError>>> {
    let (vm, host, passed) = prepared(fleet, call, input).await?;
    if let Some(action) = action {
        noted(fleet, call, action, &vm).await?;
    }
    let ask = Ask {
        operation: call.operation().as_str(),
        input: passed,
        request_id: call.request_id(),
        timeout: QUICK,
    };
    let named = move |failure: HostFailure| failure.naming(vm.id.as_str(), vm.name.as_str());
    let outputs = fleet.connector.subscribe(&host, ask).await;
    let outputs = outputs.map_err(&named)?;
    let outputs = outputs.map_err(move |failure| OrHost::Host(named(failure)));
    let typed = outputs.and_then(|output| {
        let typed = serde_json::from_value(output);
        std::future::ready(typed.map_err(|error| OrHost::Own(internal(error).into())))
    });
    Ok(typed.boxed())
}

/// Runs a command in a VM, as root, and answers when it has ended: how, and what it wrote. It is
/// killed with its process group when its time is up, or when the caller leaves.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Run {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// The program and its arguments; no shell is in between. A program without a slash is looked
    /// for in `PATH`.
    #[schemars(length(min = 1))]
    argv: Vec<String>,
    /// Variables for it, beside `PATH`, `HOME`, `USER` and `LOGNAME`.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The directory to run it in; absent: root's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    /// What it reads; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdin: Option<String>,
    /// What it reads, in base64, when that is no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stdin_base64: Option<String>,
    /// How long it may take, in seconds, 1 to 3600; 60 unless said.
    #[serde(default = "default_run_secs")]
    #[schemars(range(min = 1, max = 3600))]
    timeout_secs: u32,
    /// How much of each of its outputs is kept, in bytes, up to 524288, which it is unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 524288))]
    max_output_bytes: Option<u32>,
    /// How its outputs are told: as `text`, with U+FFFD for what is none, or as `base64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
}

fn default_run_secs() -> u32 {
    60
}

/// How bytes are told.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    /// As text; what is none is replaced.
    Text,
    /// As base64, whatever it is.
    Base64,
}

/// What came of a command.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Ran {
    /// The code that it exited with; 127 when there is no such program, 126 when it cannot be run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    /// The signal that ended it; absent when it exited by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signal: Option<u8>,
    /// Whether it was killed because its time was up.
    timed_out: bool,
    /// What it wrote to its standard output.
    stdout: String,
    /// What it wrote to its standard error.
    stderr: String,
    /// Whether it wrote more than this to one of them.
    truncated: bool,
}

async fn run(fleet: &Fleet, call: Call, input: Run) -> Asked<Ran> {
    let patience = Duration::from_secs(input.timeout_secs.into()) + BESIDE_THE_COMMAND;
    let ran = pass_on(fleet, &call, &input, Some("vm.run"), patience);
    tokio::select! {
        ran = ran => ran,
        // Leaving the host's door kills the command there.
        () = call.cancelled() => Err(OrHost::Own(VmError::Left)),
    }
}

/// Runs a command in a VM, as root, and tells what it writes while it runs. The first output names
/// its id, for `vms/exec-input` and `vms/exec-resize`; the last one says how it ended. Leaving the
/// stream kills the command with its process group.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Exec {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// The program and its arguments; no shell is in between. A program without a slash is looked
    /// for in `PATH`.
    #[schemars(length(min = 1))]
    argv: Vec<String>,
    /// Variables for it, beside `PATH`, `HOME`, `USER` and `LOGNAME`.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The directory to run it in; absent: root's home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    /// Whether `vms/exec-input` will give it something to read.
    #[serde(default)]
    stdin: bool,
    /// The terminal to run it on, whose output is all `stdout`; absent: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tty: Option<Terminal>,
}

/// A terminal.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Terminal {
    /// Its lines.
    rows: NonZeroU16,
    /// The characters in one of them.
    columns: NonZeroU16,
}

/// What a running command does.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Happened {
    /// It runs.
    Started {
        /// By which it is given input and another size.
        id: String,
    },
    /// It wrote to its standard output, or to its terminal.
    Stdout {
        /// What it wrote, in base64.
        data: String,
    },
    /// It wrote to its standard error.
    Stderr {
        /// What it wrote, in base64.
        data: String,
    },
    /// It ended.
    Exit {
        /// The code that it exited with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<u8>,
    },
}

async fn exec(fleet: &Fleet, call: Call, input: Exec) -> Asked<Outputs<Happened, OrHost<VmError>>> {
    follow(fleet, &call, &input, Some("vm.exec")).await
}

/// Gives a command of `vms/exec` something to read. Answers when the command is about to read it:
/// one that does not read makes its writers wait.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExecInput {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// The command's id, from its first output.
    id: String,
    /// What it is to read, in base64.
    #[serde(default)]
    data: String,
    /// Whether this is all there is to read; a terminal is sent the character for that, Ctrl-D.
    #[serde(default)]
    close: bool,
}

/// Nothing to tell.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Done {}

async fn exec_input(fleet: &Fleet, call: Call, input: ExecInput) -> Asked<Done> {
    pass_on(fleet, &call, &input, None, QUICK).await
}

/// Gives the terminal of a command of `vms/exec` another size.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExecResize {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// The command's id, from its first output.
    id: String,
    /// The terminal's lines.
    rows: NonZeroU16,
    /// The characters in one of them.
    columns: NonZeroU16,
}

async fn exec_resize(fleet: &Fleet, call: Call, input: ExecResize) -> Asked<Done> {
    pass_on(fleet, &call, &input, None, QUICK).await
}

/// Reads a regular file in a VM, or a piece of one.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReadFile {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// The file's path in the VM, absolute.
    path: String,
    /// From which byte on; 0 unless said.
    #[serde(default)]
    offset: u64,
    /// How many bytes, up to 524288, which it is unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 524288))]
    length: Option<u32>,
}

/// A piece of a file.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Piece {
    /// What is in it, in base64.
    data: String,
    /// The size of the whole file in bytes.
    size: u64,
    /// What may be done with the file, in octal digits, such as 644.
    mode: String,
    /// Whether the file ends with the piece.
    end: bool,
}

async fn read_file(fleet: &Fleet, call: Call, input: ReadFile) -> Asked<Piece> {
    // Once for each file, not for each of its pieces.
    let action = (input.offset == 0).then_some("vm.read-file");
    pass_on(fleet, &call, &input, action, QUICK).await
}

/// Writes a file in a VM. Without `offset` the data is the whole file, which appears in one step;
/// a symbolic link in its place is replaced. With `offset` alone it goes into the file as it is.
/// With `upload` pieces gather unseen, from offset 0 on, and take its place with the `last` one; when
/// none comes for ten minutes they are given up.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WriteFile {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// The file's path in the VM, absolute; its directory is there already.
    path: String,
    /// What is in it, in base64; at most 524288 bytes.
    data: String,
    /// What may be done with the file, in octal digits, such as 755; absent: as with the file that
    /// was there, 644 for a new one. It counts when the file appears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-7]{1,4}$"))]
    mode: Option<String>,
    /// From which byte on to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    /// Names the pieces that belong together: 1 to 40 lower-case letters and digits, which nobody
    /// else uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upload: Option<String>,
    /// Whether this is the last piece of an upload.
    #[serde(default)]
    last: bool,
}

async fn write_file(fleet: &Fleet, call: Call, input: WriteFile) -> Asked<Done> {
    // Once for each upload, not for each of its pieces.
    let begins = input.upload.is_none() || input.offset.unwrap_or(0) == 0;
    let action = begins.then_some("vm.write-file");
    let appears = input.last || (input.upload.is_none() && input.offset.is_none());
    let patience = if appears { FLUSHED } else { QUICK };
    pass_on(fleet, &call, &input, action, patience).await
}

/// Shows the last lines of a VM's console: what its kernel and its init wrote there.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Logs {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// How many lines, up to 10000; 100 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10000))]
    lines: Option<u32>,
}

/// Shows the last lines of a VM's console, and then what is written there, until the VM stops.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FollowLogs {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// How many of the lines that are there, up to 10000; 100 unless said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10000))]
    lines: Option<u32>,
}

/// What a console shows.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Shown {
    /// The text, with U+FFFD for what is none. The guest wrote it: it may hold what a terminal
    /// obeys.
    text: String,
    /// Whether there was more before it.
    truncated: bool,
}

async fn logs(fleet: &Fleet, call: Call, input: Logs) -> Asked<Shown> {
    pass_on(fleet, &call, &input, None, super::inspect::LOOK_TIMEOUT).await
}

async fn follow_logs(
    fleet: &Fleet,
    call: Call,
    input: FollowLogs,
) -> Asked<Outputs<Shown, OrHost<VmError>>> {
    follow(fleet, &call, &input, None).await
}
