//! A command from its beginning to its end, for scripts.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::errors::GuestProblem;
use super::execution::{ExecEvent, Execution};
use super::protocol::Exec;
use super::{ANSWER, Guest};

/// How long a command that was killed may take to be gone.
const AFTER_KILL: Duration = Duration::from_secs(10);

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// How it ended; absent when it was killed at its time-out and the guest did not say so.
    pub ending: Option<Ending>,
    /// Whether it was killed because its time was up.
    pub timed_out: bool,
    /// What it wrote to its standard output, the beginning of it.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error, the beginning of it.
    pub stderr: Vec<u8>,
    /// Whether it wrote more than is kept.
    pub truncated: bool,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Exited(u8),
    /// By this signal.
    Killed(u8),
}

impl Guest {
    /// Runs a command to its end. Dropping this kills it.
    pub(crate) async fn run(
        &self,
        exec: Exec,
        stdin: &[u8],
        patience: Duration,
        max_output_bytes: usize,
    ) -> Result<Finished, GuestProblem> {
        let mut execution = self.exec(exec).await?;
        let deadline = Instant::now() + patience;
        let mut finished = Finished {
            ending: None,
            timed_out: false,
            stdout: Vec::new(),
            stderr: Vec::new(),
            truncated: false,
        };
        let speaker = execution.speaker();
        let feed = async {
            // A command that ends without reading everything is an ordinary one.
            let fed = async {
                speaker.input(stdin, patience).await?;
                speaker.end_input(patience).await
            };
            let _: Result<(), GuestProblem> = fed.await;
            std::future::pending::<()>().await;
        };
        let listened = {
            let listen = finished.listen(&mut execution, max_output_bytes);
            let both = async {
                tokio::select! {
                    ended = listen => ended,
                    () = feed => Ok(()),
                }
            };
            timeout_at(deadline, both).await
        };
        match listened {
            Ok(ended) => ended?,
            Err(_) => {
                finished.timed_out = true;
                speaker.kill(ANSWER).await?;
                let listen = finished.listen(&mut execution, max_output_bytes);
                let _ = timeout_at(Instant::now() + AFTER_KILL, listen).await;
            }
        }
        Ok(finished)
    }
}

impl Finished {
    async fn listen(&mut self, to: &mut Execution, limit: usize) -> Result<(), GuestProblem> {
        while let Some(event) = to.next().await? {
            match event {
                ExecEvent::Stdout(data) => {
                    self.truncated |= !keep(&mut self.stdout, &data, limit);
                }
                ExecEvent::Stderr(data) => {
                    self.truncated |= !keep(&mut self.stderr, &data, limit);
                }
                ExecEvent::Exited(code) => self.ending = Some(Ending::Exited(code)),
                ExecEvent::Killed(signal) => self.ending = Some(Ending::Killed(signal)),
            }
        }
        Ok(())
    }
}

/// Keeps what there is room for; false when that is not all.
fn keep(kept: &mut Vec<u8>, data: &[u8], limit: usize) -> bool {
    let room = limit.saturating_sub(kept.len()).min(data.len());
    kept.extend_from_slice(&data[..room]);
    room == data.len()
}
