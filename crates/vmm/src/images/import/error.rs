//! Why an image was not imported.

use crate::files::StorageError;
use crate::images::ext4::Ext4Error;
use crate::name::ItemName;
use crate::tool::ToolError;

/// An image was not imported, and nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportImageError {
    /// The source is not there, or no source.
    #[error("{source_text:?}: {problem}")]
    Source {
        source_text: String,
        problem: String,
    },
    /// A registry did not give it.
    #[error("the registry of {source_text}: {problem}")]
    Registry {
        source_text: String,
        problem: String,
    },
    /// A registry cannot be reached, is busy, or broke off; the same may work later.
    #[error("the registry of {source_text}: {problem}")]
    RegistryAway {
        source_text: String,
        problem: String,
    },
    /// It is damaged, hostile, or for another machine.
    #[error("{source_text} is no image that can be taken: {problem}")]
    Image {
        source_text: String,
        problem: String,
    },
    /// No program would run in it.
    #[error("{source_text} has no /sbin/init; give an image that can boot by itself")]
    NoInit { source_text: String },
    /// A size that makes no sense.
    #[error("size_mb is {size_mb}; it must be between 32 and 1048576")]
    Size { size_mb: u64 },
    /// A size that is too small.
    #[error("size_mb is {size_mb}; what is in {source_text} needs {needed_mb}")]
    TooSmall {
        source_text: String,
        size_mb: u64,
        needed_mb: u64,
    },
    /// An image of that name is there.
    #[error("an image named {name} is on this host already; choose another name, or delete it")]
    Exists { name: ItemName },
    #[error(transparent)]
    Ext4(#[from] Ext4Error),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}
