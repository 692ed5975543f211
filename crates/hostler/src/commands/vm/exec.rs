//! `hostler vm exec` and `hostler vm shell`: a command in a VM, as if it ran here.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use clap::Args;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::terminal::{self, Raw};
use crate::client::{Api, Connect, Events, LONG_PATIENCE};
use crate::failure::{Doing, Failure};

/// The most that is read here before it is sent, in bytes.
const CHUNK: usize = 64 * 1024;

/// How long after a failed input the command's end may be on its way.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// What gives the terminal to the best shell there is.
const SHELL: &str = "if command -v bash >/dev/null 2>&1; then exec bash -l; else exec sh -l; fi";

#[derive(Args)]
pub(crate) struct Exec {
    /// The VM's name
    name: String,
    /// Give the command what comes in on the standard input
    #[arg(long, short = 'i')]
    interactive: bool,
    /// Run it on a terminal
    #[arg(long, short = 't')]
    tty: bool,
    /// A variable for it; may be given again
    #[arg(long, short = 'e', value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// The directory to run it in [default: root's home]
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    #[command(flatten)]
    connect: Connect,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

#[derive(Args)]
pub(crate) struct Shell {
    /// The VM's name
    name: String,
    #[command(flatten)]
    connect: Connect,
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not NAME=VALUE")),
    }
}

pub(crate) async fn shell(shell: Shell) -> Result<ExitCode, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            "a shell needs a terminal; for a script use `hostler vm exec -i NAME -- sh`",
        ));
    }
    let exec = Exec {
        name: shell.name,
        interactive: true,
        tty: true,
        env: Vec::new(),
        cwd: None,
        connect: shell.connect,
        command: ["/bin/sh", "-c", SHELL].map(str::to_owned).to_vec(),
    };
    self::exec(exec).await
}

pub(crate) async fn exec(exec: Exec) -> Result<ExitCode, Failure> {
    let api = exec.connect.open()?;
    let mut body = json!({
        "argv": exec.command,
        "stdin": exec.interactive,
        "env": exec.env.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    });
    if let Some(cwd) = &exec.cwd {
        body["cwd"] = json!(cwd);
    }
    if exec.tty {
        let (rows, columns) = terminal::size();
        body["tty"] = json!({ "rows": rows, "columns": columns });
        if let Ok(term) = std::env::var("TERM")
            && body["env"].get("TERM").is_none()
        {
            body["env"]["TERM"] = json!(term);
        }
    }
    let path = ["v1", "vms", &exec.name, "exec"];
    let begun = api.post(&path).body(body).patience(LONG_PATIENCE);
    let mut events = begun.stream().await?;
    let id = match events.next().await? {
        Some(started) => started["id"].as_str().unwrap_or_default().to_owned(),
        None => return Err(ended_early()),
    };
    // From here on the terminal is the command's, until this is dropped.
    let _raw = match exec.tty && exec.interactive {
        true => Raw::enter().doing(|| "cannot prepare the terminal")?,
        false => None,
    };
    let session = Session {
        api: &api,
        name: &exec.name,
        id: &id,
    };
    session.run(events, exec.interactive, exec.tty).await
}

/// A command that runs.
struct Session<'a> {
    api: &'a Api,
    name: &'a str,
    id: &'a str,
}

impl Session<'_> {
    async fn run(&self, events: Events, interactive: bool, tty: bool) -> Result<ExitCode, Failure> {
        let mut hangup = signal(SignalKind::hangup()).doing(|| "cannot listen for SIGHUP")?;
        let mut terminate =
            signal(SignalKind::terminate()).doing(|| "cannot listen for SIGTERM")?;
        let mut outputs = std::pin::pin!(outputs(events));
        let input = async {
            if interactive {
                self.pass_input().await?;
            }
            std::future::pending::<Result<(), Failure>>().await
        };
        let sizes = async {
            if tty {
                self.follow_size().await?;
            }
            std::future::pending::<Result<(), Failure>>().await
        };
        let failed = tokio::select! {
            code = &mut outputs => return code,
            failed = input => failed,
            failed = sizes => failed,
            _ = hangup.recv() => return Ok(ExitCode::from(128 + 1)),
            _ = terminate.recv() => return Ok(ExitCode::from(128 + 15)),
        };
        // A command may end while it is being given something; then its end says more.
        match tokio::time::timeout(LAST_WORDS, outputs).await {
            Ok(code) => code,
            Err(_) => Err(failed.err().unwrap_or_else(ended_early)),
        }
    }

    /// Gives the command what is read here, until it ends.
    async fn pass_input(&self) -> Result<(), Failure> {
        let mut pieces = read_stdin();
        while let Some(piece) = pieces.recv().await {
            let piece = piece.doing(|| "cannot read the standard input")?;
            let data = BASE64_STANDARD.encode(&piece);
            self.tell("input", json!({ "data": data })).await?;
        }
        self.tell("input", json!({ "close": true })).await
    }

    async fn follow_size(&self) -> Result<(), Failure> {
        let mut changed =
            signal(SignalKind::window_change()).doing(|| "cannot listen for SIGWINCH")?;
        while changed.recv().await.is_some() {
            let (rows, columns) = terminal::size();
            let size = json!({ "rows": rows, "columns": columns });
            self.tell("resize", size).await?;
        }
        Ok(())
    }

    async fn tell(&self, what: &str, body: Value) -> Result<(), Failure> {
        let path = ["v1", "vms", self.name, "exec", self.id, what];
        let told = self.api.post(&path).body(body).patience(LONG_PATIENCE);
        told.send().await.map(drop)
    }
}

/// Reads on a thread of its own, which may wait for ever and ends with the process.
fn read_stdin() -> mpsc::Receiver<std::io::Result<Vec<u8>>> {
    let (sender, pieces) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut chunk = vec![0; CHUNK];
        loop {
            let piece = match stdin.read(&mut chunk) {
                Ok(0) => return,
                Ok(length) => Ok(chunk[..length].to_vec()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if sender.blocking_send(piece).is_err() || failed {
                return;
            }
        }
    });
    pieces
}

/// Writes what the command writes, until it has ended.
async fn outputs(mut events: Events) -> Result<ExitCode, Failure> {
    while let Some(event) = events.next().await? {
        let data = || {
            let data = event["data"].as_str().unwrap_or_default();
            let data = BASE64_STANDARD.decode(data);
            data.doing(|| "the server sent an output that is none")
        };
        let written = match event["type"].as_str() {
            Some("stdout") => write(&mut std::io::stdout(), &data()?),
            Some("stderr") => write(&mut std::io::stderr(), &data()?),
            Some("exit") => return Ok(exit_code(&event)),
            _ => Ok(()),
        };
        match written {
            // A reader that went away (`| head`) ends the command, as it would end one here.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::from(128 + 13));
            }
            written => written.doing(|| "cannot write what the command wrote")?,
        }
    }
    Err(ended_early())
}

fn write(to: &mut impl Write, data: &[u8]) -> std::io::Result<()> {
    to.write_all(data).and_then(|()| to.flush())
}

/// As a shell has it: the command's own, or 128 and the signal that ended it.
fn exit_code(event: &Value) -> ExitCode {
    let number = |field: &str| event[field].as_u64().and_then(|n| u8::try_from(n).ok());
    let code = number("code").or_else(|| Some(number("signal")?.saturating_add(128)));
    ExitCode::from(code.unwrap_or(1))
}

fn ended_early() -> Failure {
    Failure::new("the connection ended before the command did; the command was killed")
}
