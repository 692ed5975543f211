//! Texts with rules: the name of a VM, a tag, a host's address, a selector of processes. What breaks
//! its rule cannot be held.

use std::fmt;

use hostler_authority::workload_api;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::ids::UserId;

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {rule}")]
pub struct NameRefused {
    text: String,
    rule: &'static str,
}

macro_rules! ruled_text {
    (
        $(#[$meta:meta])*
        $name:ident, pattern $pattern:literal, rule $rule:literal, $check:path
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameRefused;

            fn try_from(text: String) -> Result<Self, NameRefused> {
                if $check(&text) {
                    Ok(Self(text))
                } else {
                    Err(NameRefused { text, rule: $rule })
                }
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern, "x-rule": $rule })
            }
        }
    };
}

ruled_text!(
    /// The name of a VM, unique in its team; also its guest's host name (RFC 1123 section 2.1).
    VmName,
    pattern "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
    rule "a VM's name: 1 to 63 lower-case letters, digits and inner hyphens",
    is_vm_name
);
ruled_text!(
    /// The name by which a user logs in; unique. There are no capitals, so that no two differ only
    /// in them.
    UserName,
    pattern "^[a-z0-9][a-z0-9._@+-]{0,63}$",
    rule "a user's name: 1 to 64 lower-case letters, digits and ._@+- that begin with a letter or \
          digit; neither me nor the form of a user's id",
    is_user_name
);
ruled_text!(
    /// A tag of a host, by which placement and people find it.
    Tag,
    pattern "^[A-Za-z0-9][A-Za-z0-9._:=-]{0,63}$",
    rule "a tag: 1 to 64 letters, digits and ._:=- that begin with a letter or digit",
    is_tag
);
ruled_text!(
    /// Where a host's door is: `IP:PORT`, `[IPv6]:PORT` or `NAME:PORT`.
    HostAddress,
    pattern "^(\\[[0-9A-Fa-f:.]+\\]|[A-Za-z0-9.-]+):[0-9]{1,5}$",
    rule "an address: IP:PORT, [IPv6]:PORT or NAME:PORT",
    is_address
);

ruled_text!(
    /// Something that a process must match: `unix:uid:N`, `unix:gid:N`, `unix:pid:N`,
    /// `unix:path:/ABSOLUTE` or `unix:sha256:HEX`.
    Selector,
    pattern "^unix:((uid|gid|pid):[0-9]{1,10}|path:/.{1,1023}|sha256:[0-9A-Fa-f]{64})$",
    rule "a selector: unix:uid:N, unix:gid:N, unix:pid:N, unix:path:/ABSOLUTE or \
          unix:sha256:64-HEX-DIGITS",
    is_selector
);

impl Selector {
    /// The selector as a Workload API compares it.
    pub(crate) fn parsed(&self) -> workload_api::Selector {
        self.0.parse().expect("it was read once already")
    }
}

fn is_selector(text: &str) -> bool {
    text.len() <= 4096 && text.parse::<workload_api::Selector>().is_ok()
}

fn is_vm_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Where a user is named, an id or `me` may stand as well.
fn is_user_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=64).contains(&text.len())
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|b| plain(b) || b"._@+-".contains(&b))
        && text != "me"
        && !UserId::is_one(text)
}

fn is_tag(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._:=-".contains(&b))
}

fn is_address(text: &str) -> bool {
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return address.port() != 0 && !address.ip().is_unspecified();
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let looks_like_ipv4 = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    host.len() <= 253
        && !looks_like_ipv4
        && host.split('.').all(label)
        && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes<T: TryFrom<String>>(text: &str) -> bool {
        T::try_from(text.to_owned()).is_ok()
    }

    #[test]
    fn an_address_names_one_place() {
        for good in [
            "10.0.0.7:9443",
            "[::1]:9443",
            "node-1.example.org:9443",
            "localhost:1",
        ] {
            assert!(takes::<HostAddress>(good), "{good} was refused");
        }
        for bad in [
            "",
            ":9443",
            "10.0.0.7",
            "10.0.0.7:0",
            "10.0.0.7:65536",
            "0.0.0.0:9443",
            "[::]:1",
            "10.0.0:1",
            "a b:1",
            "user@host:1",
            "host:1/path",
            "-x:1",
            "host:",
            "::1:9443",
        ] {
            assert!(!takes::<HostAddress>(bad), "{bad} was taken");
        }
    }

    #[test]
    fn a_vm_is_named_as_a_host_may_be() {
        for good in ["a", "web-1", "0", &"a".repeat(63)] {
            assert!(takes::<VmName>(good), "{good} was refused");
        }
        for bad in ["", "-a", "a-", "Web", "a.b", "../a", "a b", &"a".repeat(64)] {
            assert!(!takes::<VmName>(bad), "{bad} was taken");
        }
    }

    #[test]
    fn a_user_is_never_called_like_something_else() {
        for good in ["ada", "a", "ada@example.org", "ada.l+ci", &"a".repeat(64)] {
            assert!(takes::<UserName>(good), "{good} was refused");
        }
        let id = UserId::generate();
        for bad in [
            "",
            "me",
            "Ada",
            "@ada",
            "a b",
            "a/b",
            "ä",
            id.as_str(),
            &"a".repeat(65),
        ] {
            assert!(!takes::<UserName>(bad), "{bad} was taken");
        }
    }

    #[test]
    fn a_selector_is_one_that_hosts_can_compare() {
        let digest = format!("unix:sha256:{}", "0f".repeat(32));
        for good in ["unix:uid:0", "unix:path:/usr/bin/a b", &digest] {
            assert!(takes::<Selector>(good), "{good} was refused");
        }
        for bad in [
            "",
            "uid:0",
            "unix:uid:root",
            "unix:path:nginx",
            "unix:sha256:00",
            "k8s:ns:a",
        ] {
            assert!(!takes::<Selector>(bad), "{bad} was taken");
        }
    }

    #[test]
    fn a_tag_fits_into_one_segment_of_a_path() {
        for good in ["gpu", "zone=a", "rack:7", "v1.2_x"] {
            assert!(takes::<Tag>(good), "{good} was refused");
        }
        for bad in ["", "a/b", ".a", "a b", "ä", &"a".repeat(65)] {
            assert!(!takes::<Tag>(bad), "{bad} was taken");
        }
    }
}
