//! The scopes that the fleet's operations ask for, and the words by which an API key is given them.

use hostler_operations::{Grants, Scope};

use crate::words::words;

pub(crate) const HOSTS_READ: Scope = Scope::new("hosts:read");
pub(crate) const HOSTS_WRITE: Scope = Scope::new("hosts:write");
pub(crate) const VMS_READ: Scope = Scope::new("vms:read");
pub(crate) const VMS_WRITE: Scope = Scope::new("vms:write");
pub(crate) const VMS_EXEC: Scope = Scope::new("vms:exec");
pub(crate) const IMAGES_READ: Scope = Scope::new("images:read");
pub(crate) const IMAGES_WRITE: Scope = Scope::new("images:write");
pub(crate) const KEYS_WRITE: Scope = Scope::new("keys:write");
pub(crate) const ENTRIES_READ: Scope = Scope::new("entries:read");
pub(crate) const ENTRIES_WRITE: Scope = Scope::new("entries:write");
pub(crate) const AUTHORITY_WRITE: Scope = Scope::new("authority:write");
pub(crate) const AUDIT_READ: Scope = Scope::new("audit:read");
/// What an enrolled host may do about itself, and all that it may do.
pub(crate) const HOST_SELF: Scope = Scope::new("host:self");

words! {
    /// What an API key may be allowed to do.
    pub enum KeyScope {
        /// Everything, now and in later versions; only for keys of the platform.
        Admin = "admin",
        /// See hosts.
        HostsRead = "hosts:read",
        /// Create, tag, cordon and delete hosts, and issue their registration tokens.
        HostsWrite = "hosts:write",
        /// See VMs.
        VmsRead = "vms:read",
        /// Create, start, stop and delete VMs and forward their ports.
        VmsWrite = "vms:write",
        /// Run commands in VMs, as root, and read and write their files.
        VmsExec = "vms:exec",
        /// See images and kernels.
        ImagesRead = "images:read",
        /// Pull, import and delete images and kernels.
        ImagesWrite = "images:write",
        /// Manage teams and API keys, up to what the key itself may do.
        KeysWrite = "keys:write",
        /// See which processes have which identities; only for keys of the platform.
        EntriesRead = "entries:read",
        /// Give processes identities, and take them back; only for keys of the platform.
        EntriesWrite = "entries:write",
        /// Rotate the authority's keys; only for keys of the platform.
        AuthorityWrite = "authority:write",
        /// See who changed what; only for keys of the platform.
        AuditRead = "audit:read",
    }
}

/// What these words grant together.
pub(crate) fn grants(scopes: &[KeyScope]) -> Grants {
    if scopes.contains(&KeyScope::Admin) {
        return Grants::All;
    }
    scopes
        .iter()
        .map(|scope| Scope::new(scope.as_str()))
        .collect()
}
