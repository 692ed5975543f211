//! The rules of a bridge, as a text for nft(8): what goes in is who is there, what comes out is
//! everything that the host has to know of them. No I/O.
//!
//! There are two tables of our own, which are always replaced whole, in one transaction:
//!
//! - in family `bridge`, before anything else looks at a frame: a guest speaks ARP and IPv4 and
//!   only under its own two addresses; it reaches neither other guests, nor the host's loopback,
//!   nor link-local addresses, where clouds keep their metadata;
//! - in family `inet`: guests go out behind the host's address and ports of the host lead in. Of
//!   the host itself guests reach an echo and its name server, and nothing from outside reaches
//!   guests but through those ports.

use std::fmt::{self, Write};
use std::net::Ipv4Addr;

use super::leases::Lease;
use super::names::Instance;
use super::subnet::Subnet;
use crate::metadata;
use crate::model::PortForward;

/// Everything that rules depend on.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) instance: &'a Instance,
    pub(crate) subnet: Subnet,
    pub(crate) gateway: Ipv4Addr,
    /// The name server that answers guests at the gateway's address.
    pub(crate) name_server: Option<Ipv4Addr>,
    pub(crate) guests: Vec<Guest<'a>>,
}

/// A guest that runs, with the ports that lead to it.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    pub(crate) lease: &'a Lease,
    pub(crate) forwards: &'a [PortForward],
}

/// What guests never reach beside a cloud's metadata: this host as itself, and all addresses that
/// are more than one (RFC 6890).
const UNREACHABLE: &str = "0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/3";

/// The transaction that replaces both tables.
pub(crate) fn replacement(plan: &Plan<'_>) -> String {
    let mut text = removal(plan.instance);
    // Writing to a string does not fail.
    let _ = write_bridge_table(&mut text, plan);
    let _ = write_inet_table(&mut text, plan);
    text
}

/// The transaction that removes both tables, whether they are there or not.
pub(crate) fn removal(instance: &Instance) -> String {
    let table = instance.table();
    let mut text = String::new();
    for family in ["bridge", "inet"] {
        let _ = writeln!(
            text,
            "add table {family} {table}\ndelete table {family} {table}"
        );
    }
    text
}

fn write_bridge_table(text: &mut String, plan: &Plan<'_>) -> fmt::Result {
    let Plan {
        instance, subnet, ..
    } = plan;
    let (table, taps) = (instance.table(), instance.taps());
    let metadata = metadata::elements_4();
    let guests = plan.guests.iter().map(|Guest { lease, .. }| {
        let tap = instance.tap(*subnet, lease.address);
        format!("\"{tap}\" . {} . {}", lease.mac.as_str(), lease.address)
    });
    let guests: Vec<_> = guests.collect();
    writeln!(text, "table bridge {table} {{")?;
    writeln!(text, "  set guests {{")?;
    writeln!(text, "    typeof iifname . ether saddr . ip saddr")?;
    if !guests.is_empty() {
        writeln!(text, "    elements = {{ {} }}", guests.join(", "))?;
    }
    writeln!(
        text,
        "  }}
  chain prerouting {{
    type filter hook prerouting priority filter; policy accept;
    iifname \"{taps}*\" goto guest
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{taps}*\" drop
    oifname \"{taps}*\" drop
  }}
  chain guest {{
    ether type arp iifname . ether saddr . arp saddr ip @guests \
        iifname . arp saddr ether . arp saddr ip @guests accept
    ether type != ip drop
    ip daddr {{ {UNREACHABLE}, {metadata} }} drop
    iifname . ether saddr . ip saddr @guests accept
    drop
  }}
}}"
    )
}

fn write_inet_table(text: &mut String, plan: &Plan<'_>) -> fmt::Result {
    let Plan {
        instance,
        subnet,
        gateway,
        name_server,
        ..
    } = plan;
    let (table, bridge) = (instance.table(), instance.bridge());
    writeln!(text, "table inet {table} {{\n  chain prerouting {{")?;
    writeln!(
        text,
        "    type nat hook prerouting priority dstnat; policy accept;"
    )?;
    if let Some(server) = name_server {
        for protocol in ["udp", "tcp"] {
            writeln!(
                text,
                "    iifname \"{bridge}\" ip daddr {gateway} {protocol} dport 53 \
                 dnat ip to {server}:53"
            )?;
        }
    }
    let forwards = || {
        let guests = plan.guests.iter();
        guests.flat_map(|guest| guest.forwards.iter().map(|forward| (guest.lease, forward)))
    };
    for (lease, forward) in forwards().filter(|(_, forward)| !forward.bind.is_loopback()) {
        // Not for guests: a port of the host is no way from one to the other.
        let (to, meant) = (target(lease, forward), matching(forward));
        writeln!(text, "    iifname != \"{bridge}\" {meant} dnat ip to {to}")?;
    }
    writeln!(text, "  }}\n  chain output {{")?;
    writeln!(
        text,
        "    type nat hook output priority -100; policy accept;"
    )?;
    for (lease, forward) in forwards() {
        let (to, meant) = (target(lease, forward), matching(forward));
        writeln!(text, "    {meant} dnat ip to {to}")?;
    }
    writeln!(
        text,
        "  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != \"{bridge}\" masquerade
    ip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname != \"{bridge}\" accept
    ct state established,related accept
    ct status dnat accept
    ip daddr {gateway} icmp type echo-request limit rate 50/second accept
    drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{bridge}\" oifname \"{bridge}\" drop
    oifname != \"{bridge}\" accept
    ct state established,related accept
    ct status dnat accept
    drop
  }}
}}"
    )
}

fn target(lease: &Lease, forward: &PortForward) -> String {
    format!("{}:{}", lease.address, forward.guest_port)
}

/// What is meant for a forward: its port, on the address that it listens on.
fn matching(forward: &PortForward) -> String {
    let PortForward {
        host_port,
        protocol,
        bind,
        ..
    } = forward;
    if bind.is_unspecified() {
        format!("fib daddr type local {protocol} dport {host_port}")
    } else {
        format!("ip daddr {bind} {protocol} dport {host_port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Protocol, VmId};
    use crate::spec::MacAddress;

    fn lease() -> Lease {
        Lease {
            vm: VmId::generate(),
            name: "web-1".parse().unwrap(),
            address: Ipv4Addr::new(10, 77, 3, 2),
            mac: MacAddress::generate(),
        }
    }

    fn forward(bind: &str) -> PortForward {
        PortForward {
            host_port: 8080.try_into().unwrap(),
            guest_port: 80.try_into().unwrap(),
            protocol: Protocol::Tcp,
            bind: bind.parse().unwrap(),
        }
    }

    fn rules(guests: Vec<Guest<'_>>) -> String {
        replacement(&Plan {
            instance: &String::from("1a2b3c4d").try_into().unwrap(),
            subnet: "10.77.3.0/24".parse().unwrap(),
            gateway: Ipv4Addr::new(10, 77, 3, 1),
            name_server: Some(Ipv4Addr::new(192, 0, 2, 53)),
            guests,
        })
    }

    /// The lines of a chain.
    fn chain<'a>(rules: &'a str, name: &str) -> Vec<&'a str> {
        let lines = rules.lines().map(str::trim);
        let begun = lines.skip_while(|line| *line != format!("chain {name} {{"));
        begun.skip(1).take_while(|line| *line != "}").collect()
    }

    #[test]
    fn a_forward_of_the_loopback_address_is_for_the_host_alone() {
        let (lease, forwards) = (lease(), [forward("127.0.0.1")]);
        let guest = Guest {
            lease: &lease,
            forwards: &forwards,
        };
        let rules = rules(vec![guest]);
        let inet = &rules[rules.find("table inet hostler_1a2b3c4d {").unwrap()..];
        let for_guest = |chain: &[&str]| chain.iter().any(|line| line.contains("10.77.3.2:80"));
        assert!(!for_guest(&chain(inet, "prerouting")), "{rules}");
        let line = "ip daddr 127.0.0.1 tcp dport 8080 dnat ip to 10.77.3.2:80";
        assert!(chain(inet, "output").contains(&line), "{rules}");
    }

    #[test]
    fn a_forward_of_all_addresses_is_for_everybody_but_guests() {
        let (lease, forwards) = (lease(), [forward("0.0.0.0")]);
        let guest = Guest {
            lease: &lease,
            forwards: &forwards,
        };
        let rules = rules(vec![guest]);
        let line = "iifname != \"hb1a2b3c4d\" fib daddr type local tcp dport 8080 \
                    dnat ip to 10.77.3.2:80";
        assert!(rules.contains(line), "{rules}");
    }

    #[test]
    fn both_tables_go_before_they_come_and_name_only_what_is_there() {
        let empty = rules(Vec::new());
        assert!(!empty.contains("elements"), "{empty}");
        assert!(!empty.contains("10.77.3.2"), "{empty}");
        let removal = removal(&String::from("1a2b3c4d").try_into().unwrap());
        assert!(empty.starts_with(&removal));
        assert_eq!(removal.matches("delete table").count(), 2);
        let lease = lease();
        let one = rules(vec![Guest {
            lease: &lease,
            forwards: &[],
        }]);
        let element = format!("\"ht1a2b3c4d-0302\" . {} . 10.77.3.2", lease.mac.as_str());
        assert!(one.contains(&element), "{one}");
    }
}
