//! Where a Firecracker sits: what it is run by, and by which paths it finds its VM's files.
//!
//! In the open those are the files' own paths. In a jail they are names in its root, and for
//! everybody outside the sockets have links at their usual places.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::jail::{self, Cell, Jailer};
use super::machine::Machine;
use super::saved;
use crate::driver::{Blueprint, LaunchError, Network};
use crate::files::{self, Context as _};
use crate::model::VmId;
use crate::process::{Birth, Watched};

/// Firecracker's log, in the VM's directory.
pub(super) const LOG: &str = "vmm.log";

/// What the process says before it has a log, in the VM's directory.
const WORDS: &str = "vmm.err";

/// Enough to tell how a process ended, and what it was asked.
const LOG_LEVEL: &str = "Info";

/// A place for one process.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) machine: Machine,
    /// What to run.
    pub(super) command: Vec<OsString>,
    /// Where the jailer says which process it made; none in the open.
    pub(super) pid_file: Option<PathBuf>,
    /// The jail; none in the open.
    cell: Option<Cell>,
}

pub(super) fn log(vm: &Blueprint) -> PathBuf {
    vm.directory.join(LOG)
}

pub(super) fn words(vm: &Blueprint) -> PathBuf {
    vm.directory.join(WORDS)
}

impl Seat {
    /// Makes the place, with everything in it that the process needs.
    pub(super) fn prepare(
        program: &Path,
        jailer: Option<&Jailer>,
        vm: &Blueprint,
    ) -> Result<Self, LaunchError> {
        // Firecracker does not bind to a path that exists, and a dead one's socket stays.
        for stale in [&vm.control_socket, &vm.guest_socket, &log(vm)] {
            let _ = fs::remove_file(stale);
        }
        files::create_private(&log(vm))?;
        match jailer {
            None => Self::in_the_open(program, vm),
            Some(jailer) => Self::in_a_jail(jailer, vm),
        }
    }

    fn in_the_open(program: &Path, vm: &Blueprint) -> Result<Self, LaunchError> {
        let id = vm.id.to_string();
        let mut command = vec![program.into(), OsString::from("--id"), id.into()];
        command.extend(firecracker_arguments(&vm.control_socket, &log(vm)));
        Ok(Self {
            machine: machine_of(vm, false)?,
            command,
            pid_file: None,
            cell: None,
        })
    }

    fn in_a_jail(jailer: &Jailer, vm: &Blueprint) -> Result<Self, LaunchError> {
        jail::clear(&vm.directory);
        let cell = jailer.cell(vm)?;
        cell.lend(&vm.kernel, "kernel")?;
        for (inside, outside) in [("initrd", &vm.initrd), ("disk", &vm.disk)] {
            cell.give(outside, inside)?;
        }
        // The log alone has the same path inside as outside: it is an argument, and the VM's
        // directory among its arguments is what a VM's process is recognised by.
        cell.give_in_place(&log(vm))?;
        for (inside, outside) in [
            ("api.sock", &vm.control_socket),
            ("v.sock", &vm.guest_socket),
        ] {
            symlink(cell.path(inside), outside).context("create", outside)?;
        }
        let mut command = jailer.command(vm, &cell);
        command.extend(firecracker_arguments(Path::new("/api.sock"), &log(vm)));
        Ok(Self {
            machine: machine_of(vm, true)?,
            command,
            pid_file: Some(jailer.pid_file(&cell)),
            cell: Some(cell),
        })
    }

    /// Lets the process read what was saved to a directory; says by which path. It goes on reading
    /// its memory from there for as long as it runs.
    pub(super) fn lend_saved(&self, directory: &Path) -> Result<String, LaunchError> {
        let Some(cell) = &self.cell else {
            return text(directory);
        };
        for name in [saved::MEMORY, saved::STATE] {
            cell.lend(&directory.join(name), name)?;
        }
        Ok(String::new())
    }

    /// Ends a process that a jailer has made and that nobody has taken over.
    pub(super) async fn end_what_is_left(&self, id: VmId) {
        let Some(pid_file) = &self.pid_file else {
            return;
        };
        let pid = fs::read_to_string(pid_file).unwrap_or_default();
        let birth = pid.trim().parse().ok().and_then(Birth::of);
        if let Some(birth) = birth.filter(|birth| birth.has_argument(&id.to_string()))
            && let Ok(Some(watched)) = Watched::open(&birth)
        {
            let _ = watched.signal(Signal::KILL);
            watched.ended().await;
        }
    }
}

fn firecracker_arguments(api: &Path, log: &Path) -> [OsString; 6] {
    [
        "--api-sock".into(),
        api.into(),
        "--log-path".into(),
        log.into(),
        "--level".into(),
        LOG_LEVEL.into(),
    ]
}

/// The machine, with paths as they are seen from a seat of this kind.
pub(super) fn machine_of(vm: &Blueprint, jailed: bool) -> Result<Machine, LaunchError> {
    // What was given to a jail has one name in there, whatever it is called outside.
    let names = [
        (&vm.kernel, "/kernel"),
        (&vm.initrd, "/initrd"),
        (&vm.disk, "/disk"),
        (&vm.guest_socket, "/v.sock"),
    ];
    machine(vm, |path: &Path| {
        let name = names.iter().find(|(outside, _)| jailed && *outside == path);
        name.map_or_else(|| text(path), |(_, inside)| Ok((*inside).to_owned()))
    })
}

fn machine(
    vm: &Blueprint,
    seen: impl Fn(&Path) -> Result<String, LaunchError>,
) -> Result<Machine, LaunchError> {
    Ok(Machine {
        cpus: vm.cpus,
        memory_mb: vm.memory_mb,
        kernel: seen(&vm.kernel)?,
        initrd: seen(&vm.initrd)?,
        disk: seen(&vm.disk)?,
        vsock: seen(&vm.guest_socket)?,
        network: match &vm.network {
            Network::User { .. } => None,
            Network::Tap(tap) => Some((tap.name.clone(), vm.mac_address.clone())),
        },
    })
}

/// A path as JSON can hold it.
fn text(path: &Path) -> Result<String, LaunchError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| LaunchError::Unspeakable {
            path: path.to_owned(),
        })
}
