//! The commands that run, by their numbers, and what the host has for each of them.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};

use super::{Voice, command};
use crate::protocol::{Exec, MAX_COMMANDS, Refusal, Reply, Size, WINDOW, cost};

/// Files that are worked on at one time.
const MAX_ASIDE: usize = 16;

/// Threads here do little more than wait.
const STACK: usize = 128 * 1024;

#[derive(Clone)]
pub(super) struct Commands {
    voice: Voice,
    running: Arc<Mutex<HashMap<u64, Arc<Mailbox>>>>,
    aside: Arc<AtomicUsize>,
}

impl Commands {
    pub(super) fn new(voice: Voice) -> Self {
        Self {
            voice,
            running: Arc::default(),
            aside: Arc::default(),
        }
    }

    /// Runs a command on a thread of its own.
    pub(super) fn begin(&self, id: u64, exec: Exec) {
        let mailbox = match self.enter(id) {
            Ok(mailbox) => mailbox,
            Err(reason) => return self.voice.refuse(id, Refusal::Busy, reason),
        };
        let all = self.clone();
        let spawned = thread::Builder::new().stack_size(STACK).spawn(move || {
            let last = match command::run(id, &exec, &mailbox, &all.voice) {
                Ok(ending) => ending,
                Err(refused) => Reply::Refused(refused),
            };
            // Nobody is told of an end before there is room for the next.
            all.running().remove(&id);
            all.voice.say(id, last);
        });
        if let Err(error) = spawned {
            self.running().remove(&id);
            let reason = format!("there is no thread for it: {error}");
            self.voice.refuse(id, Refusal::System, reason);
        }
    }

    fn enter(&self, id: u64) -> Result<Arc<Mailbox>, String> {
        let mut running = self.running();
        if running.len() >= MAX_COMMANDS {
            return Err(format!("{MAX_COMMANDS} commands run already"));
        }
        if running.contains_key(&id) {
            return Err(format!("number {id} is in use"));
        }
        let mailbox = Mailbox::new().map_err(|error| error.to_string())?;
        let mailbox = Arc::new(mailbox);
        running.insert(id, Arc::clone(&mailbox));
        Ok(mailbox)
    }

    /// Tells a command something; one that has ended does not hear it.
    pub(super) fn tell(&self, id: u64, what: impl FnOnce(&mut Mail)) {
        let mailbox = self.running().get(&id).cloned();
        if let Some(mailbox) = mailbox {
            mailbox.put(what);
        }
    }

    /// Ends every command.
    pub(super) fn end_all(&self) {
        for mailbox in self.running().values() {
            mailbox.put(Mail::kill);
        }
    }

    /// Does something that is answered once, on a thread of its own.
    pub(super) fn aside(&self, id: u64, work: impl FnOnce() -> Reply + Send + 'static) {
        if self.aside.fetch_add(1, Ordering::Relaxed) >= MAX_ASIDE {
            self.aside.fetch_sub(1, Ordering::Relaxed);
            let reason = format!("{MAX_ASIDE} files are being worked on already");
            return self.voice.refuse(id, Refusal::Busy, reason);
        }
        let (voice, aside) = (self.voice.clone(), Arc::clone(&self.aside));
        let spawned = thread::Builder::new().stack_size(STACK).spawn(move || {
            let reply = work();
            aside.fetch_sub(1, Ordering::Relaxed);
            voice.say(id, reply);
        });
        if let Err(error) = spawned {
            self.aside.fetch_sub(1, Ordering::Relaxed);
            let reason = format!("there is no thread for it: {error}");
            self.voice.refuse(id, Refusal::System, reason);
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Arc<Mailbox>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the host's words for a command wait for it.
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    /// Readable when there is something new.
    wake: OwnedFd,
}

/// What the host has said since the command last looked.
#[derive(Default)]
pub(super) struct Mail {
    /// What the command is to read.
    pub(super) input: VecDeque<Vec<u8>>,
    /// What all input cost that was not given back yet.
    unreturned: u32,
    pub(super) eof: bool,
    /// How much more output may be sent.
    pub(super) credit: u32,
    pub(super) size: Option<Size>,
    pub(super) killed: bool,
}

impl Mailbox {
    fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let mail = Mail {
            credit: WINDOW,
            ..Mail::default()
        };
        Ok(Self {
            mail: Mutex::new(mail),
            wake,
        })
    }

    fn put(&self, what: impl FnOnce(&mut Mail)) {
        what(&mut self.look());
        // It only fails when it has been woken up 2^64 times without looking.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// What there is; from now on only news wake.
    pub(super) fn open(&self) -> MutexGuard<'_, Mail> {
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        self.look()
    }

    pub(super) fn look(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Mail {
    pub(super) fn input(&mut self, data: Vec<u8>) {
        self.unreturned = self.unreturned.saturating_add(cost(data.len()));
        // A host that sends more than it may would fill the guest's memory.
        if self.unreturned > WINDOW {
            self.kill();
        } else if !self.eof {
            self.input.push_back(data);
        }
    }

    pub(super) fn end_of_input(&mut self) {
        self.eof = true;
    }

    pub(super) fn credit(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes).min(WINDOW);
    }

    pub(super) fn resize(&mut self, size: Size) {
        self.size = Some(size);
    }

    pub(super) fn kill(&mut self) {
        self.killed = true;
        self.input.clear();
    }

    /// Notes that so much input is given back to the host.
    pub(super) fn returned(&mut self, bytes: u32) {
        self.unreturned = self.unreturned.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_sends_more_than_it_may_loses_the_command() {
        let mut mail = Mail::default();
        for _ in 0..WINDOW / cost(1) {
            mail.input(vec![0]);
        }
        assert!(!mail.killed);
        mail.returned(cost(1));
        mail.input(vec![0]);
        assert!(!mail.killed);
        mail.input(vec![0]);
        assert!(mail.killed && mail.input.is_empty());
    }

    #[test]
    fn credit_never_exceeds_the_window() {
        let mut mail = Mail::default();
        mail.credit(u32::MAX);
        mail.credit(u32::MAX);
        assert_eq!(mail.credit, WINDOW);
    }
}
