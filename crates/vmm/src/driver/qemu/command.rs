//! QEMU's command line for a VM.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::hostfwd::{self, NETDEV};
use super::machine::Machine;
use super::probe::Found;
use crate::driver::{Blueprint, Network};
use crate::guest::protocol::PORT_NAME;

/// The disk's properties. It is opened once, to read and write: by itself QEMU opens it again, by its
/// name, whenever it begins or ends to write, which a process that gave up root may not.
const DISK: &str = "if=none,id=d0,format=raw,discard=unmap,auto-read-only=off,file=";

/// Everything that makes the VM what it is: its machine, its devices, what it boots.
pub(super) fn machine_arguments(machine: Machine, vm: &Blueprint) -> Vec<OsString> {
    let mut line = Line(machine.arguments());
    line.flag("-nodefaults")
        .flag("-no-user-config")
        .flag("-no-reboot");
    line.option("-display", "none");
    line.option("-name", &vm.name);
    line.option("-uuid", vm.id.to_string());
    line.option("-smp", vm.cpus.to_string());
    line.option("-m", format!("{}M", vm.memory_mb));
    line.option("-kernel", &vm.kernel);
    line.option("-initrd", &vm.initrd);
    line.option("-append", machine.kernel_command_line());
    line.option("-drive", with_path(DISK, &vm.disk));
    line.option("-device", format!("{},drive=d0", machine.device("blk")));
    line.option("-netdev", network(vm));
    let mac = &vm.mac_address;
    line.option(
        "-device",
        format!("{},netdev={NETDEV},mac={mac}", machine.device("net")),
    );
    line.option(
        "-chardev",
        with_path("file,id=console,append=on,path=", &vm.console),
    );
    line.option("-serial", "chardev:console");
    line.0
}

/// How the host talks to the VM and finds it again.
pub(super) fn control_arguments(found: &Found, vm: &Blueprint) -> Vec<OsString> {
    let machine = found.machine;
    let mut line = Line(Vec::new());
    line.option("-pidfile", &vm.pid_file);
    line.option(
        "-qmp",
        with_path_then("unix:", &vm.control_socket, ",server=on,wait=off"),
    );
    line.option("-device", machine.device("serial"));
    let port = format!("virtserialport,id=guest,chardev=guest,name={PORT_NAME}");
    let channel = with_path("socket,id=guest,server=on,wait=off,path=", &vm.guest_socket);
    line.option("-chardev", channel);
    line.option("-device", port);
    share_directories(&mut line, machine, vm);
    give_up(&mut line, found, vm);
    line.0
}

/// Gives up what a guest that broke out of its VM would reach for first, and root where the host
/// has a user for the process. To become that, it has to be let change users; the kernel allows no
/// other change to one that is not root and may gain nothing (`no_new_privs`).
fn give_up(line: &mut Line, found: &Found, vm: &Blueprint) {
    let changing = match vm.network {
        Network::User {
            run_as: Some(id), ..
        } => {
            let user = format!("{id}:{id}");
            match has_run_with(&found.version) {
                true => line.option("-run-with", format!("user={user}")),
                false => line.option("-runas", user),
            };
            "allow"
        }
        _ => "deny",
    };
    line.option(
        "-sandbox",
        format!("on,obsolete=deny,elevateprivileges={changing},spawn=deny,resourcecontrol=deny"),
    );
}

/// Whether this release knows `-run-with user=`, which has taken the place of `-runas` since 9.1.
fn has_run_with(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next()) >= (9, 1)
}

/// Lets programs of the host serve directories to the guest (vhost-user). They read the guest's
/// memory, so that has to be shareable, and they know virtio only as it has been since 1.0.
fn share_directories(line: &mut Line, machine: Machine, vm: &Blueprint) {
    if vm.shares.is_empty() {
        return;
    }
    let size = vm.memory_mb;
    line.option(
        "-object",
        format!("memory-backend-memfd,id=memory,size={size}M,share=on"),
    );
    line.option("-machine", "memory-backend=memory");
    line.option("-global", "virtio-mmio.force-legacy=false");
    let device = machine.shared_directory();
    for (index, share) in vm.shares.iter().enumerate() {
        let channel = with_path(&format!("socket,id=share{index},path="), &share.socket);
        line.option("-chardev", channel);
        // Its tag cannot hold a comma.
        let tag = &share.tag;
        line.option(
            "-device",
            format!("{device},chardev=share{index},tag={tag}"),
        );
    }
}

fn network(vm: &Blueprint) -> String {
    match &vm.network {
        Network::User { port_forwards, .. } => {
            let mut network = format!("user,id={NETDEV}");
            for forward in port_forwards {
                network.push_str(",hostfwd=");
                network.push_str(&hostfwd::rule(forward));
            }
            network
        }
        // The device is ours: QEMU may neither set it up nor take it down, by script or otherwise.
        Network::Tap(tap) => {
            let name = &tap.name;
            format!("tap,id={NETDEV},ifname={name},script=no,downscript=no")
        }
    }
}

/// A command line in the making.
struct Line(Vec<OsString>);

impl Line {
    fn flag(&mut self, flag: &str) -> &mut Self {
        self.0.push(flag.into());
        self
    }

    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(name.into());
        self.0.push(value.as_ref().to_owned());
        self
    }
}

/// A list of properties that ends with a path.
fn with_path(properties: &str, path: &Path) -> OsString {
    with_path_then(properties, path, "")
}

/// A list of properties with a path in it. A comma would end the path, so it is doubled, as
/// QEMU wants it.
fn with_path_then(before: &str, path: &Path, after: &str) -> OsString {
    let mut value = before.as_bytes().to_vec();
    for byte in path.as_os_str().as_bytes() {
        value.extend(std::iter::repeat_n(
            *byte,
            if *byte == b',' { 2 } else { 1 },
        ));
    }
    value.extend(after.as_bytes());
    OsString::from_vec(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_cannot_add_a_property() {
        let value = with_path("if=none,file=", Path::new("/data,readonly=on/disk"));
        assert_eq!(value, "if=none,file=/data,,readonly=on/disk");
    }

    #[test]
    fn root_is_given_up_in_the_words_that_a_release_knows() {
        for old in ["7.2.22", "8.2.2", "9.0.4", "?"] {
            assert!(!has_run_with(old), "{old}");
        }
        for new in ["9.1.0", "9.2", "10.0.2", "11"] {
            assert!(has_run_with(new), "{new}");
        }
    }
}
