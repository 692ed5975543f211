//! One command: its process, what goes in and out, and its end.
//!
//! A thread waits for all of that at once. It reads output only as far as the host has room for
//! it, so a host that does not read makes the command wait, and nobody else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use rustix::termios::{Winsize, tcsetwinsize};

use super::Voice;
use super::commands::Mailbox;
use super::terminal;
use crate::launch;
use crate::protocol::{CHUNK, Exec, MIN_COST, Refusal, Refused, Reply, Size, cost};

/// How long after a command's end its terminal may still have output of it on the way.
const LAST_WORDS: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Input that was read is given back to the host in amounts of this size, or when all was read.
const RETURN_AT: u32 = 16 * 1024;

/// Runs a command until it has ended and the host has its output. Returns the last word.
pub(super) fn run(
    id: u64,
    exec: &Exec,
    mailbox: &Mailbox,
    voice: &Voice,
) -> Result<Reply, Refused> {
    let mut running = Running::begin(exec).map_err(|error| Refused {
        kind: Refusal::System,
        reason: format!("the command cannot be started: {error}"),
    })?;
    voice.say(id, Reply::Started);
    let served = running.serve(id, mailbox, voice);
    if let Err(error) = served {
        kill(&running.child);
        eprintln!("hostler-guest: a command was ended: {error}");
    }
    // Its terminal goes first: that tells whoever is still on it.
    drop((running.outputs, running.input));
    let status = running.child.wait().map_err(|error| Refused {
        kind: Refusal::System,
        reason: format!("the command's end was not seen: {error}"),
    })?;
    Ok(ending(status))
}

fn ending(status: ExitStatus) -> Reply {
    match status.signal() {
        Some(signal) => Reply::Killed {
            signal: signal.try_into().unwrap_or(u8::MAX),
        },
        None => Reply::Exited {
            code: status
                .code()
                .and_then(|code| code.try_into().ok())
                .unwrap_or(u8::MAX),
        },
    }
}

/// Which stream an output is.
type Stream = fn(Vec<u8>) -> Reply;

struct Running {
    child: Child,
    /// Readable once the process has ended.
    ended: OwnedFd,
    outputs: Vec<(OwnedFd, Stream)>,
    /// Where its input goes, until that has ended.
    input: Option<OwnedFd>,
    on_terminal: bool,
    /// How much of the first piece of input it has.
    taken: usize,
    /// Input that it has and that was not given back to the host yet.
    owed: u32,
}

/// What there is to do.
struct Ready {
    outputs: Vec<usize>,
    input: bool,
    ended: bool,
    nothing: bool,
}

impl Running {
    fn begin(exec: &Exec) -> io::Result<Self> {
        let mut command = launch::command(exec);
        let (child, outputs, input): (Child, Vec<(OwnedFd, Stream)>, OwnedFd) = match exec.tty {
            Some(size) => {
                let (ours, theirs) = terminal::open(size)?;
                let child = command
                    .stdin(theirs.try_clone()?)
                    .stdout(theirs.try_clone()?)
                    .stderr(theirs)
                    .spawn()?;
                let output = ours.try_clone()?;
                (child, vec![(output, Reply::Out)], ours)
            }
            None => {
                command.stdin(Stdio::piped());
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                let mut child = command.spawn()?;
                let missing = || io::Error::other("a pipe is missing");
                let stdin = child.stdin.take().ok_or_else(missing)?;
                let stdout = child.stdout.take().ok_or_else(missing)?;
                let stderr = child.stderr.take().ok_or_else(missing)?;
                let outputs: Vec<(OwnedFd, Stream)> =
                    vec![(stdout.into(), Reply::Out), (stderr.into(), Reply::Err)];
                (child, outputs, stdin.into())
            }
        };
        let watched = rustix::io::ioctl_fionbio(&input, true)
            .and_then(|()| pidfd_open(Pid::from_child(&child), PidfdFlags::empty()));
        let ended = match watched {
            Ok(ended) => ended,
            Err(error) => {
                // Nobody would notice its end.
                kill(&child);
                return Err(error.into());
            }
        };
        Ok(Self {
            child,
            ended,
            outputs,
            input: Some(input),
            on_terminal: exec.tty.is_some(),
            taken: 0,
            owed: 0,
        })
    }

    fn serve(&mut self, id: u64, mailbox: &Mailbox, voice: &Voice) -> io::Result<()> {
        let mut ended = false;
        loop {
            let (room, input) = {
                let mut mail = mailbox.open();
                if mail.killed {
                    kill(&self.child);
                    return Ok(());
                }
                if let Some(size) = mail.size.take() {
                    self.resize(size);
                }
                (mail.credit, !mail.input.is_empty() || mail.eof)
            };
            let speaks = room >= MIN_COST;
            if ended && self.outputs.is_empty() {
                return Ok(());
            }
            let ready = self.wait(mailbox, speaks, input && !ended, ended)?;
            if ready.nothing && ended && speaks {
                // Something else holds the other end of a pipe. What the command itself wrote is
                // through, because it wrote it before its end.
                return Ok(());
            }
            ended |= ready.ended;
            for at in ready.outputs.into_iter().rev() {
                self.pass_output(at, id, mailbox, voice)?;
            }
            if ready.input {
                self.pass_input(id, mailbox, voice)?;
            }
        }
    }

    fn wait(
        &self,
        mailbox: &Mailbox,
        speaks: bool,
        has_input: bool,
        ended: bool,
    ) -> io::Result<Ready> {
        let mut all = vec![PollFd::from_borrowed_fd(mailbox.wake(), PollFlags::IN)];
        if !ended {
            all.push(PollFd::new(&self.ended, PollFlags::IN));
        }
        let outputs_from = all.len();
        if speaks {
            let outputs = self.outputs.iter();
            all.extend(outputs.map(|(fd, _)| PollFd::new(fd, PollFlags::IN)));
        }
        let outputs_to = all.len();
        if has_input && let Some(input) = &self.input {
            all.push(PollFd::new(input, PollFlags::OUT));
        }
        let limit = (ended && speaks).then_some(&LAST_WORDS);
        match poll(&mut all, limit) {
            Err(rustix::io::Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = |at: usize| !all[at].revents().is_empty();
        Ok(Ready {
            outputs: (outputs_from..outputs_to)
                .filter(|at| happened(*at))
                .map(|at| at - outputs_from)
                .collect(),
            input: outputs_to < all.len() && happened(outputs_to),
            ended: !ended && happened(1),
            nothing: (0..all.len()).all(|at| !happened(at)),
        })
    }

    /// Tells the host what the command wrote. An output that has ended is let go.
    fn pass_output(
        &mut self,
        at: usize,
        id: u64,
        mailbox: &Mailbox,
        voice: &Voice,
    ) -> io::Result<()> {
        let room = mailbox.look().credit as usize;
        if room < MIN_COST as usize {
            return Ok(());
        }
        let (fd, stream) = &self.outputs[at];
        let mut data = vec![0; CHUNK.min(room)];
        match rustix::io::read(fd, &mut data) {
            // A terminal that nobody is on any more reads as an error.
            Ok(0) | Err(rustix::io::Errno::IO) => drop(self.outputs.remove(at)),
            Ok(length) => {
                data.truncate(length);
                mailbox.look().credit -= cost(length);
                voice.say(id, stream(data));
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Gives the command what it is to read, as much of it as it takes now.
    fn pass_input(&mut self, id: u64, mailbox: &Mailbox, voice: &Voice) -> io::Result<()> {
        let mut mail = mailbox.look();
        while let (Some(fd), Some(piece)) = (&self.input, mail.input.front()) {
            match rustix::io::write(fd, &piece[self.taken..]) {
                Ok(length) => self.taken += length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => break,
                // It does not read any more; that is its own affair.
                Err(rustix::io::Errno::PIPE | rustix::io::Errno::IO) => self.taken = piece.len(),
                Err(error) => return Err(error.into()),
            }
            if self.taken == piece.len() {
                self.owed += cost(piece.len());
                self.taken = 0;
                mail.input.pop_front();
            }
        }
        let all_read = mail.input.is_empty();
        if all_read && mail.eof {
            self.end_input();
        }
        let returned = if all_read || self.owed >= RETURN_AT {
            std::mem::take(&mut self.owed)
        } else {
            0
        };
        mail.returned(returned);
        drop(mail);
        if returned > 0 {
            voice.say(id, Reply::Credit(returned));
        }
        Ok(())
    }

    /// A pipe ends when it is closed. A terminal goes on: its reader is told by the character for
    /// it.
    fn end_input(&mut self) {
        const END_OF_TRANSMISSION: u8 = 4;
        if let Some(fd) = self.input.take()
            && self.on_terminal
        {
            let _ = rustix::io::write(&fd, &[END_OF_TRANSMISSION]);
        }
    }

    fn resize(&self, size: Size) {
        if self.on_terminal
            && let Some((fd, _)) = self.outputs.first()
        {
            let _ = tcsetwinsize(fd.as_fd(), winsize(size));
        }
    }
}

/// Kills a command's process group. It may not have one yet, if it has only just begun.
fn kill(child: &Child) {
    let pid = Pid::from_child(child);
    let _ = kill_process_group(pid, Signal::KILL);
    let _ = kill_process(pid, Signal::KILL);
}

pub(super) fn winsize(size: Size) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
