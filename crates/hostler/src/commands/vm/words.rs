//! What people write for a mount, a forward and a restart policy, in one word each.

use std::net::Ipv4Addr;
use std::str::FromStr;

use serde_json::{Value, json};

/// `/srv/data:data`, or `/srv/data:data:ro`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    host_path: String,
    guest_tag: String,
    read_only: bool,
}

impl FromStr for Mount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not HOST_DIR:TAG, such as /srv/data:data or /srv/data:data:ro");
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let (host_path, guest_tag) = rest.rsplit_once(':').ok_or_else(wrong)?;
        if !host_path.starts_with('/') || guest_tag.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            host_path: host_path.to_owned(),
            guest_tag: guest_tag.to_owned(),
            read_only,
        })
    }
}

impl Mount {
    pub(super) fn to_json(&self) -> Value {
        let Self {
            host_path,
            guest_tag,
            read_only,
        } = self;
        json!({ "host_path": host_path, "guest_tag": guest_tag, "read_only": read_only })
    }
}

/// `8080:80`, `0.0.0.0:8080:80` or `5353:53/udp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    bind: Option<Ipv4Addr>,
    host_port: u16,
    guest_port: u16,
    protocol: &'static str,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not [IP:]HOST_PORT:GUEST_PORT, such as 8080:80, 0.0.0.0:8080:80 or \
                 53:53/udp"
            )
        };
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), "tcp"),
            Some((ports, "udp")) => (ports, "udp"),
            Some(_) => return Err(wrong()),
        };
        let (host, guest) = ports.rsplit_once(':').ok_or_else(wrong)?;
        let (bind, host) = match host.rsplit_once(':') {
            None => (None, host),
            Some((ip, port)) => (Some(ip.parse().map_err(|_| wrong())?), port),
        };
        let port = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|p| *p > 0)
                .ok_or_else(wrong)
        };
        Ok(Self {
            bind,
            host_port: port(host)?,
            guest_port: port(guest)?,
            protocol,
        })
    }
}

impl Forward {
    pub(super) fn to_json(&self) -> Value {
        let Self {
            bind,
            host_port,
            guest_port,
            protocol,
        } = self;
        let mut forward =
            json!({ "host_port": host_port, "guest_port": guest_port, "protocol": protocol });
        if let Some(bind) = bind {
            forward["bind"] = json!(bind);
        }
        forward
    }
}

/// `on-failure`, or `always:5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    pub(super) policy: &'static str,
    pub(super) limit: Option<u32>,
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is not never, on-failure or always, perhaps with a limit: always:5")
        };
        let (policy, limit) = match text.split_once(':') {
            None => (text, None),
            Some((policy, limit)) => (policy, Some(limit.parse().map_err(|_| wrong())?)),
        };
        let known = ["never", "on-failure", "always"];
        let policy = known.into_iter().find(|known| *known == policy);
        let policy = policy.ok_or_else(wrong)?;
        match limit {
            Some(0 | 1001..) => Err(wrong()),
            limit => Ok(Self { policy, limit }),
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_mount_is_a_directory_and_a_tag_and_perhaps_only_to_be_read() {
        let mount = |text: &str| text.parse::<Mount>();
        let plain = mount("/srv/my:data:work").expect("a mount");
        assert_eq!(
            (&*plain.host_path, &*plain.guest_tag),
            ("/srv/my:data", "work")
        );
        assert!(!plain.read_only);
        assert_eq!(mount("/srv/my:data:work:rw"), Ok(plain));
        assert_eq!(
            mount("/srv:work:ro").expect("a mount").to_json()["read_only"],
            true
        );
        for bad in [
            "", "/srv", "srv:work", ":work", "/srv:", "/srv:ro", "/srv::ro",
        ] {
            assert!(mount(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_forward_is_two_ports_and_perhaps_a_protocol() {
        let forward = |text: &str| text.parse::<Forward>();
        let tcp = forward("8080:80").expect("a forward");
        assert_eq!(
            (tcp.host_port, tcp.guest_port, tcp.protocol),
            (8080, 80, "tcp")
        );
        assert_eq!(forward("8080:80/tcp"), Ok(tcp));
        assert_eq!(forward("53:53/udp").expect("a forward").protocol, "udp");
        let open = forward("0.0.0.0:1:2").expect("a forward");
        assert_eq!(open.to_json()["bind"], "0.0.0.0");
        for bad in [
            "",
            "80",
            "0:80",
            "80:0",
            "99999:1",
            "a:b",
            "80:80/sctp",
            "1:2:3",
            "localhost:1:2",
            "[::1]:1:2",
        ] {
            assert!(forward(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_restart_is_a_policy_and_perhaps_a_limit() {
        let restart = |text: &str| text.parse::<Restart>();
        let always = restart("always:5").expect("a policy");
        assert_eq!((always.policy, always.limit), ("always", Some(5)));
        let failure = restart("on-failure").expect("a policy");
        assert_eq!((failure.policy, failure.limit), ("on-failure", None));
        for bad in [
            "",
            "sometimes",
            "always:",
            "always:0",
            "always:1001",
            "always:x",
            ":5",
        ] {
            assert!(restart(bad).is_err(), "{bad:?} was taken");
        }
    }
}
