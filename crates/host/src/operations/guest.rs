//! `vms/run`, `vms/exec` and what belongs to them: commands inside a VM.
//!
//! What a command reads and writes goes through here and nowhere else: not into the log, and not
//! into an error's text.

mod errors;
pub(super) mod files;
pub(super) mod logs;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use futures::stream::{StreamExt, TryStreamExt, once, try_unfold};
use hostler_operations::{Call, Method, Outputs, Service, StatusCode, mutation, subscription};
use hostler_vmm::{
    Command, CommandEnding, ExecEvent, ExecId, Execution, Finished, GuestProblem, RunCommand,
    TerminalSize, VmName,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::VMS_EXEC;
use crate::host::Host;
use errors::{GuestError, invalid};

/// The longest that `vms/run` waits for a command. The schema of [`Run`] says it too.
const MAX_RUN_SECS: u32 = 3600;

/// The most that `vms/run` keeps of each output, in bytes.
const MAX_OUTPUT: u32 = 512 * 1024;

/// Adds the operations on commands.
pub(super) fn operations(service: Service<Host>) -> Service<Host> {
    service
        .with(
            mutation("run", run)
                .requires(VMS_EXEC)
                .rest(Method::POST, "/v1/vms/{name}/run", StatusCode::OK)
                // The guest may be coming up first, and a command that is killed takes a moment.
                .timeout(Duration::from_secs(MAX_RUN_SECS as u64 + 90)),
        )
        .with(
            subscription("exec", exec)
                .requires(VMS_EXEC)
                .rest(Method::POST, "/v1/vms/{name}/exec", StatusCode::OK)
                .timeout(Duration::from_secs(60)),
        )
        .with(
            mutation("exec-input", exec_input)
                .requires(VMS_EXEC)
                .rest(
                    Method::POST,
                    "/v1/vms/{name}/exec/{id}/input",
                    StatusCode::OK,
                )
                .timeout(Duration::from_secs(60)),
        )
        .with(
            mutation("exec-resize", exec_resize)
                .requires(VMS_EXEC)
                .rest(
                    Method::POST,
                    "/v1/vms/{name}/exec/{id}/resize",
                    StatusCode::OK,
                ),
        )
}

/// Runs a command in a VM, as root, and answers when it has ended: how, and what it wrote. It is
/// killed with its process group when its time is up, or when the caller leaves.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Run {
    /// The VM's name.
    name: VmName,
    /// The program and its arguments; no shell is in between. A program without a slash is looked
    /// for in `PATH`.
    #[schemars(length(min = 1))]
    argv: Vec<String>,
    /// Variables for it, beside `PATH`, `HOME`, `USER` and `LOGNAME`.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The directory to run it in; absent: root's home.
    #[serde(default)]
    cwd: Option<String>,
    /// What it reads; absent: nothing.
    #[serde(default)]
    stdin: Option<String>,
    /// What it reads, in base64, when that is no text.
    #[serde(default)]
    stdin_base64: Option<String>,
    /// How long it may take, in seconds, 1 to 3600; 60 unless said.
    #[serde(default = "default_run_secs")]
    #[schemars(range(min = 1, max = 3600))]
    timeout_secs: u32,
    /// How much of each of its outputs is kept, in bytes, up to 524288, which it is unless said.
    #[serde(default = "default_max_output")]
    #[schemars(range(max = 524288))]
    max_output_bytes: u32,
    /// How its outputs are told: as `text`, with U+FFFD for what is none, or as `base64`.
    #[serde(default)]
    encoding: Encoding,
}

fn default_run_secs() -> u32 {
    60
}

fn default_max_output() -> u32 {
    MAX_OUTPUT
}

/// How bytes are told.
#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    /// As text; what is none is replaced.
    #[default]
    Text,
    /// As base64, whatever it is.
    Base64,
}

impl Encoding {
    fn tell(self, bytes: &[u8]) -> String {
        match self {
            Self::Text => String::from_utf8_lossy(bytes).into_owned(),
            Self::Base64 => BASE64_STANDARD.encode(bytes),
        }
    }
}

/// What came of a command.
#[derive(Serialize, JsonSchema)]
struct Ran {
    /// The code that it exited with; 127 when there is no such program, 126 when it cannot be run.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u8>,
    /// The signal that ended it; absent when it exited by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
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

async fn run(host: &Host, call: Call, input: Run) -> Result<Ran, GuestError> {
    let stdin = match (input.stdin, input.stdin_base64) {
        (None, None) => Vec::new(),
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => decoded("stdin_base64", &base64)?,
        (Some(_), Some(_)) => {
            return Err(invalid(
                "stdin",
                "stdin and stdin_base64 exclude each other",
            ));
        }
    };
    let run = RunCommand {
        command: Command {
            argv: input.argv,
            env: input.env,
            cwd: input.cwd,
            terminal: None,
        },
        stdin,
        timeout: Duration::from_secs(input.timeout_secs.clamp(1, MAX_RUN_SECS).into()),
        max_output_bytes: input.max_output_bytes.min(MAX_OUTPUT) as usize,
    };
    let finished = tokio::select! {
        finished = host.machines().run(input.name.as_str(), run) => finished?,
        // Nobody waits for it any more: leaving it here kills it.
        () = call.cancelled() => return Err(GuestError::Left),
    };
    Ok(told(&finished, input.encoding))
}

fn told(finished: &Finished, encoding: Encoding) -> Ran {
    let (exit_code, signal) = match finished.ending {
        Some(CommandEnding::Exited(code)) => (Some(code), None),
        Some(CommandEnding::Killed(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    Ran {
        exit_code,
        signal,
        timed_out: finished.timed_out,
        stdout: encoding.tell(&finished.stdout),
        stderr: encoding.tell(&finished.stderr),
        truncated: finished.truncated,
    }
}

/// Runs a command in a VM, as root, and tells what it writes while it runs. The first output names
/// its id, for `vms/exec-input` and `vms/exec-resize`; the last one says how it ended. Leaving the
/// stream kills the command with its process group.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Exec {
    /// The VM's name.
    name: VmName,
    /// The program and its arguments; no shell is in between. A program without a slash is looked
    /// for in `PATH`.
    #[schemars(length(min = 1))]
    argv: Vec<String>,
    /// Variables for it, beside `PATH`, `HOME`, `USER` and `LOGNAME`.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// The directory to run it in; absent: root's home.
    #[serde(default)]
    cwd: Option<String>,
    /// Whether `vms/exec-input` will give it something to read.
    #[serde(default)]
    stdin: bool,
    /// The terminal to run it on, whose output is all `stdout`; absent: it has none.
    #[serde(default)]
    tty: Option<Terminal>,
}

/// A terminal.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Terminal {
    /// Its lines.
    rows: NonZeroU16,
    /// The characters in one of them.
    columns: NonZeroU16,
}

impl From<Terminal> for TerminalSize {
    fn from(terminal: Terminal) -> Self {
        Self {
            rows: terminal.rows.get(),
            columns: terminal.columns.get(),
        }
    }
}

/// What a running command does.
#[derive(Serialize, JsonSchema)]
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
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
        /// The signal that ended it.
        #[serde(skip_serializing_if = "Option::is_none")]
        signal: Option<u8>,
    },
}

impl From<ExecEvent> for Happened {
    fn from(event: ExecEvent) -> Self {
        let told = |data: Vec<u8>| BASE64_STANDARD.encode(data);
        match event {
            ExecEvent::Stdout(data) => Self::Stdout { data: told(data) },
            ExecEvent::Stderr(data) => Self::Stderr { data: told(data) },
            ExecEvent::Exited(code) => Self::Exit {
                code: Some(code),
                signal: None,
            },
            ExecEvent::Killed(signal) => Self::Exit {
                code: None,
                signal: Some(signal),
            },
        }
    }
}

async fn exec(
    host: &Host,
    _: Call,
    input: Exec,
) -> Result<Outputs<Happened, GuestError>, GuestError> {
    let command = Command {
        argv: input.argv,
        env: input.env,
        cwd: input.cwd,
        terminal: input.tty.map(TerminalSize::from),
    };
    let (machines, name) = (host.machines(), input.name.as_str());
    let execution = machines.exec(name, command).await?;
    let id = execution.id();
    if !input.stdin && input.tty.is_none() {
        // Who has nothing to say says so, or a command that reads would wait for ever.
        match machines.exec_input(name, id, &[], true).await {
            Err(error) if !errors::has_ended(&error) => return Err(error.into()),
            _ => {}
        }
    }
    let started = Happened::Started { id: id.to_string() };
    let name = input.name;
    let happens = try_unfold(execution, |mut execution: Execution| async {
        let event = execution.next().await?;
        Ok::<_, GuestProblem>(event.map(|event| (Happened::from(event), execution)))
    });
    let happens = happens.map_err(move |problem| errors::of(&name, problem));
    Ok(once(async { Ok(started) }).chain(happens).boxed())
}

/// Gives a command of `vms/exec` something to read. Answers when the command is about to read it:
/// one that does not read makes its writers wait.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExecInput {
    /// The VM's name.
    name: VmName,
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
#[derive(Serialize, JsonSchema)]
struct Done {}

async fn exec_input(host: &Host, _: Call, input: ExecInput) -> Result<Done, GuestError> {
    let data = decoded("data", &input.data)?;
    let id = exec_id(&input.id)?;
    let told = host
        .machines()
        .exec_input(input.name.as_str(), id, &data, input.close);
    told.await?;
    Ok(Done {})
}

/// Gives the terminal of a command of `vms/exec` another size.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ExecResize {
    /// The VM's name.
    name: VmName,
    /// The command's id, from its first output.
    id: String,
    /// The terminal's lines.
    rows: NonZeroU16,
    /// The characters in one of them.
    columns: NonZeroU16,
}

async fn exec_resize(host: &Host, _: Call, input: ExecResize) -> Result<Done, GuestError> {
    let size = TerminalSize {
        rows: input.rows.get(),
        columns: input.columns.get(),
    };
    let id = exec_id(&input.id)?;
    let told = host.machines().exec_resize(input.name.as_str(), id, size);
    told.await?;
    Ok(Done {})
}

/// What is no id is the id of nothing.
fn exec_id(id: &str) -> Result<ExecId, GuestError> {
    id.parse().map_err(|_| errors::no_such_command())
}

fn decoded(field: &str, text: &str) -> Result<Vec<u8>, GuestError> {
    let decoded = BASE64_STANDARD.decode(text);
    decoded.map_err(|_| invalid(field, "it is not base64 (RFC 4648, with its padding)"))
}
