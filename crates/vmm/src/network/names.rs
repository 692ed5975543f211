//! What a bridge and its parts are called on the host.
//!
//! Two daemons on one machine must never take each other's for their own, so every name carries
//! the instance: 32 random bits that a data directory draws once and keeps. A tap device is named
//! after the address of its guest, and says in its alias which VM it belongs to.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::subnet::Subnet;
use crate::model::VmId;

/// What tells this data directory's network from all others on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Instance(String);

impl Instance {
    pub(crate) fn generate() -> Self {
        Self(hex::encode(rand::random::<[u8; 4]>()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn bridge(&self) -> String {
        format!("hb{}", self.0)
    }

    /// The bridge's own MAC address: a fixed one, since it would otherwise change with every VM.
    pub(crate) fn bridge_mac(&self) -> String {
        let pair = |at: usize| self.0.get(at..at + 2).unwrap_or("00");
        format!("02:48:{}:{}:{}:{}", pair(0), pair(2), pair(4), pair(6))
    }

    /// What the names of all tap devices begin with.
    pub(crate) fn taps(&self) -> String {
        format!("ht{}-", self.0)
    }

    /// The tap device of the guest with this address. At most 15 bytes, as the kernel demands:
    /// the last 16 bits of the address tell guests of one subnet apart.
    pub(crate) fn tap(&self, subnet: Subnet, address: Ipv4Addr) -> String {
        debug_assert!(subnet.prefix() >= 16);
        let [_, _, high, low] = address.octets();
        format!("{}{high:02x}{low:02x}", self.taps())
    }

    pub(crate) fn table(&self) -> String {
        format!("hostler_{}", self.0)
    }

    pub(crate) fn alias(&self, vm: VmId) -> String {
        format!("hostler:{}:{vm}", self.0)
    }
}

impl TryFrom<String> for Instance {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 8 && text.bytes().all(plain) {
            return Ok(Self(text));
        }
        Err(format!(
            "{text:?} is no instance: it has 8 hexadecimal digits"
        ))
    }
}

impl From<Instance> for String {
    fn from(instance: Instance) -> String {
        instance.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernel_and_carry_the_instance() {
        let instance = Instance::generate();
        let subnet: Subnet = "10.77.0.0/16".parse().unwrap();
        let tap = instance.tap(subnet, Ipv4Addr::new(10, 77, 255, 254));
        assert!(tap.ends_with("-fffe"), "{tap}");
        for name in [tap, instance.bridge()] {
            assert!(
                name.len() <= 15 && name.contains(instance.as_str()),
                "{name}"
            );
        }
        assert_eq!(instance.bridge_mac().len(), 17);
    }

    #[test]
    fn what_is_no_instance_is_not_read() {
        for text in [
            "",
            "1234567",
            "123456789",
            "1234567g",
            "12 45678",
            "1234567\n",
            "ABCDEF01",
        ] {
            assert!(Instance::try_from(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
