//! Ranges of IPv4 addresses: arithmetic, without looking at a host.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A range of IPv4 addresses in CIDR notation (RFC 4632), such as `10.77.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

/// Why a text is not a range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no range of IPv4 addresses; give one like 10.77.0.0/16")]
pub struct InvalidSubnet {
    text: String,
}

impl Subnet {
    /// The range of this size that holds the address.
    pub(crate) fn around(address: Ipv4Addr, prefix: u8) -> Self {
        debug_assert!(prefix <= 32);
        Self {
            network: (u32::from(address) & mask(prefix)).into(),
            prefix,
        }
    }

    /// Its first address, which names it.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// How many bits its addresses have in common.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the address is in it.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.network)
    }

    /// Whether some address is in both.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// The subnets of this size that it is made of, in order; none when it is smaller than that.
    pub(crate) fn parts(self, prefix: u8) -> impl ExactSizeIterator<Item = Self> + Clone {
        let count = match prefix.checked_sub(self.prefix) {
            // A range of everything has more parts than anybody will look at.
            Some(bits) => 1u32 << bits.min(24),
            None => 0,
        };
        let first = u32::from(self.network);
        (0..count as usize).map(move |index| Self {
            network: (first + ((index as u32) << (32 - prefix))).into(),
            prefix,
        })
    }

    /// The addresses that machines can have: all but the first, which names the subnet, and the
    /// last, which means all of them (RFC 1122 section 3.2.1.3).
    pub(crate) fn hosts(self) -> std::ops::Range<u32> {
        let first = u32::from(self.network);
        let last = first | !mask(self.prefix);
        let second = first.saturating_add(1);
        second..last.max(second)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX
        .checked_shl(32 - u32::from(prefix.min(32)))
        .unwrap_or(0)
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let parsed = text.split_once('/').and_then(|(address, prefix)| {
            let plain = prefix.len() <= 2 && prefix.bytes().all(|byte| byte.is_ascii_digit());
            let prefix = prefix
                .parse()
                .ok()
                .filter(|prefix| plain && *prefix <= 32)?;
            let network: Ipv4Addr = address.parse().ok()?;
            let subnet = Self::around(network, prefix);
            // An address with bits behind the prefix is a slip of somebody who meant another.
            (subnet.network == network).then_some(subnet)
        });
        parsed.ok_or_else(|| InvalidSubnet {
            text: text.to_owned(),
        })
    }
}

impl TryFrom<String> for Subnet {
    type Error = InvalidSubnet;

    fn try_from(text: String) -> Result<Self, InvalidSubnet> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl JsonSchema for Subnet {
    fn schema_name() -> Cow<'static, str> {
        "Subnet".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A range of IPv4 addresses in CIDR notation.",
            "pattern": "^[0-9.]{7,15}/[0-9]{1,2}$",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_read_as_it_is_written() {
        for text in ["10.77.0.0/16", "0.0.0.0/0", "192.0.2.7/32", "10.77.5.0/24"] {
            assert_eq!(subnet(text).to_string(), text);
        }
        for text in [
            "",
            "10.77.0.0",
            "10.77.0.0/33",
            "10.77.0.0/+8",
            "10.77.0.1/16",
            "10.77.0/16",
            "::/0",
            "10.77.0.0/",
            "10.77.0.0/016",
            "/8",
        ] {
            let error = text.parse::<Subnet>().unwrap_err().to_string();
            assert!(error.contains("10.77.0.0/16"), "{error}");
        }
    }

    #[test]
    fn a_range_is_made_of_its_parts() {
        let parts: Vec<_> = subnet("10.77.0.0/22").parts(24).collect();
        assert_eq!(parts.len(), 4);
        assert_eq!(parts[3], subnet("10.77.3.0/24"));
        assert_eq!(subnet("10.77.0.0/16").parts(24).len(), 256);
        assert_eq!(
            subnet("10.77.1.0/24").parts(24).collect::<Vec<_>>(),
            [subnet("10.77.1.0/24")]
        );
        assert_eq!(subnet("10.77.1.0/28").parts(24).len(), 0);
    }

    #[test]
    fn machines_have_neither_the_first_nor_the_last_address() {
        let hosts = subnet("10.77.1.0/24").hosts();
        assert_eq!(Ipv4Addr::from(hosts.start), Ipv4Addr::new(10, 77, 1, 1));
        assert_eq!(Ipv4Addr::from(hosts.end - 1), Ipv4Addr::new(10, 77, 1, 254));
        assert_eq!(subnet("10.77.1.0/31").hosts().len(), 0);
        assert_eq!(subnet("255.255.255.255/32").hosts().len(), 0);
    }

    proptest! {
        #[test]
        fn two_ranges_overlap_when_one_holds_the_others_end(
            a: u32, b: u32, size_a in 0u8..33, size_b in 0u8..33,
        ) {
            let (one, other) = (Subnet::around(a.into(), size_a), Subnet::around(b.into(), size_b));
            let ends = |s: Subnet| {
                let first = u32::from(s.network());
                (first, first | !mask(s.prefix()))
            };
            let ((a0, a1), (b0, b1)) = (ends(one), ends(other));
            prop_assert_eq!(one.overlaps(other), a0 <= b1 && b0 <= a1);
            prop_assert_eq!(one.overlaps(other), other.overlaps(one));
            prop_assert!(one.contains(a.into()));
        }

        #[test]
        fn no_text_is_too_strange_to_be_read(text in "[0-9./]{0,20}") {
            if let Ok(read) = text.parse::<Subnet>() {
                prop_assert_eq!(read.to_string().parse::<Subnet>(), Ok(read));
            }
        }
    }
}
