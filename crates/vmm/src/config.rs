//! What the room is told when it opens.

use std::env;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::network::Subnet;

/// Where things are kept, and which driver to use.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Where VMs, images and kernels live. One daemon at a time.
    pub data_dir: PathBuf,
    /// Downloads and finished images that any number of data directories share; may be removed at
    /// any time.
    pub cache_dir: PathBuf,
    /// What runs VMs.
    pub driver: DriverChoice,
    /// The QEMU to run: a path, or a name to look up in `PATH`.
    pub qemu_binary: PathBuf,
    /// The Firecracker to run: a path, or a name to look up in `PATH`.
    pub firecracker_binary: PathBuf,
    /// How Firecracker is confined; absent: not beyond what it does by itself.
    pub jail: Option<JailConfig>,
    /// How many virtual CPUs may be reserved for each CPU of the host. Memory is never
    /// overcommitted.
    pub cpu_overcommit: u32,
    /// How VMs reach others and are reached.
    pub network: NetworkChoice,
    /// Where the bridge takes its subnet from, a /24 of it, when it is first made.
    pub bridge_range: Subnet,
    /// Directories of which VMs may mount what is in them; none unless said.
    pub mount_allow: Vec<PathBuf>,
    /// Directories of which images and kernels may be imported; none unless said, and then they
    /// come from registries only.
    pub import_allow: Vec<PathBuf>,
}

/// How Firecracker is confined by its jailer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct JailConfig {
    /// The jailer to run: a path, or a name to look up in `PATH`.
    pub jailer_binary: PathBuf,
    /// The first user (and group) id of those that VMs' processes get.
    pub first_id: u32,
    /// The last of them.
    pub last_id: u32,
    /// Where the jails are, on the file system of the data directory; absent: in that.
    pub base_dir: Option<PathBuf>,
    /// The network namespace that the processes join, such as `/run/netns/vms`.
    pub netns: Option<PathBuf>,
}

impl JailConfig {
    /// The defaults around a jailer.
    pub fn new(jailer_binary: impl Into<PathBuf>) -> Self {
        Self {
            jailer_binary: jailer_binary.into(),
            // Above what distributions hand out to people, services and containers.
            first_id: 900_000,
            last_id: 965_535,
            base_dir: None,
            netns: None,
        }
    }
}

/// What runs VMs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DriverChoice {
    /// Whichever works here; the host's status says which, and why.
    #[default]
    Auto,
    /// Firecracker.
    Firecracker,
    /// QEMU.
    Qemu,
}

/// How VMs reach others and are reached.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NetworkChoice {
    /// Each VM has a network of its own inside its process. It needs no privilege, and a driver
    /// that can do it.
    #[default]
    User,
    /// VMs are on a bridge of the host's, each with an address of its own. It needs root, or
    /// CAP_NET_ADMIN.
    Bridge,
}

impl Config {
    /// The defaults around a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            cache_dir: user_cache_dir().unwrap_or_else(|| data_dir.join("cache")),
            data_dir,
            driver: DriverChoice::Auto,
            qemu_binary: PathBuf::from("qemu-system-x86_64"),
            firecracker_binary: PathBuf::from("firecracker"),
            jail: None,
            // Most guests idle; four to one lets a laptop of two cores hold a handful of them.
            cpu_overcommit: 4,
            network: NetworkChoice::User,
            bridge_range: Subnet::around(Ipv4Addr::new(10, 77, 0, 0), 16),
            mount_allow: Vec::new(),
            import_allow: Vec::new(),
        }
    }
}

/// `$XDG_CACHE_HOME/hostler`, by default `~/.cache/hostler` (XDG Base Directory Specification);
/// `None` for a user without a home.
fn user_cache_dir() -> Option<PathBuf> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("hostler"))
}
