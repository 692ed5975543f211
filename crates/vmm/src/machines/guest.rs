//! The inside of VMs that run: commands, files, the console.
//!
//! None of this waits for the VM's turn: whoever starts or stops it meanwhile ends the conversation,
//! and that is what is told.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Machines;
use crate::console::Reading;
use crate::guest::{
    Command, ExecId, Execution, FilePiece, FilePlace, FileWrite, Finished, Guest, GuestError,
    GuestProblem, RunCommand, TerminalSize, check_path, check_piece, check_stage,
};
use crate::metrics::interfaces_of;
use crate::model::VmState;
use crate::name::VmName;
use crate::slot::Slot;

/// How long a guest may take to say what it counts.
const COUNTING: Duration = Duration::from_secs(1);

/// What is read of that, in bytes: dozens of interfaces.
const LONGEST_COUNTERS: usize = 16 * 1024;

impl Machines {
    /// Runs a command in a VM and waits for its end. Dropping the future kills the command.
    ///
    /// # Errors
    /// When the command makes no sense, or the guest cannot be spoken to. How the command itself
    /// ends is no error.
    pub async fn run(&self, name: &str, run: RunCommand) -> Result<Finished, GuestError> {
        let (vm, guest) = self.guest(name)?;
        let exec = run.command.checked()?;
        let finished = guest.run(exec, &run.stdin, run.timeout, run.max_output_bytes);
        finished.await.map_err(|problem| of(vm, problem))
    }

    /// What a guest counts of its network, as far as it answers: nobody waits long for that.
    pub(super) async fn network_of(&self, name: &str) -> Option<(u64, u64)> {
        let vm = self.get(name).await.ok()?;
        if vm.state != VmState::Running || vm.ready_at.is_none() {
            return None;
        }
        let (_, guest) = self.guest(name).ok()?;
        let counters = guest.read_file("/proc/net/dev", 0, LONGEST_COUNTERS);
        let counters = timeout(COUNTING, counters).await.ok()?.ok()?;
        interfaces_of(&String::from_utf8_lossy(&counters.data))
    }

    /// Starts a command in a VM. It lives as long as what this returns.
    ///
    /// # Errors
    /// When the command makes no sense, or the guest cannot be spoken to.
    pub async fn exec(&self, name: &str, command: Command) -> Result<Execution, GuestError> {
        let (vm, guest) = self.guest(name)?;
        let exec = command.checked()?;
        guest.exec(exec).await.map_err(|problem| of(vm, problem))
    }

    /// Gives a command that runs something to read, and says with `close` that this was all.
    ///
    /// # Errors
    /// When there is no such command, or it does not read.
    pub async fn exec_input(
        &self,
        name: &str,
        id: ExecId,
        data: &[u8],
        close: bool,
    ) -> Result<(), GuestError> {
        let (vm, guest) = self.guest(name)?;
        let told = guest.exec_input(id, data, close).await;
        told.map_err(|problem| of(vm, problem))
    }

    /// Gives the terminal of a command that runs another size.
    ///
    /// # Errors
    /// When there is no such command.
    pub async fn exec_resize(
        &self,
        name: &str,
        id: ExecId,
        size: TerminalSize,
    ) -> Result<(), GuestError> {
        let (vm, guest) = self.guest(name)?;
        let told = guest.exec_resize(id, size.into()).await;
        told.map_err(|problem| of(vm, problem))
    }

    /// Reads a piece of a file in a VM, of at most [`PIECE_BYTES`](crate::PIECE_BYTES).
    ///
    /// # Errors
    /// When there is no such file, or the guest cannot be spoken to.
    pub async fn read_file(
        &self,
        name: &str,
        path: &str,
        offset: u64,
        length: usize,
    ) -> Result<FilePiece, GuestError> {
        let (vm, guest) = self.guest(name)?;
        check_path("path", path)?;
        let read = guest.read_file(path, offset, length).await;
        read.map_err(|problem| of(vm, problem))
    }

    /// Writes a file in a VM, or a piece of one.
    ///
    /// # Errors
    /// When the guest cannot write it, or cannot be spoken to. A file that was to appear in one
    /// step is then what it was before, and stays so; of a guest that does not answer any more
    /// nobody knows.
    pub async fn write_file(&self, name: &str, write: FileWrite) -> Result<(), GuestError> {
        let (vm, guest) = self.guest(name)?;
        check_path("path", &write.path)?;
        check_piece(write.data.len())?;
        let FileWrite {
            path,
            data,
            place,
            mode,
        } = write;
        let written = match place {
            FilePlace::Whole => guest.replace_file(&path, &data, mode).await,
            FilePlace::At(offset) => guest.write_into_file(&path, offset, &data).await,
            FilePlace::Staged {
                upload,
                offset,
                last,
            } => {
                let stage = check_stage(&upload)?;
                let commit = last.then_some(mode);
                guest.stage(&path, offset, &data, &stage, commit).await
            }
        };
        written.map_err(|problem| of(vm, problem))
    }

    /// The last lines of a VM's console, whether it runs or not, and where to go on reading.
    ///
    /// # Errors
    /// When there is no such VM, or its log cannot be read.
    pub async fn console(&self, name: &str, lines: usize) -> Result<Reading, GuestError> {
        let slot = self.inner.slot(name)?;
        let read = crate::blocking::run(move || slot.console.tail(lines)).await;
        Ok(read?)
    }

    /// What was written to a VM's console after `position`. Returns at once, with nothing when
    /// there is nothing.
    ///
    /// # Errors
    /// As [`Machines::console`].
    pub async fn console_from(&self, name: &str, position: u64) -> Result<Reading, GuestError> {
        let slot = self.inner.slot(name)?;
        let read = crate::blocking::run(move || slot.console.from(position)).await;
        Ok(read?)
    }

    /// Tells a VM's guest the time, as is due after it stood still.
    ///
    /// # Errors
    /// When the guest cannot be spoken to, or refuses.
    pub async fn sync_time(&self, name: &str) -> Result<(), GuestError> {
        let (vm, guest) = self.guest(name)?;
        guest.tell_time().await.map_err(|problem| of(vm, problem))
    }

    /// The guest of a VM that runs.
    fn guest(&self, name: &str) -> Result<(VmName, Arc<Guest>), GuestError> {
        let slot: Arc<Slot> = self.inner.slot(name)?;
        let vm = slot.view();
        if vm.state != VmState::Running {
            return Err(GuestError::NotRunning {
                name: vm.name,
                state: vm.state,
            });
        }
        match slot.attachment().and_then(|attachment| attachment.guest) {
            Some(guest) => Ok((vm.name, guest)),
            None => Err(GuestError::Unreachable { name: vm.name }),
        }
    }
}

fn of(name: VmName, problem: GuestProblem) -> GuestError {
    GuestError::Problem { name, problem }
}
