//! Why the host's network could not be made what it should be.

use std::path::PathBuf;

use super::subnet::Subnet;
use crate::capacity::InsufficientCapacity;
use crate::files::StorageError;
use crate::ports::PortError;
use crate::tool::ToolError;

impl NetworkError {
    /// Whether it may be otherwise a moment later: nothing was found out.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Tool(ToolError::Slow { .. }) => true,
            Self::Tool(ToolError::Missing { source, .. }) => {
                source.kind() != std::io::ErrorKind::NotFound
            }
            _ => false,
        }
    }
}

/// The host's network could not be used or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The daemon may not change the network.
    #[error(
        "a bridge needs root, or CAP_NET_ADMIN; run the daemon with that, or with --network user"
    )]
    NotPrivileged,
    /// There are no tap devices here.
    #[error(
        "a bridge needs tap devices, and /dev/net/tun does not open ({source}); load the kernel \
         module tun (modprobe tun), or use --network user"
    )]
    NoTaps { source: std::io::Error },
    /// A program is missing or has refused.
    #[error("the host's network cannot be changed: {0}")]
    Tool(#[from] ToolError),
    /// A program's answer makes no sense.
    #[error("{command} gave an answer that cannot be read: {problem}")]
    Unreadable { command: String, problem: String },
    /// The configured range cannot be used.
    #[error("the bridge's range {range} {problem}; give another one with --bridge-range")]
    Range { range: Subnet, problem: String },
    /// The subnet that was chosen once is somebody else's now.
    #[error(
        "the bridge's subnet {subnet} is also that of {device}; take it from there, or stop all \
         VMs and remove {}, and another subnet is chosen", file.display()
    )]
    Conflict {
        subnet: Subnet,
        device: String,
        file: PathBuf,
    },
    /// What is written down of the network cannot be read.
    #[error(
        "{} is damaged ({problem}); restore it from a backup, or stop all VMs and remove it, and \
         another subnet is chosen", path.display()
    )]
    Damaged { path: PathBuf, problem: String },
    /// All addresses are taken.
    #[error(transparent)]
    Full(#[from] InsufficientCapacity),
    /// A port of the host is taken.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A file, or a setting of the kernel, could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
