//! What guests in user mode are kept from, as a text for nft(8). No I/O.
//!
//! Such a guest's packets are its process's own, so they are known by who sends them: the user that
//! all these processes are. The kernel takes that user from the moment when a socket is made, so
//! one socket is missed: a port that leads in over UDP is opened while QEMU is still root, and the
//! guest can send from it to anybody. It is known by its address and port instead.

use std::fmt::{self, Write};
use std::net::IpAddr;

use crate::metadata;
use crate::model::{PortForward, Protocol};

/// Everything that the rules depend on.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) table: &'a str,
    /// Whose it is, as a comment of its first rule.
    pub(super) owner: Option<&'a str>,
    /// The user that guests' processes are.
    pub(super) user: u32,
    /// The name servers of the host, to which QEMU takes what guests ask theirs.
    pub(super) name_servers: &'a [IpAddr],
    /// The bridge of this host, on which VMs may still be that were started when it was chosen.
    pub(super) bridge: Option<&'a str>,
    /// Ports that lead in.
    pub(super) forwards: Vec<PortForward>,
}

/// What goes nowhere, not even as an answer, beside a cloud's metadata: addresses that are more than
/// one or none (RFC 6890).
const UNREACHABLE_4: &str = "0.0.0.0/8, 224.0.0.0/3";
/// The same (RFC 4291).
const UNREACHABLE_6: &str = "ff00::/8";

/// The last rule: that of the table which is there is whole when this is.
pub(super) const LAST: &str = "fib daddr type local drop";

/// The transaction that replaces the table.
pub(super) fn replacement(plan: &Plan<'_>) -> String {
    let mut text = removal(plan.table);
    // Writing to a string does not fail.
    let _ = write_table(&mut text, plan);
    text
}

/// The transaction that removes the table, whether it is there or not.
pub(super) fn removal(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

fn write_table(text: &mut String, plan: &Plan<'_>) -> fmt::Result {
    let Plan { table, user, .. } = plan;
    let owner = plan.owner.map(|owner| format!(" comment \"{owner}\""));
    let owner = owner.unwrap_or_default();
    // Before anybody's port forwards (dstnat) change where a packet goes: what counts is whom the
    // guest asked for.
    writeln!(
        text,
        "table inet {table} {{
  chain output {{
    type filter hook output priority mangle; policy accept;
    meta skuid {user} goto guest{owner}"
    )?;
    for forward in &plan.forwards {
        if forward.protocol == Protocol::Udp {
            let (bind, port) = (forward.bind, forward.host_port);
            let from = match bind.is_unspecified() {
                true => String::new(),
                false => format!("ip saddr {bind} "),
            };
            writeln!(text, "    {from}udp sport {port} meta skuid 0 goto guest")?;
        }
    }
    writeln!(text, "  }}\n  chain guest {{")?;
    for server in plan.name_servers {
        let family = if server.is_ipv4() { "ip" } else { "ip6" };
        writeln!(
            text,
            "    {family} daddr {server} meta l4proto {{ tcp, udp }} th dport 53 accept"
        )?;
    }
    let (metadata_4, metadata_6) = (metadata::elements_4(), metadata::elements_6());
    writeln!(
        text,
        "    ip daddr {{ {UNREACHABLE_4}, {metadata_4} }} drop
    ip6 daddr {{ {UNREACHABLE_6}, {metadata_6} }} drop
    ct state established,related accept"
    )?;
    if let Some(bridge) = plan.bridge {
        writeln!(text, "    oifname \"{bridge}\" drop")?;
    }
    writeln!(text, "    {LAST}\n  }}\n}}")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn forward(protocol: Protocol, bind: Ipv4Addr) -> PortForward {
        PortForward {
            host_port: 5353.try_into().unwrap(),
            guest_port: 53.try_into().unwrap(),
            protocol,
            bind,
        }
    }

    fn rules(name_servers: &[IpAddr], forwards: Vec<PortForward>) -> String {
        replacement(&Plan {
            table: "hostler_user_1a2b3c4d",
            owner: None,
            user: 966_001,
            name_servers,
            bridge: Some("hb1a2b3c4d"),
            forwards,
        })
    }

    #[test]
    fn the_name_server_comes_before_what_is_out_of_reach() {
        let servers = ["127.0.0.53".parse().unwrap(), "::1".parse().unwrap()];
        let rules = rules(&servers, Vec::new());
        let at = |text: &str| {
            rules
                .find(text)
                .unwrap_or_else(|| panic!("{text}: {rules}"))
        };
        let server = at("ip daddr 127.0.0.53 meta l4proto { tcp, udp } th dport 53 accept");
        assert!(server < at("169.254.0.0/16"));
        assert!(at("ip6 daddr ::1 meta") < at("fe80::/10"));
        assert!(at("169.254.0.0/16") < at("ct state established"));
        assert!(at("ct state established") < at(LAST));
        assert!(at("delete table inet hostler_user_1a2b3c4d") < at("chain output"));
    }

    #[test]
    fn a_port_over_udp_is_no_way_around_the_rules() {
        let any = Ipv4Addr::UNSPECIFIED;
        let rules = rules(
            &[],
            vec![
                forward(Protocol::Tcp, Ipv4Addr::LOCALHOST),
                forward(Protocol::Udp, Ipv4Addr::LOCALHOST),
                forward(Protocol::Udp, any),
            ],
        );
        let lines = rules.lines().map(str::trim);
        let gotos: Vec<_> = lines.filter(|line| line.ends_with("goto guest")).collect();
        let expected = [
            "meta skuid 966001 goto guest",
            "ip saddr 127.0.0.1 udp sport 5353 meta skuid 0 goto guest",
            "udp sport 5353 meta skuid 0 goto guest",
        ];
        assert_eq!(gotos, expected);
    }
}
