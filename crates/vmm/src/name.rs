//! Names: what a VM, an image, a kernel or a snapshot may be called.
//!
//! One grammar for all of them: `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`. It is a DNS label (RFC 1123
//! section 2.1, lower case only), so a name can serve as a host name, and it holds neither a slash
//! nor a dot, so that a name joined to a directory can never leave it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The grammar of every name, as a regular expression for schemas.
const PATTERN: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
const MAX_LEN: usize = 63;

/// The same in words.
const RULE: &str =
    "a name: 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends";

/// Why a string is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is not {RULE}")]
pub struct InvalidName {
    name: String,
}

fn check(name: &str) -> Result<(), InvalidName> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let valid = match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            bytes.len() <= MAX_LEN
                && plain(first)
                && plain(last)
                && bytes.iter().all(|&byte| plain(byte) || byte == b'-')
        }
        _ => false,
    };
    if valid {
        Ok(())
    } else {
        Err(InvalidName {
            name: name.to_owned(),
        })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(name: &str) -> Result<Self, InvalidName> {
                check(name).map(|()| Self(name.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(name: String) -> Result<Self, InvalidName> {
                check(&name).map(|()| Self(name))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string", "pattern": PATTERN, "maxLength": MAX_LEN, "x-rule": RULE
                })
            }
        }
    };
}

name_type! {
    /// What a VM is called on its host; unique there.
    VmName
}

name_type! {
    /// What an image or a kernel is called on its host; unique among images, or among kernels.
    ItemName
}

name_type! {
    /// What a snapshot is called; unique among those of its VM.
    SnapshotName
}

impl SnapshotName {
    /// A name for a snapshot that nobody named: when it was taken, to the microsecond.
    pub(crate) fn of(moment: jiff::Timestamp) -> Self {
        let name = moment.strftime("s-%Y%m%d-%H%M%S-%6f").to_string();
        debug_assert!(check(&name).is_ok());
        Self(name)
    }
}

impl ItemName {
    /// A name that is written in this program.
    pub(crate) fn literal(name: &'static str) -> Self {
        debug_assert!(check(name).is_ok());
        Self(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_snapshot_that_nobody_named_has_a_name_that_sorts_by_time() {
        let at = |text: &str| SnapshotName::of(text.parse().unwrap());
        let early = at("2026-11-25T22:00:00.000001Z");
        assert_eq!(early.as_str(), "s-20261125-220000-000001");
        assert!(SnapshotName::from_str(early.as_str()).is_ok());
        assert!(early < at("2026-11-25T22:00:00.5Z"));
    }

    #[test]
    fn ordinary_names_are_taken() {
        for name in ["a", "0", "web-1", "a--b", &"x".repeat(63)] {
            assert_eq!(VmName::from_str(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn what_could_leave_its_directory_is_refused() {
        let too_long = "x".repeat(64);
        for name in [
            "", ".", "..", "../etc", "a/b", "a.b", "-a", "a-", "A", "ä", "a b", "a\0", &too_long,
        ] {
            assert!(
                VmName::from_str(name).is_err(),
                "{name:?} was taken for a name"
            );
        }
    }

    #[test]
    fn a_bad_name_in_json_is_refused_with_the_rule() {
        let error = serde_json::from_str::<VmName>("\"../x\"")
            .unwrap_err()
            .to_string();
        assert!(error.contains("lower-case letters"), "{error}");
    }

    proptest! {
        #[test]
        fn every_name_is_one_component_of_a_path(text in "\\PC{0,70}") {
            if let Ok(name) = VmName::from_str(&text) {
                let path = std::path::Path::new("/data").join(name.as_str());
                prop_assert_eq!(path.components().count(), 3);
                prop_assert_eq!(path.parent(), Some(std::path::Path::new("/data")));
            }
        }

        #[test]
        fn every_string_of_the_published_pattern_is_a_name(
            text in "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?",
        ) {
            prop_assert!(VmName::from_str(&text).is_ok());
        }
    }
}
