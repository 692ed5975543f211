//! What the fleet keeps, in the form in which its callers see it.

mod entry;
mod host;
mod key;
mod names;
mod team;
mod user;
mod vm;

pub use entry::Entry;
pub use host::{Host, HostStatus, HostType};
pub use key::ApiKeyInfo;
pub use names::{HostAddress, NameRefused, Selector, Tag, UserName, VmName};
pub use team::Team;
pub use user::{Member, Membership, Role, User};
pub(crate) use vm::HostVm;
pub use vm::{Mount, Observed, PortForward, Protocol, Vm, VmSpec, VmState};
