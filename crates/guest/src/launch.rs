//! From the agent to a command of the image.
//!
//! The agent lives beside the image and has its own session; a command lives in the image, leads a
//! session of its own, and owns its terminal. A process can change all that only for itself. So the
//! agent starts this program once more, which does, and then becomes the command. What it cannot
//! become it reports as a shell would: a line on the standard error, and 127 or 126.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{chroot, ioctl_tiocsctty, setsid};

use crate::LAUNCH;
use crate::error::{Context, Result};
use crate::protocol::Exec;

const ON_TERMINAL: &str = "terminal";
const ON_PIPES: &str = "pipes";

const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const HOME: &str = "/root";

/// The command line that runs a command; its pipes or terminal are the caller's affair.
pub(crate) fn command(exec: &Exec) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg(LAUNCH)
        .arg(if exec.tty.is_some() {
            ON_TERMINAL
        } else {
            ON_PIPES
        })
        .arg(OsStr::from_bytes(exec.cwd.as_deref().unwrap_or_default()))
        .args(exec.argv.iter().map(|argument| OsStr::from_bytes(argument)))
        .env_clear()
        .envs([
            ("PATH", PATH),
            ("HOME", HOME),
            ("USER", "root"),
            ("LOGNAME", "root"),
        ]);
    if exec.tty.is_some() {
        command.env("TERM", "xterm");
    }
    for variable in &exec.env {
        // The host has looked at them; one without a value is an empty one.
        let at = variable.iter().position(|byte| *byte == b'=');
        let (name, value) = variable.split_at(at.unwrap_or(variable.len()));
        let value = value.strip_prefix(b"=").unwrap_or_default();
        command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
    }
    command
}

/// Becomes a command; returns only when that failed, with what to exit with.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let on_terminal = arguments.next().is_some_and(|word| word == ON_TERMINAL);
    let directory = arguments.next().unwrap_or_default();
    let program = arguments.next().unwrap_or_default();
    if let Err(error) = enter_image(on_terminal, &directory) {
        eprintln!("{error}");
        return NOT_EXECUTABLE.into();
    }
    let failed = Command::new(&program).args(arguments).exec();
    let program = String::from_utf8_lossy(&program.into_vec()).into_owned();
    let (code, reason) = match failed.kind() {
        io::ErrorKind::NotFound => (NOT_FOUND, "not found".to_owned()),
        _ => (NOT_EXECUTABLE, failed.to_string()),
    };
    eprintln!("cannot run {program}: {reason}");
    code.into()
}

fn enter_image(on_terminal: bool, directory: &OsStr) -> Result<()> {
    // The agent is spared when memory runs out; a command is not.
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    setsid().context(|| "lead a session".to_owned())?;
    if on_terminal {
        ioctl_tiocsctty(io::stdin()).context(|| "own the terminal".to_owned())?;
    }
    // The working directory is the root disk: see `boot::spawn_agent`.
    chroot(".").context(|| "enter the image".to_owned())?;
    if directory.is_empty() {
        return std::env::set_current_dir(HOME)
            .or_else(|_| std::env::set_current_dir("/"))
            .context(|| "enter /".to_owned());
    }
    let tried = || format!("enter {}", directory.to_string_lossy());
    std::env::set_current_dir("/").context(tried)?;
    std::env::set_current_dir(directory).context(tried)
}
