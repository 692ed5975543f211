//! Ids: a word that says what kind of thing it is, and 25 characters of base 36.
//!
//! The 25 characters are a UUIDv7 (RFC 9562 section 5.7), so ids sort by the time at which they
//! were made, and a list in the order of ids is in the order of creation: its cursor is just an id.
//! An id is a name, never a secret; knowing one proves nothing.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 25;

/// Writes a number as 25 digits of base 36, which hold any `u128`.
fn base36(mut number: u128) -> String {
    let mut digits = [b'0'; LENGTH];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(number % 36) as usize];
        number /= 36;
    }
    digits.iter().copied().map(char::from).collect()
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $prefix:literal) => {
        $(#[$meta])*
        #[derive(
            Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(transparent)]
        #[schemars(inline)]
        pub struct $name(String);

        impl $name {
            /// A new one, greater than all that this process made before.
            pub(crate) fn generate() -> Self {
                Self(format!("{}{}", $prefix, base36(uuid::Uuid::now_v7().as_u128())))
            }

            /// An id that somebody names. That it has the form of one is not promised; what does
            /// not exist is not found.
            pub fn named(id: impl Into<String>) -> Self {
                Self(id.into())
            }

            /// Whether a text has the form of such an id.
            pub fn is_one(text: &str) -> bool {
                text.strip_prefix($prefix).is_some_and(|rest| {
                    rest.len() == LENGTH && rest.bytes().all(|b| DIGITS.contains(&b))
                })
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Names a host: `host-` and 25 base-36 digits.
    HostId, "host-"
);
id!(
    /// Names a VM of the fleet, and is the VM's name on its host: `vm-` and 25 base-36 digits.
    VmId, "vm-"
);
id!(
    /// Names a team: `team-` and 25 base-36 digits.
    TeamId, "team-"
);
id!(
    /// Names a user: `user-` and 25 base-36 digits.
    UserId, "user-"
);
id!(
    /// Names an API key (it is not the key): `key-` and 25 base-36 digits.
    KeyId, "key-"
);
id!(
    /// Names a registration entry: `entry-` and 25 base-36 digits.
    EntryId, "entry-"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_the_time_of_their_making() {
        let ids: Vec<HostId> = (0..1000).map(|_| HostId::generate()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn an_id_says_what_it_names() {
        let id = VmId::generate();
        assert!(VmId::is_one(id.as_str()), "{id}");
        for bad in [
            "vm-",
            "vm-short",
            "host-0123456789012345678901234",
            "vm-012345678901234567890123!",
            "vm-0123456789012345678901234z",
            "vm-012345678901234567890123Z",
        ] {
            assert!(!VmId::is_one(bad), "{bad} was taken for the id of a VM");
        }
    }

    #[test]
    fn base_36_holds_the_largest_number() {
        assert_eq!(base36(0), "0".repeat(25));
        assert_eq!(base36(u128::MAX), "f5lxx1zz5pnorynqglhzmsp33");
    }
}
