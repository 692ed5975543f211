//! How VMs reach others and are reached.
//!
//! In **user mode** a VM has a network of its own inside its process, and nothing here has work
//! to do. In **bridge mode** each data directory has a bridge with a subnet of its own on the
//! host, and each VM that runs a tap device on it.

mod subnet;

pub use self::subnet::{InvalidSubnet, Subnet};
