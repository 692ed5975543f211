//! Directories that a guest shares: each is served by a virtiofsd, which QEMU meets at a socket.
//!
//! The program gets the directory as an open descriptor and makes it its root before it says a
//! word to the guest: it knows no path, and there is nothing else that it could reach. It runs in a
//! session of its own and without a network; it ends when QEMU does, whoever ends that.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Child;

use crate::driver::LaunchError;
use crate::files::Context as _;
use crate::mounts::{self, Shared};
use crate::process::Birth;
use crate::tool;

/// Where distributions put it: it is not for a terminal, so not in any PATH.
const PLACES: &[&str] = &["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"];

/// The program that serves directories here; none when there is none, or this user may not have
/// it change its root.
pub(super) fn program() -> Option<PathBuf> {
    let found = PLACES.iter().map(Path::new).find(|path| path.is_file());
    found
        .filter(|_| rustix::process::geteuid().is_root())
        .map(Path::to_owned)
}

/// Programs that wait for their QEMU. They are ended unless they are let go.
#[derive(Default)]
pub(super) struct Servers {
    waiting: Vec<(Child, PathBuf)>,
}

impl Servers {
    /// Starts a program for each directory. `workplace` is a directory that nobody else uses.
    pub(super) fn start(shares: &[Shared], workplace: &Path) -> Result<Self, LaunchError> {
        let mut servers = Self::default();
        if shares.is_empty() {
            return Ok(servers);
        }
        let program = program().ok_or_else(|| LaunchError::Spawn {
            program: PLACES[0].into(),
            source: io::ErrorKind::NotFound.into(),
        })?;
        for share in shares {
            let _ = fs::remove_file(&share.socket);
            let listener = UnixListener::bind(&share.socket).context("create", &share.socket)?;
            let directory = match share.read_only {
                true => mounts::read_only(&share.directory, workplace),
                false => share.directory.try_clone(),
            };
            let directory = directory.context("prepare a mount in", workplace)?;
            let child = serve(&program, workplace, listener.into(), directory);
            let child = child.map_err(|source| LaunchError::Spawn {
                program: program.clone(),
                source,
            })?;
            servers.waiting.push((child, share.socket.clone()));
        }
        Ok(servers)
    }

    /// Leaves the programs to the QEMU that has met them all. The sockets have served.
    pub(super) fn let_go(mut self) {
        for (_, socket) in self.waiting.drain(..) {
            let _ = fs::remove_file(socket);
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (child, socket) in &mut self.waiting {
            let _ = child.start_kill();
            let _ = fs::remove_file(socket);
        }
    }
}

/// Ends programs that wait in a VM's directory for a QEMU that will not come. Only for when no
/// start is under way.
pub(crate) fn sweep(vms: &Path) {
    let Ok(entries) = fs::read_dir("/proc") else {
        return;
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    for pid in pids {
        let of = |name: &str| format!("/proc/{pid}/{name}");
        let waits_here = fs::read_link(of("cwd")).is_ok_and(|cwd| cwd.starts_with(vms));
        let command = fs::read_to_string(of("comm")).unwrap_or_default();
        if waits_here && matches!(command.trim(), "virtiofsd" | "unshare" | "setsid") {
            tracing::warn!(pid, "ending a program that serves a directory to nobody");
            if let Some(birth) = Birth::of(pid) {
                birth.kill();
            }
        }
    }
}

/// The socket is the program's standard input and the directory its standard output: descriptors
/// that it has anyway, so no other process that we start meanwhile can get them.
fn serve(
    program: &Path,
    workplace: &Path,
    socket: OwnedFd,
    directory: OwnedFd,
) -> io::Result<Child> {
    tool::secluded("setsid")
        .args(["unshare", "--net", "--ipc", "--uts"])
        .arg(program)
        .args(["-f", "--fd=0", "-o", "source=/proc/self/fd/1/."])
        .args(["-o", "sandbox=chroot", "-o", "cache=none"])
        // A guest's root is root in there. It needs no devices.
        .args(["-o", "modcaps=-mknod", "--rlimit-nofile=65536"])
        // By this it is found if we die before it has met its QEMU; then it has another root.
        .current_dir(workplace)
        .stdin(Stdio::from(socket))
        .stdout(Stdio::from(directory))
        .stderr(Stdio::null())
        .spawn()
}
