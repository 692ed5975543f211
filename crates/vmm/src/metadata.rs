//! Where clouds keep metadata: what they tell their machines, credentials among it. No guest gets
//! there, and no import of an image does.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses with the bits that count of them: what is link-local (RFC 3927, RFC 4291, section 2.5.6),
/// where most clouds have it and no registry ever was, and the places of those that have it elsewhere.
const RANGES: [(IpAddr, u32); 7] = [
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    // Microsoft's.
    (IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), 32),
    // Alibaba's.
    (IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), 32),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    // Amazon's, Google's and Oracle's, which are unique local addresses.
    (
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
        128,
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
        128,
    ),
    (
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
        128,
    ),
];

/// Whether metadata may be at an address.
pub(crate) fn is_at(address: IpAddr) -> bool {
    RANGES.iter().any(|(start, bits)| match (start, address) {
        (IpAddr::V4(start), IpAddr::V4(address)) => {
            (start.to_bits() ^ address.to_bits()) >> (32 - bits) == 0
        }
        (IpAddr::V6(start), IpAddr::V6(address)) => {
            (start.to_bits() ^ address.to_bits()) >> (128 - bits) == 0
        }
        _ => false,
    })
}

/// The addresses of IPv4, as elements of a set of nft(8).
pub(crate) fn elements_4() -> String {
    elements(IpAddr::is_ipv4)
}

/// The same of IPv6.
pub(crate) fn elements_6() -> String {
    elements(IpAddr::is_ipv6)
}

fn elements(is_of_family: fn(&IpAddr) -> bool) -> String {
    let mut text = String::new();
    for (start, bits) in RANGES.iter().filter(|(start, _)| is_of_family(start)) {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{start}/{bits}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_link_local_and_a_few_places_besides_are_metadata_and_their_neighbours_are_not() {
        for (place, is_metadata) in [
            ("169.254.0.0", true),
            ("169.254.169.254", true),
            ("169.254.255.255", true),
            ("169.253.255.255", false),
            ("169.255.0.0", false),
            ("168.63.129.16", true),
            ("168.63.129.15", false),
            ("100.100.100.200", true),
            ("100.100.100.201", false),
            ("fe80::", true),
            ("febf:ffff::1", true),
            ("fec0::", false),
            ("fd00:ec2::254", true),
            ("fd00:ec2::255", false),
            ("fd20:ce::254", true),
            ("fd20:ce::253", false),
            ("fd00:c1::a9fe:a9fe", true),
            ("fd00:c1::a9fe:a9ff", false),
            // The bits of 169.254.0.0, at the end and at the beginning.
            ("::a9fe:0", false),
            ("a9fe::", false),
        ] {
            assert_eq!(is_at(place.parse().unwrap()), is_metadata, "{place}");
        }
    }

    #[test]
    fn rules_name_every_one_under_its_family() {
        let expected = "169.254.0.0/16, 168.63.129.16/32, 100.100.100.200/32";
        assert_eq!(elements_4(), expected);
        assert_eq!(
            elements_6(),
            "fe80::/10, fd00:ec2::254/128, fd20:ce::254/128, fd00:c1::a9fe:a9fe/128"
        );
    }
}
