//! Terminals for commands: pseudoterminals of the root disk's own `/dev/pts`, where the programs of
//! the image find them by name.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::tcsetwinsize;

use super::command::winsize;
use crate::protocol::Size;

/// Relative to the working directory, which is the root disk: see `boot::spawn_agent`.
const MULTIPLEXER: &str = "dev/pts/ptmx";

/// Makes a terminal: our end of it, and the one for the program.
pub(super) fn open(size: Size) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ours = openat(CWD, MULTIPLEXER, flags, Mode::empty())?;
    unlockpt(&ours)?;
    tcsetwinsize(&ours, winsize(size))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    Ok((ours, theirs))
}
