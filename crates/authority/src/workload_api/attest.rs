//! Who is calling: what the kernel knows of the process on the other end of a socket.
//!
//! `SO_PEERCRED` gives user, group and process ID as they were when the process connected. A
//! process ID alone says little later on, because it is given to another process as soon as its
//! owner is gone. So the process's directory in `/proc` is opened once, when the connection is
//! accepted, and everything is read through that handle: the kernel ties it to the process itself,
//! and answers "no such process" once it is gone, whoever has its number by then.
//!
//! What remains is the moment between connecting and being accepted. A process that dies in it
//! and whose number is given away at once would be taken for its successor; user and group would
//! still be its own.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use aws_lc_rs::digest::{Context, SHA256};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use tokio::net::UnixStream;

use super::entries::Selector;

/// A process that has connected.
#[derive(Debug)]
pub(super) struct Peer {
    uid: u32,
    gid: u32,
    pid: i32,
    /// Its directory in `/proc`.
    process: OwnedFd,
}

/// What is known of a process at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    uid: u32,
    gid: u32,
    pid: i32,
    /// Its program, if the path means the same file to us.
    path: Option<PathBuf>,
    /// Of its program; looked at only where an entry asks for it.
    digest: Option<[u8; 32]>,
}

/// Why a caller cannot be told from any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AttestError {
    #[error("the kernel does not say who opened the connection ({0})")]
    NoCredentials(io::ErrorKind),
    #[error("the calling process is not visible here: it runs in another PID namespace")]
    OtherNamespace,
    #[error("the process that opened the connection has ended; connect from the one that asks")]
    Gone,
    #[error("the calling process cannot be looked at in /proc ({0})")]
    Proc(Errno),
    #[error("the caller's program cannot be read ({0})")]
    Program(io::ErrorKind),
}

impl Peer {
    /// Whoever opened this connection.
    pub(super) fn of(stream: &UnixStream) -> Result<Self, AttestError> {
        let credentials = stream
            .peer_cred()
            .map_err(|error| AttestError::NoCredentials(error.kind()))?;
        match credentials.pid() {
            Some(pid) if pid > 0 => Self::new(credentials.uid(), credentials.gid(), pid),
            _ => Err(AttestError::OtherNamespace),
        }
    }

    fn new(uid: u32, gid: u32, pid: i32) -> Result<Self, AttestError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let process = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty())
            .map_err(gone_or(AttestError::Proc))?;
        Ok(Self {
            uid,
            gid,
            pid,
            process,
        })
    }

    /// Looks at the process as it is now; all but the digest of its program.
    pub(super) fn attest(&self) -> Result<Caller, AttestError> {
        let path = self.path();
        self.must_be_alive()?;
        Ok(Caller {
            uid: self.uid,
            gid: self.gid,
            pid: self.pid,
            path,
            digest: None,
        })
    }

    /// The SHA-256 of the program that it runs: of the very file, even if another one has taken
    /// its path since.
    pub(super) fn digest(&self) -> Result<[u8; 32], AttestError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let program = rustix::fs::openat(&self.process, "exe", flags, Mode::empty())
            .map_err(gone_or(AttestError::Proc))?;
        let mut program = File::from(program);
        let (mut context, mut buffer) = (Context::new(&SHA256), vec![0; 64 * 1024]);
        loop {
            match program.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => context.update(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(AttestError::Program(error.kind())),
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        self.must_be_alive()?;
        Ok(digest)
    }

    /// The path of its program, if we may see it, and if it is the same file for us as for the
    /// process: in a mount namespace of its own, a process can have any file at any path.
    fn path(&self) -> Option<PathBuf> {
        let link = rustix::fs::readlinkat(&self.process, "exe", Vec::new()).ok()?;
        let path = PathBuf::from(std::ffi::OsString::from_vec(link.into_bytes()));
        let its = rustix::fs::statat(&self.process, "exe", AtFlags::empty()).ok()?;
        let ours = fs::metadata(&path).ok()?;
        (its.st_dev == ours.dev() && its.st_ino == ours.ino()).then_some(path)
    }

    fn must_be_alive(&self) -> Result<(), AttestError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let stat = rustix::fs::openat(&self.process, "stat", flags, Mode::empty())
            .map_err(gone_or(AttestError::Proc))?;
        let mut text = Vec::new();
        match File::from(stat).read_to_end(&mut text) {
            Ok(_) if !has_ended(&text) => Ok(()),
            _ => Err(AttestError::Gone),
        }
    }
}

/// Whether a process is only waiting for its parent to take notice (proc_pid_stat(5): the state
/// follows the name, which stands in parentheses and may contain any byte).
fn has_ended(stat: &[u8]) -> bool {
    let name_ends = stat.iter().rposition(|byte| *byte == b')');
    let state = name_ends.and_then(|position| stat.get(position + 2));
    matches!(state, None | Some(b'Z' | b'X'))
}

fn gone_or(other: fn(Errno) -> AttestError) -> impl Fn(Errno) -> AttestError {
    move |error| match error {
        Errno::NOENT | Errno::SRCH => AttestError::Gone,
        error => other(error),
    }
}

impl Caller {
    pub(super) fn with_digest(mut self, digest: [u8; 32]) -> Self {
        self.digest = Some(digest);
        self
    }

    pub(super) fn has(&self, selector: &Selector) -> bool {
        match selector {
            Selector::Uid(uid) => self.uid == *uid,
            Selector::Gid(gid) => self.gid == *gid,
            Selector::Pid(pid) => self.pid == *pid,
            Selector::Path(path) => self.path.as_ref() == Some(path),
            Selector::Sha256(digest) => self.digest.as_ref() == Some(digest),
        }
    }
}

/// As selectors, ready to be put into an entry.
impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {}",
            Selector::Uid(self.uid),
            Selector::Gid(self.gid)
        )?;
        write!(f, ", {}", Selector::Pid(self.pid))?;
        if let Some(path) = &self.path {
            write!(f, ", {}", Selector::Path(path.clone()))?;
        }
        if let Some(digest) = self.digest {
            write!(f, ", {}", Selector::Sha256(digest))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that waits until it is told to end, by the end of its input.
    struct Waiting(Child);

    impl Waiting {
        fn new() -> Self {
            let child = Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn();
            Self(child.unwrap())
        }

        fn peer(&self) -> Peer {
            Peer::new(0, 0, i32::try_from(self.0.id()).unwrap()).unwrap()
        }
    }

    impl Drop for Waiting {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn program(path: &str) -> [u8; 32] {
        let mut digest = [0; 32];
        let bytes = fs::read(path).unwrap();
        digest.copy_from_slice(aws_lc_rs::digest::digest(&SHA256, &bytes).as_ref());
        digest
    }

    #[test]
    fn a_process_is_known_by_its_program() {
        let peer = Peer::new(7, 8, i32::try_from(std::process::id()).unwrap()).unwrap();
        let caller = peer.attest().unwrap();
        let exe = std::env::current_exe().unwrap();
        assert!(caller.has(&Selector::Path(exe.clone())));
        assert!(caller.has(&Selector::Uid(7)) && caller.has(&Selector::Gid(8)));
        let digest = program(exe.to_str().unwrap());
        assert!(!caller.has(&Selector::Sha256(digest)), "nobody looked");
        let caller = caller.with_digest(peer.digest().unwrap());
        assert!(caller.has(&Selector::Sha256(digest)));
        assert!(!caller.has(&Selector::Sha256([0; 32])));
        assert!(caller.to_string().contains("unix:uid:7, unix:gid:8"));
    }

    #[test]
    fn a_process_that_has_ended_is_nobody_even_before_its_parent_has_noticed() {
        let mut waiting = Waiting::new();
        let peer = waiting.peer();
        assert!(peer.attest().is_ok());
        drop(waiting.0.stdin.take());
        // It ends by itself and stays a zombie until it is waited for.
        let ended = std::iter::repeat_with(|| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            peer.attest()
        });
        let ended = ended.take(6000).find(Result::is_err);
        assert_eq!(ended, Some(Err(AttestError::Gone)));
        waiting.0.wait().unwrap();
        assert_eq!(peer.attest(), Err(AttestError::Gone), "nor afterwards");
        assert_eq!(peer.digest(), Err(AttestError::Gone));
    }

    #[test]
    fn another_process_of_the_same_number_is_not_the_one_that_connected() {
        // A number cannot be had at will, so two handles stand for one number given twice: what
        // the first one answers depends on its process alone.
        let (first, second) = (Waiting::new(), Waiting::new());
        let mut stale = first.peer();
        drop(first);
        stale.pid = i32::try_from(second.0.id()).unwrap();
        assert_eq!(stale.attest(), Err(AttestError::Gone));
        assert!(second.peer().attest().is_ok());
    }

    #[test]
    fn a_program_that_was_replaced_is_not_the_file_at_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        fs::copy("/bin/cat", &path).unwrap();
        let child = Command::new(&path).stdin(Stdio::piped()).spawn().unwrap();
        let waiting = Waiting(child);
        let peer = waiting.peer();
        assert!(peer.attest().unwrap().has(&Selector::Path(path.clone())));
        fs::copy("/bin/true", dir.path().join("new")).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert!(!peer.attest().unwrap().has(&Selector::Path(path)));
        assert_eq!(
            peer.digest().unwrap(),
            program("/bin/cat"),
            "of what it runs"
        );
    }

    #[test]
    fn a_process_whose_name_looks_like_a_state_is_read_rightly() {
        assert!(!has_ended(b"12 (a) Z (b) S 1 12"));
        assert!(has_ended(b"12 (a) S (b) Z 1 12"));
        assert!(has_ended(b""));
    }
}
