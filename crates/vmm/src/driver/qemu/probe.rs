//! What QEMU can do on this host: found out by trying it.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::machine::{self, Accelerator, Machine};
use crate::tool;

/// How long a trial may take.
const TRIAL: Duration = Duration::from_secs(20);

/// A QEMU that works here.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) program: PathBuf,
    pub(crate) version: String,
    pub(crate) machine: Machine,
    /// Why this machine, for people.
    pub(crate) reason: String,
}

/// No QEMU works here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotFound {
    #[error("this host is {0}, and VMs run only on x86-64 so far")]
    Architecture(&'static str),
    #[error(
        "{} is not installed; install it (Debian: apt-get install qemu-system-x86)",
        _0.display()
    )]
    Missing(PathBuf),
    #[error("{} does not run: {problem}", program.display())]
    Unusable { program: PathBuf, problem: String },
}

/// Looks for QEMU and decides how to use it.
pub(crate) async fn probe(program: &Path) -> Result<Found, NotFound> {
    if env::consts::ARCH != "x86_64" {
        return Err(NotFound::Architecture(env::consts::ARCH));
    }
    let program = tool::find(program).ok_or_else(|| NotFound::Missing(program.to_owned()))?;
    let version = version(&program).await?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kvm = kvm_works(&program, &cpuinfo).await;
    let accelerator = if kvm.is_ok() {
        Accelerator::Kvm
    } else {
        Accelerator::Tcg
    };
    let machine = Machine::choose(accelerator, machine::tsc_khz(&cpuinfo));
    let reason = explain(machine, kvm.err());
    Ok(Found {
        program,
        version,
        machine,
        reason,
    })
}

fn explain(machine: Machine, no_kvm: Option<String>) -> String {
    let no_kvm = no_kvm.unwrap_or_default();
    match machine {
        Machine::MicrovmKvm => "KVM works: guests run at the processor's own speed".to_owned(),
        Machine::MicrovmTcg { tsc_khz } => format!(
            "software emulation, because {no_kvm}; machine microvm, because the time-stamp \
             counter's frequency is known ({tsc_khz} kHz)"
        ),
        Machine::Q35Tcg => format!(
            "software emulation, because {no_kvm}; machine q35, because the time-stamp counter's \
             frequency is not known exactly"
        ),
    }
}

async fn version(program: &Path) -> Result<String, NotFound> {
    let unusable = |problem: String| NotFound::Unusable {
        program: program.to_owned(),
        problem,
    };
    let mut command = tool::secluded(program);
    command.arg("--version").kill_on_drop(true);
    let output = tokio::time::timeout(TRIAL, command.output())
        .await
        .map_err(|_| unusable(format!("no answer within {} s", TRIAL.as_secs())))?
        .map_err(|error| unusable(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    // "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)"
    let version = text
        .strip_prefix("QEMU emulator version ")
        .and_then(|rest| rest.split_ascii_whitespace().next());
    match version {
        Some(version) if output.status.success() => Ok(version.to_owned()),
        _ => Err(unusable(format!("`--version` said {:?}", text.trim()))),
    }
}

/// Whether KVM works, or why not. A device that opens is no proof: in some nested machines it
/// does, and no guest ever boots.
async fn kvm_works(program: &Path, cpuinfo: &str) -> Result<(), String> {
    if !machine::has_virtualization(cpuinfo) {
        return Err("this processor offers no hardware virtualisation (vmx or svm)".to_owned());
    }
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/kvm") {
        return Err(format!("/dev/kvm does not open: {error}"));
    }
    match tokio::time::timeout(TRIAL, kvm_trial(program)).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Err("a trial machine with KVM did not start".to_owned()),
        Ok(Err(error)) => Err(format!(
            "a trial machine with KVM could not be run: {error}"
        )),
        Err(_) => Err("a trial machine with KVM hung".to_owned()),
    }
}

/// Starts a machine with KVM and nothing else in it, and tells it to quit.
async fn kvm_trial(program: &Path) -> io::Result<bool> {
    let mut trial = tool::secluded(program)
        .args([
            "-machine",
            "microvm,accel=kvm",
            "-cpu",
            "host",
            "-nodefaults",
            "-no-user-config",
        ])
        .args(["-display", "none", "-S", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = trial.stdin.take() {
        stdin
            .write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}")
            .await?;
    }
    Ok(trial.wait().await?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_is_reported_with_how_to_get_it() {
        let error = probe(Path::new("qemu-that-nobody-has"))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("qemu-that-nobody-has is not installed; install it"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_program_that_is_not_qemu_is_not_taken_for_it() {
        let error = probe(Path::new("/bin/true")).await.unwrap_err();
        assert!(matches!(error, NotFound::Unusable { .. }), "{error}");
    }

    #[tokio::test]
    async fn the_choice_of_machine_is_explained() {
        let found = probe(Path::new("qemu-system-x86_64")).await.unwrap();
        assert!(
            found.version.starts_with(|c: char| c.is_ascii_digit()),
            "{found:?}"
        );
        assert!(found.reason.len() > 20, "{found:?}");
    }
}
