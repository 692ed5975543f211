//! Port forwards in QEMU's words.
//!
//! At run time they exist only in the human monitor, whose answers are texts: nothing when a rule
//! was added, a sentence in every other case, and all of them count as success to QMP. So only the
//! exact texts that mean success are taken for it.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;

use crate::driver::LinkError;
use crate::model::{PortForward, Protocol};

/// The name of the network that rules belong to.
pub(crate) const NETDEV: &str = "n0";

const ADD: &str = "hostfwd_add";
const REMOVE: &str = "hostfwd_remove";
const LIST: &str = "info usernet";

/// A rule as `-netdev user,hostfwd=` and `hostfwd_add` take it: `tcp:127.0.0.1:8080-:80`.
pub(crate) fn rule(forward: &PortForward) -> String {
    format!("{}-:{}", listener(forward), forward.guest_port)
}

/// The side of a rule that is on the host, by which it is removed.
fn listener(
    PortForward {
        bind,
        host_port,
        protocol,
        ..
    }: &PortForward,
) -> String {
    format!("{protocol}:{bind}:{host_port}")
}

pub(crate) fn add_command(forward: &PortForward) -> String {
    format!("{ADD} {NETDEV} {}", rule(forward))
}

/// Understands the answer to [`add_command`]. `first_port` is the first that QEMU may open.
pub(crate) fn added(forward: &PortForward, answer: &str, first_port: u16) -> Result<(), LinkError> {
    let port = forward.host_port.get();
    let message = match answer.trim() {
        "" => return Ok(()),
        // QEMU says in the same words whatever kept it from opening a port.
        message if port < first_port => format!(
            "{message}: a VM that runs opens no port below {first_port}, because its process is \
             not root; stop the VM, add the port and start it, or take a higher port"
        ),
        message => message.to_owned(),
    };
    Err(LinkError::Refused {
        command: ADD,
        message,
    })
}

pub(crate) fn remove_command(forward: &PortForward) -> String {
    format!("{REMOVE} {NETDEV} {}", listener(forward))
}

/// Understands the answer to [`remove_command`]. A rule that is not there was removed.
pub(crate) fn removed(forward: &PortForward, answer: &str) -> Result<(), LinkError> {
    let rule = listener(forward);
    let answer = answer.trim();
    if answer == format!("host forwarding rule for {rule} removed")
        || answer == format!("host forwarding rule for {rule} not found")
    {
        return Ok(());
    }
    Err(LinkError::Refused {
        command: REMOVE,
        message: answer.to_owned(),
    })
}

pub(crate) fn list_command() -> &'static str {
    LIST
}

/// Reads the rules in the table that `info usernet` prints; its other lines are connections.
///
/// ```text
/// Hub -1 (n0):
///   Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
///   TCP[HOST_FORWARD]  12       127.0.0.1  8080       10.0.2.15    80     0     0
/// ```
pub(crate) fn listed(answer: &str) -> Result<Vec<PortForward>, LinkError> {
    let unknown = |line: &str| LinkError::Unknown {
        command: LIST,
        answer: line.trim().to_owned(),
    };
    let rules = answer
        .lines()
        .filter(|line| line.contains("[HOST_FORWARD]"));
    rules
        .map(|line| listed_rule(line).ok_or_else(|| unknown(line)))
        .collect()
}

fn listed_rule(line: &str) -> Option<PortForward> {
    let columns: Vec<&str> = line.split_ascii_whitespace().collect();
    let [
        kind,
        _fd,
        bind,
        host_port,
        _guest,
        guest_port,
        _received,
        _sent,
    ] = columns[..]
    else {
        return None;
    };
    let protocol = match kind {
        "TCP[HOST_FORWARD]" => Protocol::Tcp,
        "UDP[HOST_FORWARD]" => Protocol::Udp,
        _ => return None,
    };
    let bind = if bind == "*" {
        Ipv4Addr::UNSPECIFIED
    } else {
        bind.parse().ok()?
    };
    let port = |text: &str| text.parse::<NonZeroU16>().ok();
    Some(PortForward {
        host_port: port(host_port)?,
        guest_port: port(guest_port)?,
        protocol,
        bind,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn forward() -> PortForward {
        PortForward {
            host_port: 8080.try_into().unwrap(),
            guest_port: 80.try_into().unwrap(),
            protocol: Protocol::Tcp,
            bind: Ipv4Addr::LOCALHOST,
        }
    }

    #[test]
    fn only_silence_means_that_a_rule_was_added() {
        assert_eq!(
            add_command(&forward()),
            "hostfwd_add n0 tcp:127.0.0.1:8080-:80"
        );
        assert!(added(&forward(), "", 0).is_ok());
        assert!(added(&forward(), "\r\n", 0).is_ok());
        for failure in [
            "Could not set up host forwarding rule 'tcp:127.0.0.1:8080-:80'\r\n",
            "Invalid host forwarding rule 'tcp:127.0.0.1:8080-:x' (Bad host port)\r\n",
            "unrecognized netdev id 'n0'\r\n",
        ] {
            let error = added(&forward(), failure, 0).unwrap_err().to_string();
            assert!(error.contains(failure.trim()), "{error}");
            assert!(!error.contains("below"), "{error}");
        }
    }

    #[test]
    fn a_port_that_only_root_may_open_is_refused_with_what_to_do() {
        let low = PortForward {
            host_port: 80.try_into().unwrap(),
            ..forward()
        };
        let failure = "Could not set up host forwarding rule 'tcp:127.0.0.1:80-:80'\r\n";
        let error = added(&low, failure, 1024).unwrap_err().to_string();
        assert!(
            error.contains("no port below 1024") && error.contains("stop the VM"),
            "{error}"
        );
        assert!(added(&low, "", 1024).is_ok());
        let error = added(&forward(), failure, 1024).unwrap_err().to_string();
        assert!(!error.contains("below"), "{error}");
    }

    #[test]
    fn a_rule_that_is_gone_counts_as_removed_and_nothing_else_does() {
        let forward = forward();
        assert_eq!(
            remove_command(&forward),
            "hostfwd_remove n0 tcp:127.0.0.1:8080"
        );
        let rule = "host forwarding rule for tcp:127.0.0.1:8080";
        assert!(removed(&forward, &format!("{rule} removed\r\n")).is_ok());
        assert!(removed(&forward, &format!("{rule} not found\r\n")).is_ok());
        assert!(removed(&forward, "").is_err());
        let other = "host forwarding rule for tcp:127.0.0.1:9090 removed\r\n";
        assert!(removed(&forward, other).is_err());
    }

    #[test]
    fn the_table_gives_the_rules_and_skips_connections() {
        let table = "Hub -1 (n0):\r\n  \
            Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n  \
            TCP[ESTABLISHED]   14       127.0.0.1  8080       10.0.2.15    80     0     0\r\n  \
            TCP[HOST_FORWARD]  12       127.0.0.1  8080       10.0.2.15    80     0     0\r\n  \
            UDP[HOST_FORWARD]  13               *  5353       10.0.2.15    53     0     0\r\n";
        let udp = PortForward {
            host_port: 5353.try_into().unwrap(),
            guest_port: 53.try_into().unwrap(),
            protocol: Protocol::Udp,
            bind: Ipv4Addr::UNSPECIFIED,
        };
        assert_eq!(listed(table).unwrap(), [forward(), udp]);
        assert_eq!(listed("").unwrap(), []);
    }

    #[test]
    fn a_table_of_another_form_is_not_guessed_at() {
        assert!(listed("TCP[HOST_FORWARD] 12 127.0.0.1 8080").is_err());
        assert!(listed("ICMP[HOST_FORWARD] 12 127.0.0.1 8080 10.0.2.15 80 0 0").is_err());
    }

    prop_compose! {
        fn any_forward()(
            host_port in 1u16.., guest_port in 1u16.., udp: bool, bind: [u8; 4],
        ) -> PortForward {
            PortForward {
                host_port: host_port.try_into().unwrap(),
                guest_port: guest_port.try_into().unwrap(),
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                bind: bind.into(),
            }
        }
    }

    proptest! {
        #[test]
        fn every_rule_is_read_back_from_the_table(forward in any_forward()) {
            let kind = forward.protocol.to_string().to_uppercase();
            let bind = match forward.bind {
                Ipv4Addr::UNSPECIFIED => "*".to_owned(),
                bind => bind.to_string(),
            };
            let table = format!(
                "  {kind}[HOST_FORWARD]  12 {bind:>15} {:>5} {:>15} {:>5}     0     0\r\n",
                forward.host_port, "10.0.2.15", forward.guest_port,
            );
            prop_assert_eq!(listed(&table).unwrap(), [forward]);
        }

        #[test]
        fn no_answer_is_too_strange_to_be_refused(answer in "\\PC*") {
            let _ = listed(&answer);
            let added = added(&forward(), &answer, 1024);
            prop_assert_eq!(added.is_ok(), answer.trim().is_empty());
            prop_assert!(removed(&forward(), &answer).is_err());
        }
    }
}
