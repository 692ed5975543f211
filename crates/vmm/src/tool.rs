//! Programs of the system that do a piece of work for us: run, waited for, and listened to.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::blocking;

/// How long a program may take unless it is said. The longest work, fetching packages over a slow
/// line, takes minutes.
const LIMIT: Duration = Duration::from_secs(1800);

/// A program of the system did not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// It could not be run.
    #[error("cannot run {program}: {source}; {}", install(program))]
    Missing { program: String, source: io::Error },
    /// It failed.
    #[error("{program} failed ({status}): {message}")]
    Failed {
        program: String,
        status: ExitStatus,
        message: String,
    },
    /// It did not end.
    #[error(
        "{program} did not end within {} s; try again, and look at the host's load and network",
        limit.as_secs()
    )]
    Slow { program: String, limit: Duration },
}

fn install(program: &str) -> String {
    let package = match program {
        "mke2fs" | "resize2fs" | "debugfs" => "e2fsprogs",
        "dpkg-deb" => "dpkg",
        "ip" => "iproute2",
        "nft" => "nftables",
        "apt-get" | "apt-cache" => {
            return "the default image is made from Debian's packages: use a Debian host, or \
                    import an image and a kernel"
                .to_owned();
        }
        other => other,
    };
    format!("install it (Debian: apt-get install {package})")
}

/// Where programs are found: the file system's tools are in directories that an ordinary user's
/// PATH may lack.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

/// Runs a program that takes milliseconds where nothing can be waited for: at the end of
/// everything.
pub(crate) fn at_once(program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    }
    match child.wait()? {
        status if status.success() => Ok(()),
        status => Err(io::Error::other(format!("{program} failed ({status})"))),
    }
}

/// Resolves the name of a program as a shell would.
pub(crate) fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// A program that runs a guest, or could. It gets nothing of our environment, in which there may
/// be tokens: who breaks out of a guest finds them nowhere in its memory.
pub(crate) fn secluded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", path()).stdin(Stdio::null());
    command
}

/// A program that is about to run.
pub(crate) struct Tool {
    program: String,
    command: Command,
    input: Vec<u8>,
    behind: bool,
    limit: Duration,
}

impl Tool {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(&program);
        let program = program.as_ref().to_string_lossy().into_owned();
        // Our own settings hold tokens. The rest stays: apt may need to know of a proxy.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"HOSTLER_") {
                command.env_remove(name);
            }
        }
        // The tools' messages are shown to people and partly read: one language for all.
        command
            .env("LC_ALL", "C.UTF-8")
            .env("PATH", path())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        Self {
            program,
            command,
            input: Vec::new(),
            behind: false,
            limit: LIMIT,
        }
    }

    /// How long it may take: for what others wait for.
    pub(crate) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Lets everybody else go first: for long computations that nobody waits for at a prompt.
    pub(crate) fn behind(mut self) -> Self {
        self.behind = true;
        self
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments);
        self
    }

    /// What the program reads from its standard input; nothing unless this is called.
    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self.command.stdin(Stdio::piped());
        self
    }

    pub(crate) fn current_dir(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Runs the program to its end; returns what it printed.
    pub(crate) async fn run(mut self) -> Result<String, ToolError> {
        let name = self.program.clone();
        let program = || name.clone();
        let limit = self.limit;
        let output = tokio::time::timeout(limit, listen(&mut self))
            .await
            .map_err(|_| ToolError::Slow {
                program: program(),
                limit,
            })?
            .map_err(|source| ToolError::Missing {
                program: program(),
                source,
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let message = last_lines(&String::from_utf8_lossy(&output.stderr));
        Err(ToolError::Failed {
            program: program(),
            status: output.status,
            message,
        })
    }
}

/// Runs a program, tells it its input and hears it out.
async fn listen(tool: &mut Tool) -> io::Result<Output> {
    let mut child = tool
        .command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if tool.behind {
        blocking::step_back(child.id());
    }
    let input = &tool.input;
    let stdin = child.stdin.take();
    let tell = async {
        if let Some(mut stdin) = stdin {
            // One that ends without having read everything says why by itself.
            let _ = stdin.write_all(input).await;
        }
    };
    let ((), output) = tokio::join!(tell, child.wait_with_output());
    output
}

/// The end of what a program complained about, on one line.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_carries_the_programs_last_words() {
        let error = Tool::new("ls")
            .arg("/nowhere at all")
            .run()
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("ls failed (exit status: 2): "), "{error}");
        assert!(error.contains("/nowhere at all"), "{error}");
    }

    #[tokio::test]
    async fn a_program_reads_its_input_to_the_end() {
        let long = "line\n".repeat(100_000);
        let said = Tool::new("cat").input(long.clone()).run().await.unwrap();
        assert_eq!(said.len(), long.len());
        // And one that does not want it is not waited for.
        Tool::new("true").input(long).run().await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_takes_too_long_is_ended() {
        let begun = std::time::Instant::now();
        let tool = Tool::new("sleep").arg("600");
        let error = tool.within(Duration::from_millis(50)).run().await;
        assert!(matches!(error, Err(ToolError::Slow { .. })), "{error:?}");
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[tokio::test]
    async fn a_missing_program_is_reported_with_the_package_that_has_it() {
        let error = Tool::new("a-tool-that-is-not-there")
            .run()
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("apt-get install a-tool-that-is-not-there"),
            "{error}"
        );
    }
}
