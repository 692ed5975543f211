//! The rules of enrolment, without clock or storage: how long a registration token lives, what it
//! may be bound to, and whether whoever brings it fits.

use std::fmt;
use std::net::IpAddr;

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// How long a registration token can be used.
pub const REGISTRATION_TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(1);

/// A range of addresses, `10.0.0.0/8` or `fd00::/8` (RFC 4632 section 3.1, RFC 4291 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a range of addresses: write ADDRESS/BITS, for example 10.0.0.0/8")]
pub struct CidrRefused(String);

/// An address as a number with its width, so that both families are compared alike. IPv4 inside
/// IPv6 (`::ffff:10.0.0.1`) is IPv4.
fn bits(address: IpAddr) -> (u128, u8) {
    match address.to_canonical() {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

impl Cidr {
    /// Whether the address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (network, width) = bits(self.network);
        let (address, its_width) = bits(address);
        let host_bits = 128 - u32::from(self.prefix);
        // A shift by all 128 bits does not exist; a range of everything needs no comparison.
        width == its_width && (network ^ address).checked_shr(host_bits).unwrap_or(0) == 0
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrRefused;

    fn try_from(text: String) -> Result<Self, CidrRefused> {
        let parsed = text.split_once('/').and_then(|(network, prefix)| {
            let network: IpAddr = network.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            (prefix <= bits(network).1).then_some(Self { network, prefix })
        });
        parsed.ok_or(CidrRefused(text))
    }
}

impl From<Cidr> for String {
    fn from(cidr: Cidr) -> Self {
        cidr.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl JsonSchema for Cidr {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9A-Fa-f:.]+/[0-9]{1,3}$" })
    }
}

/// What a registration token is bound to. Whoever brings it must fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TokenBinding {
    /// Where the registration must come from.
    pub(crate) cidr: Option<Cidr>,
    /// The architecture that the machine must have.
    pub(crate) arch: Option<String>,
}

/// How a registration does not fit its token's binding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("this token may only be used from {0}")]
    Elsewhere(Cidr),
    #[error("this token is for a machine of the architecture {0}")]
    OtherArch(String),
}

impl TokenBinding {
    /// Compares the binding with where a registration comes from and what it says of the machine.
    /// What is bound and not known does not fit.
    pub(crate) fn check(&self, from: Option<IpAddr>, arch: Option<&str>) -> Result<(), Unfit> {
        if let Some(cidr) = self.cidr
            && !from.is_some_and(|from| cidr.contains(from))
        {
            return Err(Unfit::Elsewhere(cidr));
        }
        match &self.arch {
            Some(bound) if arch != Some(bound) => Err(Unfit::OtherArch(bound.clone())),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        Cidr::try_from(text.to_owned()).expect(text)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect(text)
    }

    #[test]
    fn a_range_contains_its_addresses_and_no_others() {
        let ten = cidr("10.0.0.0/8");
        assert!(ten.contains(ip("10.255.0.1")) && ten.contains(ip("::ffff:10.0.0.1")));
        assert!(!ten.contains(ip("11.0.0.1")) && !ten.contains(ip("a00::1")));
        assert!(cidr("192.0.2.7/32").contains(ip("192.0.2.7")));
        assert!(!cidr("192.0.2.7/32").contains(ip("192.0.2.6")));
        assert!(cidr("0.0.0.0/0").contains(ip("203.0.113.9")));
        assert!(!cidr("0.0.0.0/0").contains(ip("2001:db8::1")));
        assert!(cidr("::/0").contains(ip("2001:db8::1")));
        assert!(cidr("2001:db8::/33").contains(ip("2001:db8:7fff::1")));
        assert!(!cidr("2001:db8::/33").contains(ip("2001:db8:8000::1")));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0/8",
            "a/8",
            "1.2.3.4/-1",
        ] {
            assert!(Cidr::try_from(bad.to_owned()).is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn what_a_token_is_bound_to_must_be_known_and_fit() {
        let bound = TokenBinding {
            cidr: Some(cidr("10.0.0.0/8")),
            arch: Some("x86_64".into()),
        };
        assert_eq!(bound.check(Some(ip("10.1.1.1")), Some("x86_64")), Ok(()));
        assert!(matches!(
            bound.check(None, Some("x86_64")),
            Err(Unfit::Elsewhere(_))
        ));
        assert!(matches!(
            bound.check(Some(ip("192.0.2.1")), Some("x86_64")),
            Err(Unfit::Elsewhere(_))
        ));
        for arch in [None, Some("aarch64")] {
            let unfit = bound.check(Some(ip("10.1.1.1")), arch);
            assert!(matches!(unfit, Err(Unfit::OtherArch(_))), "{unfit:?}");
        }
        assert_eq!(TokenBinding::default().check(None, None), Ok(()));
    }
}
