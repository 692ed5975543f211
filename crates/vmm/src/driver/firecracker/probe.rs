//! Whether Firecracker works on this host: found out by booting something.
//!
//! A device `/dev/kvm` that opens is no proof: in some nested machines it does, and no guest ever
//! runs. So a machine of the usual make boots the smallest kernel there is, which resets it.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;

use super::{Firecracker, machine};
use crate::driver::qemu::has_virtualization;
use crate::driver::{Blueprint, Event, Link, LinkError, Network};
use crate::files::StorageError;
use crate::kernels::write_flushed;
use crate::layout::VmDir;
use crate::lifecycle::Ending;
use crate::model::VmId;
use crate::tool;

/// How long a trial may take; it takes a tenth of a second on an idle host.
const TRIAL: Duration = Duration::from_secs(20);

/// A Firecracker that is installed.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
}

/// No Firecracker is installed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFound {
    #[error("{} is not installed; install it from its releases, or configure its path", _0.display())]
    Missing(PathBuf),
    #[error("{} does not run: {problem}", program.display())]
    Unusable { program: PathBuf, problem: String },
}

/// Looks for Firecracker.
pub(crate) async fn find(program: &Path) -> Result<Found, NotFound> {
    let program = tool::find(program).ok_or_else(|| NotFound::Missing(program.to_owned()))?;
    let unusable = |problem: String| NotFound::Unusable {
        program: program.clone(),
        problem,
    };
    let mut command = tool::secluded(&program);
    command.arg("--version").kill_on_drop(true);
    let output = timeout(TRIAL, command.output())
        .await
        .map_err(|_| unusable(format!("no answer within {} s", TRIAL.as_secs())))?
        .map_err(|error| unusable(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "Firecracker v1.13.1", and then perhaps that it is exiting successfully.
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("Firecracker v"));
    match version.map(str::trim) {
        Some(version) if output.status.success() => Ok(Found {
            version: version.to_owned(),
            program,
        }),
        _ => {
            let said: String = text.trim().chars().take(100).collect();
            Err(unusable(format!("`--version` said {said:?}")))
        }
    }
}

/// Boots a machine that resets itself at once, in a place of its own.
pub(crate) async fn trial(driver: &Firecracker, place: &VmDir) -> Result<(), String> {
    let blueprint = blueprint(place).map_err(|error| error.to_string())?;
    if env::consts::ARCH != "x86_64" {
        // Nobody has written such a kernel for other processors yet.
        return kvm_problem().map_or(Ok(()), Err);
    }
    let ready = match timeout(TRIAL, driver.set_up(&blueprint, None)).await {
        Ok(Ok(ready)) => ready,
        Ok(Err(error)) => return Err(with_kvm_problem(format!("a trial did not start: {error}"))),
        Err(_) => return Err(with_kvm_problem("a trial did not start in time".to_owned())),
    };
    // A machine that resets itself may be gone before its start is answered.
    let started = match ready.link.api.ask(machine::start()).await {
        Ok(_) | Err(LinkError::Broken(_)) => Ok(()),
        Err(error) => Err(format!("a trial machine did not start: {error}")),
    };
    let outcome = match started {
        Ok(()) => judge(timeout(TRIAL, ready.link.event()).await.ok()),
        refused => refused,
    };
    ready.give_up(&blueprint).await;
    outcome.map_err(with_kvm_problem)
}

/// What the end of a trial machine says; none: there was no end.
fn judge(ended: Option<Option<Event>>) -> Result<(), String> {
    match ended {
        Some(Some(Event::Ending(Ending::GuestReset))) => Ok(()),
        Some(Some(Event::Ending(Ending::Unexpected { reason }))) => {
            Err(format!("a trial machine failed: {reason}"))
        }
        Some(_) => Err("a trial machine crashed".to_owned()),
        None => Err("a trial machine never ran its code".to_owned()),
    }
}

fn with_kvm_problem(problem: String) -> String {
    match kvm_problem() {
        Some(kvm) => format!("{problem}; {kvm}"),
        None => problem,
    }
}

/// What is known to be wrong with KVM here.
fn kvm_problem() -> Option<String> {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return Some(format!("/dev/kvm does not open: {error}"));
    }
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let lacks = env::consts::ARCH == "x86_64" && !has_virtualization(&cpuinfo);
    lacks.then(|| "this processor offers no hardware virtualisation (vmx or svm)".to_owned())
}

fn blueprint(place: &VmDir) -> Result<Blueprint, StorageError> {
    let directory = place.path();
    let kernel = directory.join("kernel");
    write_flushed(&kernel, &resetting_kernel())?;
    write_flushed(&place.initrd(), &[0; 512])?;
    write_flushed(&place.disk(), &[0; 4096])?;
    Ok(Blueprint {
        id: VmId::generate(),
        directory: directory.to_owned(),
        name: "trial".to_owned(),
        cpus: 1,
        memory_mb: 128,
        mac_address: String::new(),
        kernel,
        initrd: place.initrd(),
        disk: place.disk(),
        console: place.console(),
        pid_file: place.pid_file(),
        control_socket: place.control_socket(),
        guest_socket: place.guest_socket(),
        shares: Vec::new(),
        network: Network::User {
            port_forwards: Vec::new(),
            run_as: None,
        },
    })
}

/// An ELF file (elf(5)) with four instructions: a reset by the keyboard controller, then nothing.
fn resetting_kernel() -> Vec<u8> {
    const CODE: [u8; 7] = [
        0xb0, 0xfe, // mov al, 0xfe
        0xe6, 0x64, // out 0x64, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp to the hlt
    ];
    const HEADERS: u64 = 64 + 56;
    // Anywhere in memory; at the same offset in its page as in the file.
    const ADDRESS: u64 = 0x100_0000 + HEADERS;
    let mut file = Vec::new();
    file.extend(b"\x7fELF\x02\x01\x01");
    file.resize(16, 0);
    let halves = |file: &mut Vec<u8>, values: &[u16]| {
        values
            .iter()
            .for_each(|value| file.extend(value.to_le_bytes()));
    };
    let words = |file: &mut Vec<u8>, values: &[u32]| {
        values
            .iter()
            .for_each(|value| file.extend(value.to_le_bytes()));
    };
    let longs = |file: &mut Vec<u8>, values: &[u64]| {
        values
            .iter()
            .for_each(|value| file.extend(value.to_le_bytes()));
    };
    halves(&mut file, &[2, 62]); // an executable for x86-64
    words(&mut file, &[1]);
    longs(&mut file, &[ADDRESS, 64, 0]); // entry, program headers, no sections
    words(&mut file, &[0]);
    halves(&mut file, &[64, 56, 1, 64, 0, 0]);
    words(&mut file, &[1, 5]); // to be loaded, readable and executable
    let length = CODE.len() as u64;
    longs(
        &mut file,
        &[HEADERS, ADDRESS, ADDRESS, length, length, 0x1000],
    );
    file.extend(CODE);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_is_reported_with_what_to_do() {
        let error = find(Path::new("firecracker-that-nobody-has")).await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.starts_with("firecracker-that-nobody-has is not installed; "),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_program_that_is_not_firecracker_is_not_taken_for_it() {
        let error = find(Path::new("/bin/true")).await.unwrap_err();
        assert!(matches!(error, NotFound::Unusable { .. }), "{error}");
    }

    #[test]
    fn the_trials_kernel_is_an_elf_file_that_points_at_its_code() {
        let file = resetting_kernel();
        let long = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        assert_eq!(
            long(24),
            long(64 + 16),
            "the entry is where the code is loaded"
        );
        let (start, length) = (long(64 + 8) as usize, long(64 + 32) as usize);
        assert_eq!(file.len(), start + length);
        assert_eq!(&file[start..start + 4], [0xb0, 0xfe, 0xe6, 0x64]);
    }
}
