//! What the host has to allow, and what is read of it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

/// What the daemon needs (capabilities(7)): to make rules, to let a process become another user,
/// and to end one that has.
const NEEDED: [(&str, u32); 4] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_SETUID", 7),
    ("CAP_SETGID", 6),
    ("CAP_KILL", 5),
];

/// Finds out whether processes of ours may become this user; the reason for people if not. A root
/// that is one only in a namespace of its own may lack something.
pub(super) fn check(user: u32) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("the daemon does not run as root".to_owned());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing(&status);
    if !missing.is_empty() {
        return Err(format!("the daemon has no {}", missing.join(" and no ")));
    }
    for map in ["uid_map", "gid_map"] {
        let known = fs::read_to_string(Path::new("/proc/self").join(map)).unwrap_or_default();
        if !is_mapped(&known, user) {
            return Err(format!("the daemon's namespace has no user {user}"));
        }
    }
    Ok(())
}

/// Reads `/proc/self/status` (proc(5)).
fn missing(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let lacks = |number: u32| held.unwrap_or(0) & (1 << number) == 0;
    let missing = NEEDED.iter().filter(|(_, number)| lacks(*number));
    missing.map(|(name, _)| *name).collect()
}

/// Reads `/proc/self/uid_map` (user_namespaces(7)): first id inside, first outside, how many.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let numbers = line.split_ascii_whitespace();
        let numbers: Vec<u64> = numbers.filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [inside, _, count] if (inside..inside + count).contains(&id.into()))
    })
}

/// The host's name servers. QEMU takes what guests ask their own to the first of a family.
pub(super) fn name_servers() -> Vec<IpAddr> {
    listed(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

/// Reads resolv.conf(5).
fn listed(resolv_conf: &str) -> Vec<IpAddr> {
    let lines = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    // A link-local address comes with the interface that it is on.
    let addresses = lines.filter_map(|word| word.split('%').next()?.parse().ok());
    let dialled = addresses.map(|address| match address {
        // Whoever dials no address at all gets to the host itself.
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        address => address,
    });
    dialled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_that_the_namespace_does_not_know_is_not_to_be_had() {
        assert!(is_mapped("         0          0 4294967295\n", 966_001));
        let rootless = "         0       1000          1\n         1     100000      65536\n";
        assert!(!is_mapped(rootless, 966_001));
        assert!(is_mapped(rootless, 65_536));
        assert!(!is_mapped("", 0));
    }

    #[test]
    fn a_root_without_its_rights_is_told_which() {
        assert!(missing("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
        // What a container has unless it is given more.
        assert_eq!(missing("CapEff:\t00000000a80425fb\n"), ["CAP_NET_ADMIN"]);
        assert_eq!(missing("").len(), 4);
    }

    #[test]
    fn name_servers_are_found_wherever_they_are() {
        let text = "# x\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nsearch a.example\n\
                    nameserver 0.0.0.0\nnameserver example\nnameserver\n";
        let expected: [IpAddr; 3] = [
            "127.0.0.53".parse().unwrap(),
            "fe80::1".parse().unwrap(),
            "127.0.0.1".parse().unwrap(),
        ];
        assert_eq!(listed(text), expected);
    }
}
