//! The initial RAM file system of a VM: three archives, one after the other.
//!
//! 1. our program, which is all that runs in there: `/init`;
//! 2. the kernel's modules: `/modules/*`, as the kernel's import packed them;
//! 3. this VM's configuration: `/config/*`, one value per file.
//!
//! It works the same for every driver, because every driver can load such a file, and it needs
//! neither a network nor a device to bring the configuration in.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use crate::cpio::Archive;
use crate::driver::Network;
use crate::files::{Context as _, StorageError};
use crate::images::ImageProgram;
use crate::model::Mount;
use crate::spec::Spec;

/// The program for the guest, built for it by this crate's build script.
const GUEST_PROGRAM: &[u8] = include_bytes!(env!("HOSTLER_GUEST_PROGRAM"));

/// The guest's address in user mode. Each VM has a network of its own, so all can have the same.
pub(crate) const GUEST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const PREFIX_LENGTH: u8 = 24;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Passes questions on to the host's own name servers.
const GATEWAY_DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// What a guest is told about itself.
#[derive(Debug, Clone)]
pub(crate) struct GuestConfig {
    hostname: String,
    modules: Vec<String>,
    address: (Ipv4Addr, u8),
    gateway: Ipv4Addr,
    /// Tags of the directories to mount, and `ro` or `rw`.
    mounts: Vec<(String, &'static str)>,
    mtu: Option<u16>,
    dns_servers: Vec<IpAddr>,
    authorized_key: Option<String>,
    /// What runs in an image without an init of its own.
    program: Option<ImageProgram>,
}

impl GuestConfig {
    /// The configuration of this VM on this network; `modules` are file names in load order.
    pub(crate) fn of(spec: &Spec, modules: &[String], network: &Network) -> Self {
        let (address, gateway, name_server, mtu) = match network {
            Network::User { .. } => {
                let address = (GUEST_ADDRESS, PREFIX_LENGTH);
                (address, GATEWAY, GATEWAY_DNS, None)
            }
            // The host leads questions on from its own address.
            Network::Tap(tap) => ((tap.address, tap.prefix), tap.gateway, tap.gateway, tap.mtu),
        };
        Self {
            hostname: spec.hostname.to_string(),
            modules: modules.to_vec(),
            address,
            gateway,
            mounts: Vec::new(),
            mtu,
            dns_servers: match spec.dns_servers.as_slice() {
                [] => vec![name_server.into()],
                servers => servers.to_vec(),
            },
            authorized_key: spec
                .ssh_public_key
                .as_ref()
                .map(|key| key.as_str().to_owned()),
            program: None,
        }
    }

    /// With what runs in an image that has no init of its own.
    pub(crate) fn with_program(self, program: Option<ImageProgram>) -> Self {
        Self { program, ..self }
    }

    /// With directories to mount, and the modules that takes.
    pub(crate) fn with_mounts(mut self, mounts: &[Mount], modules: &[String]) -> Self {
        let mode = |mount: &Mount| if mount.read_only { "ro" } else { "rw" };
        let tagged = mounts
            .iter()
            .map(|mount| (mount.guest_tag.clone(), mode(mount)));
        self.mounts = tagged.collect();
        if !mounts.is_empty() {
            self.modules.extend_from_slice(modules);
        }
        self
    }

    fn archive(&self) -> Vec<u8> {
        let lines = |values: &mut dyn Iterator<Item = String>| {
            values.map(|value| value + "\n").collect::<String>()
        };
        let mut archive = Archive::default();
        archive.directory("config");
        let mut value = |name: &str, content: String| {
            archive.file(&format!("config/{name}"), 0o600, content.as_bytes());
        };
        value("hostname", format!("{}\n", self.hostname));
        let (address, prefix) = self.address;
        value("address", format!("{address}/{prefix}\n"));
        value("gateway", format!("{}\n", self.gateway));
        if let Some(mtu) = self.mtu {
            value("mtu", format!("{mtu}\n"));
        }
        value("modules", lines(&mut self.modules.iter().cloned()));
        if !self.mounts.is_empty() {
            let mounts = self
                .mounts
                .iter()
                .map(|(tag, mode)| format!("{tag} {mode}"));
            value("mounts", lines(&mut mounts.into_iter()));
        }
        let servers = self
            .dns_servers
            .iter()
            .map(|server| format!("nameserver {server}"));
        value("resolv.conf", lines(&mut servers.into_iter()));
        if let Some(key) = &self.authorized_key {
            value("authorized_key", format!("{key}\n"));
        }
        if let Some(program) = &self.program {
            // Words may hold anything but a zero.
            let words = |words: &mut dyn Iterator<Item = &str>| {
                words.map(|word| format!("{word}\0")).collect::<String>()
            };
            value("program", words(&mut program.argv()));
            let mut environment = program.env.iter().map(String::as_str);
            value("environment", words(&mut environment));
            value("directory", program.working_dir.clone());
            value("user", program.user.clone());
        }
        archive.finish()
    }
}

/// Writes the initial RAM file system of a VM. It is made anew for each start, so nothing depends
/// on how whole an old one is.
pub(crate) fn write(
    path: &Path,
    modules_archives: &[PathBuf],
    config: &GuestConfig,
) -> Result<(), StorageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).context("replace", path);
        }
        _ => {}
    }
    let open = |path: &PathBuf| File::open(path).context("read", path);
    let modules: Vec<_> = modules_archives
        .iter()
        .map(open)
        .collect::<Result<_, _>>()?;
    let mut file = crate::files::create_private(path)?;
    let write = || {
        file.write_all(&program_archive())?;
        for mut modules in modules {
            io::copy(&mut modules, &mut file)?;
        }
        file.write_all(&config.archive())
    };
    write().context("write", path)
}

fn program_archive() -> Vec<u8> {
    let mut archive = Archive::default();
    archive.directory("dev");
    // The kernel opens it for its first process, before that could mount anything.
    archive.character_device("dev/console", 0o600, (5, 1));
    archive.file("init", 0o755, GUEST_PROGRAM);
    archive.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_program_needs_no_library() {
        // A dynamic program has a program header (elf(5)) that names its interpreter.
        const PT_INTERP: u32 = 3;
        let number = |at: usize| u32::from_le_bytes(*GUEST_PROGRAM[at..].first_chunk().unwrap());
        let (table, count) = (number(32) as usize, usize::from(GUEST_PROGRAM[56]));
        let kinds: Vec<u32> = (0..count).map(|index| number(table + index * 56)).collect();
        assert_eq!(&GUEST_PROGRAM[..4], b"\x7fELF");
        assert!(
            !kinds.is_empty() && !kinds.contains(&PT_INTERP),
            "{kinds:?}"
        );
    }

    #[test]
    fn the_archives_follow_each_other_and_the_last_has_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("modules.cpio");
        fs::write(&modules, Archive::default().finish()).unwrap();
        let config = GuestConfig {
            hostname: "web-1".into(),
            modules: vec!["virtio.ko".into(), "virtio_blk.ko".into()],
            address: (Ipv4Addr::new(10, 77, 3, 2), 24),
            gateway: Ipv4Addr::new(10, 77, 3, 1),
            mounts: vec![("work".into(), "ro")],
            mtu: Some(1420),
            dns_servers: vec!["9.9.9.9".parse().unwrap()],
            authorized_key: None,
            program: Some(ImageProgram {
                cmd: vec!["sh".into(), "-c".into()],
                ..ImageProgram::default()
            }),
        };
        let path = dir.path().join("initrd");
        let modules = [modules];
        write(&path, &modules, &config).unwrap();
        write(&path, &modules, &config).unwrap();
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes[GUEST_PROGRAM.len()..]);
        assert!(text.contains("nameserver 9.9.9.9\n"));
        assert!(text.contains("virtio.ko\nvirtio_blk.ko\n"));
        assert!(text.contains("work ro\n"));
        assert!(text.contains("10.77.3.2/24\n") && text.contains("1420\n"));
        assert!(!text.contains("authorized_key"));
        assert!(text.contains("sh\0-c\0"));
        assert_eq!(text.matches("TRAILER!!!").count(), 3);
    }
}
