//! VMs' processes on this host, found by what they were started with and not by what was written
//! down of them.
//!
//! A daemon that died between making a process and writing that down knows nothing of it, and its
//! pid file comes later still. But the process carries the VM's id as an argument of its own and
//! works in the VM's directory, and nothing else on a host does both.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::files;
use crate::model::VmId;
use crate::process::Birth;

/// The options after which a driver's program is told the VM's id.
const ID_OPTIONS: [&[u8]; 2] = [b"-uuid", b"--id"];

/// A process that runs a VM of this data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VmProcess {
    pub(crate) pid: i32,
    pub(crate) birth: Birth,
    pub(crate) id: VmId,
    /// The name of the VM's directory.
    pub(crate) name: String,
}

/// All of them. What ends meanwhile is left out.
pub(crate) fn of(vms: &Path) -> Vec<VmProcess> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| look_at(pid, vms)).collect()
}

/// The process that a pid file names, if it is the VM's: one that lives in a jail does not mention
/// the VM's directory. Pids are used again, so the VM's id has to be among its arguments.
pub(crate) fn named_in(pid_file: &Path, id: VmId) -> Option<Birth> {
    let text = files::read_regular(pid_file, 64).ok()?;
    let pid = std::str::from_utf8(&text).ok()?.trim().parse().ok()?;
    let birth = Birth::of(pid)?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let id = id.to_string();
    let mut arguments = arguments.split(|byte| *byte == 0);
    arguments
        .any(|argument| argument == id.as_bytes())
        .then_some(birth)
}

fn look_at(pid: i32, vms: &Path) -> Option<VmProcess> {
    // In this order: should the pid be given to another process in between, the birth is that one's
    // and the arguments are not ours.
    let birth = Birth::of(pid)?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let (id, name) = understand(&arguments, vms)?;
    Some(VmProcess {
        pid,
        birth,
        id,
        name,
    })
}

/// The id and the directory's name in a command line (proc(5): arguments that end with zeros).
fn understand(arguments: &[u8], vms: &Path) -> Option<(VmId, String)> {
    let arguments: Vec<&[u8]> = arguments.split(|byte| *byte == 0).collect();
    let id = arguments.windows(2).find_map(|pair| {
        let known = ID_OPTIONS.contains(&pair[0]);
        known.then(|| std::str::from_utf8(pair[1]).ok()?.parse().ok())?
    })?;
    let mut place = vms.as_os_str().as_bytes().to_vec();
    place.push(b'/');
    let name = arguments.iter().find_map(|argument| {
        let at = argument
            .windows(place.len())
            .position(|window| window == place)?;
        let rest = &argument[at + place.len()..];
        let end = rest.iter().position(|byte| *byte == b'/')?;
        String::from_utf8(rest[..end].to_vec()).ok()
    })?;
    Some((id, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(arguments: &[&str]) -> Vec<u8> {
        let mut line = arguments.join("\0").into_bytes();
        line.push(0);
        line
    }

    #[test]
    fn a_vms_process_is_known_by_its_id_and_its_directory_together() {
        let (vms, id) = (Path::new("/data/vms"), VmId::generate());
        let told = id.to_string();
        let disk = "if=none,file=/data/vms/web-1/disk.ext4";
        let qemu = line(&["setsid", "qemu", "-uuid", &told, "-drive", disk]);
        assert_eq!(understand(&qemu, vms), Some((id, "web-1".to_owned())));
        for other in [
            line(&["tail", "-f", "/data/vms/web-1/console.log"]),
            line(&["grep", &told, "/data/vms/web-1/vm.json"]),
            line(&[
                "qemu",
                "-uuid",
                &told,
                "-drive",
                "file=/other/vms/web-1/disk",
            ]),
            line(&["qemu", "-uuid", "no id", "-drive", disk]),
            line(&["qemu", "-uuid"]),
            Vec::new(),
        ] {
            assert_eq!(understand(&other, vms), None);
        }
    }
}
