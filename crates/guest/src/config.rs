//! What the host tells the guest about itself.
//!
//! The host appends a small archive to the initial RAM file system, and its files appear under
//! `/config`, one value each. So nothing has to be asked for, nothing has to be parsed, and it
//! works for every way of booting that takes an initial RAM file system. A value that is missing
//! is not applied.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::{Context, Result};
use crate::program::Program;

const DIRECTORY: &str = "/config";

/// The configuration of this guest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// File names under `/modules`, in load order.
    pub(crate) modules: Vec<String>,
    pub(crate) hostname: Option<String>,
    /// The guest's own address and the length of its network's prefix, as in `10.0.2.15/24`.
    pub(crate) address: Option<(Ipv4Addr, u8)>,
    pub(crate) gateway: Option<Ipv4Addr>,
    /// The largest packet that the way out takes, in bytes.
    pub(crate) mtu: Option<u32>,
    /// Directories of the host to mount, by their tags, and whether they may only be read.
    pub(crate) mounts: Vec<(String, bool)>,
    /// The content of `/etc/resolv.conf`.
    resolv_conf: Option<String>,
    /// A line for root's `authorized_keys`.
    authorized_key: Option<String>,
    /// What runs in an image without an init of its own.
    pub(crate) program: Option<Program>,
}

impl Config {
    pub(crate) fn read() -> Result<Self> {
        Self::read_from(Path::new(DIRECTORY))
    }

    fn read_from(directory: &Path) -> Result<Self> {
        let value = |name: &str| match fs::read_to_string(directory.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("read {DIRECTORY}/{name}")),
        };
        // Words may hold anything but a zero, so that is what lies between them.
        let words = |name| -> Result<Option<Vec<String>>> {
            let text = value(name)?;
            Ok(text.map(|text| text.split_terminator('\0').map(str::to_owned).collect()))
        };
        let line = |name| Ok(value(name)?.map(|text| text.trim().to_owned()));
        Ok(Self {
            modules: value("modules")?
                .unwrap_or_default()
                .lines()
                .map(str::to_owned)
                .collect(),
            hostname: line("hostname")?,
            address: line("address")?
                .map(|text| parse_address(&text))
                .transpose()?,
            gateway: line("gateway")?.map(|text| parse_ip(&text)).transpose()?,
            mtu: line("mtu")?.map(|text| parse_mtu(&text)).transpose()?,
            mounts: value("mounts")?
                .unwrap_or_default()
                .lines()
                .filter_map(|line| line.split_once(' '))
                .map(|(tag, mode)| (tag.to_owned(), mode == "ro"))
                .collect(),
            resolv_conf: value("resolv.conf")?,
            authorized_key: line("authorized_key")?,
            program: match words("program")? {
                None => None,
                Some(argv) => Some(Program {
                    argv,
                    environment: words("environment")?.unwrap_or_default(),
                    directory: line("directory")?.unwrap_or_default(),
                    user: line("user")?.unwrap_or_default(),
                }),
            },
        })
    }

    /// Tells the guest who it is, in the kernel and in the files of its root disk.
    pub(crate) fn apply_to(&self, root: &Path) -> Result<()> {
        if let Some(hostname) = &self.hostname {
            rustix::system::sethostname(hostname.as_bytes())
                .context(|| "set the host name".to_owned())?;
        }
        self.write_files(root)
            .context(|| "write the configuration to the root disk".to_owned())
    }

    fn write_files(&self, root: &Path) -> io::Result<()> {
        let etc = root.join("etc");
        fs::create_dir_all(&etc)?;
        if let Some(hostname) = &self.hostname {
            replace(&etc.join("hostname"), &format!("{hostname}\n"))?;
        }
        if let Some(resolv_conf) = &self.resolv_conf {
            replace(&etc.join("resolv.conf"), resolv_conf)?;
        }
        if let Some(key) = &self.authorized_key {
            authorize(&root.join("root"), key)?;
        }
        Ok(())
    }
}

/// Gives a file this content. A link in its place is replaced, not followed: it means a path in
/// the image, and we are not in there.
fn replace(path: &Path, content: &str) -> io::Result<()> {
    let is_file = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file());
    if is_file && fs::read(path)? == content.as_bytes() {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::write(path, content)
}

/// Adds a key to those that may log in as root, unless it is there. Keys that were added in the
/// guest stay.
fn authorize(home: &Path, key: &str) -> io::Result<()> {
    let directory = home.join(".ssh");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)?;
    let path = directory.join("authorized_keys");
    let present = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if present.lines().any(|line| line.trim() == key) {
        return Ok(());
    }
    let separator = if present.is_empty() || present.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(format!("{separator}{key}\n").as_bytes())?;
    // SSH servers refuse keys that others could have written.
    fs::set_permissions(home, Permissions::from_mode(0o700))
}

fn parse_address(text: &str) -> Result<(Ipv4Addr, u8)> {
    let parsed = text.split_once('/').and_then(|(address, prefix)| {
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
        Some((address.parse().ok()?, prefix))
    });
    parsed
        .ok_or(io::ErrorKind::InvalidData)
        .context(|| format!("understand address {text:?}"))
}

fn parse_mtu(text: &str) -> Result<u32> {
    text.parse()
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
        .context(|| format!("understand MTU {text:?}"))
}

fn parse_ip(text: &str) -> Result<Ipv4Addr> {
    text.parse()
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
        .context(|| format!("understand address {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own that is removed at the end.
    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("hostler-guest-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_value_is_read_and_a_missing_one_is_none() {
        let dir = Scratch::new("read");
        fs::write(dir.0.join("modules"), "virtio.ko\nvirtio_blk.ko\n").unwrap();
        fs::write(dir.0.join("hostname"), "web-1\n").unwrap();
        fs::write(dir.0.join("address"), "10.0.2.15/24\n").unwrap();
        fs::write(dir.0.join("program"), "sh\0-c\0echo\n1\0").unwrap();
        let config = Config::read_from(&dir.0).unwrap();
        assert_eq!(config.modules, ["virtio.ko", "virtio_blk.ko"]);
        assert_eq!(config.hostname.as_deref(), Some("web-1"));
        assert_eq!(config.address, Some((Ipv4Addr::new(10, 0, 2, 15), 24)));
        assert_eq!(config.gateway, None);
        assert_eq!(config.program.unwrap().argv, ["sh", "-c", "echo\n1"]);
    }

    #[test]
    fn an_address_that_makes_no_sense_is_refused() {
        for text in ["10.0.2.15", "10.0.2.15/33", "x/24", "10.0.2/24"] {
            assert!(parse_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_is_added_once_beside_those_that_are_there() {
        let root = Scratch::new("key");
        let config = Config {
            authorized_key: Some("ssh-x new".into()),
            ..Config::default()
        };
        let keys = root.0.join("root/.ssh/authorized_keys");
        fs::create_dir_all(keys.parent().unwrap()).unwrap();
        fs::write(&keys, "ssh-x old").unwrap();
        config.write_files(&root.0).unwrap();
        config.write_files(&root.0).unwrap();
        assert_eq!(fs::read_to_string(&keys).unwrap(), "ssh-x old\nssh-x new\n");
    }

    #[test]
    fn a_link_in_the_image_is_replaced_and_not_followed() {
        let root = Scratch::new("link");
        let outside = root.0.join("outside");
        fs::write(&outside, "mine").unwrap();
        fs::create_dir_all(root.0.join("etc")).unwrap();
        let link = root.0.join("etc/resolv.conf");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        let config = Config {
            resolv_conf: Some("nameserver 9.9.9.9\n".into()),
            ..Config::default()
        };
        config.write_files(&root.0).unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), "nameserver 9.9.9.9\n");
        assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
    }
}
