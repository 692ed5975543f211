//! The scopes that the fleet's operations ask for, the words by which an API key is given them, and
//! what each role in a team comes to.

use hostler_operations::{Grants, Identity, Scope};

use crate::model::Role;
use crate::words::words;

pub(crate) const HOSTS_READ: Scope = Scope::new("hosts:read");
pub(crate) const HOSTS_WRITE: Scope = Scope::new("hosts:write");
pub(crate) const VMS_READ: Scope = Scope::new("vms:read");
pub(crate) const VMS_WRITE: Scope = Scope::new("vms:write");
pub(crate) const VMS_EXEC: Scope = Scope::new("vms:exec");
pub(crate) const IMAGES_READ: Scope = Scope::new("images:read");
pub(crate) const IMAGES_WRITE: Scope = Scope::new("images:write");
pub(crate) const KEYS_WRITE: Scope = Scope::new("keys:write");
pub(crate) const TEAMS_READ: Scope = Scope::new("teams:read");
pub(crate) const MEMBERS_WRITE: Scope = Scope::new("members:write");
pub(crate) const USERS_READ: Scope = Scope::new("users:read");
pub(crate) const USERS_WRITE: Scope = Scope::new("users:write");
pub(crate) const ENTRIES_READ: Scope = Scope::new("entries:read");
pub(crate) const ENTRIES_WRITE: Scope = Scope::new("entries:write");
pub(crate) const AUTHORITY_WRITE: Scope = Scope::new("authority:write");
pub(crate) const AUDIT_READ: Scope = Scope::new("audit:read");
/// Call the operations of APIs that the operator has attached.
pub const ATTACHED_CALL: Scope = Scope::new("attached:call");
/// What everybody may do about themselves who has logged in with a password. No key has it, so that a
/// key that got lost cannot change the password of its maker.
pub(crate) const USER_SELF: Scope = Scope::new("user:self");
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
        /// See one's team and who is in it; keys of the platform: all teams.
        TeamsRead = "teams:read",
        /// Put users into a team and take them out, up to what the key itself may do.
        MembersWrite = "members:write",
        /// With `members:write`: make and unmake owners of a team.
        OwnersWrite = "owners:write",
        /// See users; only for keys of the platform.
        UsersRead = "users:read",
        /// Create and delete users who are no admins; only for keys of the platform.
        UsersWrite = "users:write",
        /// See which processes have which identities; only for keys of the platform.
        EntriesRead = "entries:read",
        /// Give processes identities, and take them back; only for keys of the platform.
        EntriesWrite = "entries:write",
        /// Rotate the authority's keys; only for keys of the platform.
        AuthorityWrite = "authority:write",
        /// See who changed what; only for keys of the platform.
        AuditRead = "audit:read",
        /// Call the operations of attached APIs; only the platform gives a key this.
        AttachedCall = "attached:call",
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

/// What a role in a team comes to.
pub(crate) fn of_role(role: Role) -> &'static [KeyScope] {
    use KeyScope::{
        HostsRead, HostsWrite, ImagesRead, ImagesWrite, KeysWrite, MembersWrite, OwnersWrite,
        TeamsRead, VmsExec, VmsRead, VmsWrite,
    };
    match role {
        Role::Member => &[HostsRead, VmsRead, VmsWrite, VmsExec, ImagesRead, TeamsRead],
        Role::Admin => &[
            HostsRead,
            VmsRead,
            VmsWrite,
            VmsExec,
            ImagesRead,
            TeamsRead,
            HostsWrite,
            ImagesWrite,
            KeysWrite,
            MembersWrite,
        ],
        Role::Owner => &[
            HostsRead,
            VmsRead,
            VmsWrite,
            VmsExec,
            ImagesRead,
            TeamsRead,
            HostsWrite,
            ImagesWrite,
            KeysWrite,
            MembersWrite,
            OwnersWrite,
        ],
    }
}

/// What is granted both here and there.
pub(crate) fn common(one: Grants, other: Grants) -> Grants {
    match (one, other) {
        (Grants::All, rest) | (rest, Grants::All) => rest,
        (Grants::Only(one), Grants::Only(other)) => {
            Grants::Only(one.intersection(&other).cloned().collect())
        }
    }
}

/// The first of these scopes that the caller does not hold, and so cannot give away.
pub(crate) fn lacking(identity: Option<&Identity>, scopes: &[KeyScope]) -> Option<KeyScope> {
    let grants = identity.map(Identity::grants);
    let holds = |scope: KeyScope| match grants {
        Some(Grants::All) => true,
        Some(grants) => scope != KeyScope::Admin && grants.holds(&Scope::new(scope.as_str())),
        None => false,
    };
    scopes.iter().copied().find(|scope| !holds(*scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_the_next_may_and_none_is_an_admin_of_the_platform() {
        let of = |role| grants(of_role(role));
        assert_eq!(common(of(Role::Owner), of(Role::Admin)), of(Role::Admin));
        assert_eq!(common(of(Role::Admin), of(Role::Member)), of(Role::Member));
        for role in Role::ALL {
            assert!(matches!(of(*role), Grants::Only(_)), "{role}");
        }
    }

    #[test]
    fn what_is_common_is_no_more_than_either() {
        let some = grants(&[KeyScope::VmsRead, KeyScope::HostsRead]);
        assert_eq!(common(Grants::All, some.clone()), some);
        let member = grants(of_role(Role::Member));
        let wanted = grants(&[KeyScope::VmsRead, KeyScope::KeysWrite]);
        assert_eq!(common(wanted, member), grants(&[KeyScope::VmsRead]));
    }
}
