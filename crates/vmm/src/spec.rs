//! What a VM is made of: a request that was found sound, with everything decided.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::capacity::Resources;
use crate::config::NetworkChoice;
use crate::model::{CreateVm, DriverKind, Mount, PortForward, VmId};
use crate::mounts;
use crate::name::{ItemName, VmName};
use crate::restart::RestartRule;

/// Everything about a VM that stays the same for its whole life; its place on the network, from one
/// start to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) name: VmName,
    /// What the guest calls itself.
    pub(crate) hostname: VmName,
    pub(crate) id: VmId,
    pub(crate) cpus: u32,
    pub(crate) memory_mb: u64,
    pub(crate) disk_size_mb: u64,
    pub(crate) image: ItemName,
    pub(crate) kernel: ItemName,
    pub(crate) driver: DriverKind,
    #[serde(default)]
    pub(crate) network: NetworkChoice,
    pub(crate) ip_address: Ipv4Addr,
    pub(crate) mac_address: MacAddress,
    pub(crate) ssh_public_key: Option<SshPublicKey>,
    pub(crate) dns_servers: Vec<IpAddr>,
    #[serde(default)]
    pub(crate) mounts: Vec<Mount>,
    pub(crate) auto_start: bool,
    /// Absent in the records of earlier versions.
    #[serde(default)]
    pub(crate) restart: RestartRule,
    pub(crate) created_at: Timestamp,
}

impl Spec {
    pub(crate) fn resources(&self) -> Resources {
        Resources {
            cpus: self.cpus,
            memory_mb: self.memory_mb,
            disk_mb: self.disk_size_mb,
        }
    }
}

/// A field of a request is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct InvalidField {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong with it, and what it should be.
    pub problem: String,
}

impl InvalidField {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self {
            field,
            problem: problem.into(),
        }
    }
}

/// Checks everything about a request that can be checked by looking at it alone.
pub(crate) fn check(request: &CreateVm) -> Result<(), InvalidField> {
    in_range("cpus", request.cpus.into(), 1, 32)?;
    in_range("memory_mb", request.memory_mb, 128, 65_536)?;
    in_range("disk_size_mb", request.disk_size_mb, 256, 1_048_576)?;
    in_range("restart_limit", request.restart_limit.into(), 1, 1000)?;
    if let Some(key) = &request.ssh_public_key {
        SshPublicKey::from_str(key)?;
    }
    if request.dns_servers.len() > 3 {
        return Err(InvalidField::new(
            "dns_servers",
            "holds more than 3 addresses; name 3 at most",
        ));
    }
    mounts::check(&request.mounts)?;
    for (index, forward) in request.port_forwards.iter().enumerate() {
        check_collisions(forward, &request.port_forwards[..index])?;
    }
    Ok(())
}

fn check_collisions(forward: &PortForward, earlier: &[PortForward]) -> Result<(), InvalidField> {
    match earlier.iter().find(|other| forward.collides_with(other)) {
        Some(other) => Err(InvalidField::new(
            "port_forwards",
            format!("has two entries for one host port ({other}; {forward}); keep one"),
        )),
        None => Ok(()),
    }
}

fn in_range(field: &'static str, value: u64, low: u64, high: u64) -> Result<(), InvalidField> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(InvalidField::new(
        field,
        format!("is {value}; it must be between {low} and {high}"),
    ))
}

/// An Ethernet address, locally administered and unicast (IEEE 802, section 8.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct MacAddress(String);

impl MacAddress {
    /// A random one: 46 bits, so that VMs on one network practically never share one.
    pub(crate) fn generate() -> Self {
        let mut bytes: [u8; 6] = rand::random();
        bytes[0] = (bytes[0] & 0b1111_1100) | 0b0000_0010;
        Self(bytes.map(|byte| format!("{byte:02x}")).join(":"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// One line of an `authorized_keys` file (sshd(8)) that is nothing but a key: without options,
/// which could make the guest run something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SshPublicKey(String);

impl SshPublicKey {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SshPublicKey {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        let problem = |what: &str| {
            InvalidField::new(
                "ssh_public_key",
                format!("{what}; give the one line of a .pub file, like `ssh-ed25519 AAAA... me`"),
            )
        };
        let text = text.trim();
        if text.len() > 16_384 || text.contains(|c: char| c.is_control()) {
            return Err(problem("is not one line of text"));
        }
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
            return Err(problem("is not an OpenSSH public key"));
        };
        let blob = BASE64
            .decode(blob)
            .map_err(|_| problem("has a damaged second word"))?;
        // A type's name has no quotes or commas (RFC 4250 section 4.6.1 and sshd(8)): a first word
        // with those would be read as an option, and might go on in the words that follow.
        let plain = |c: char| c.is_ascii_alphanumeric() || "-.@".contains(c);
        if !kind.chars().all(plain) {
            return Err(problem("is not an OpenSSH public key"));
        }
        // The blob opens with the same type name, length first (RFC 4253 section 6.6).
        let named = blob
            .split_first_chunk::<4>()
            .and_then(|(length, rest)| rest.get(..u32::from_be_bytes(*length) as usize));
        if named != Some(kind.as_bytes()) {
            return Err(problem("is not an OpenSSH public key"));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@home";

    fn request() -> CreateVm {
        CreateVm::named("web-1".parse().unwrap())
    }

    fn refused(request: &CreateVm) -> &'static str {
        check(request).unwrap_err().field
    }

    #[test]
    fn sizes_outside_their_limits_are_refused_by_name() {
        assert_eq!(check(&request()), Ok(()));
        assert_eq!(
            refused(&CreateVm {
                cpus: 0,
                ..request()
            }),
            "cpus"
        );
        assert_eq!(
            refused(&CreateVm {
                cpus: 33,
                ..request()
            }),
            "cpus"
        );
        assert_eq!(
            refused(&CreateVm {
                memory_mb: 127,
                ..request()
            }),
            "memory_mb"
        );
        assert_eq!(
            refused(&CreateVm {
                memory_mb: 65_537,
                ..request()
            }),
            "memory_mb"
        );
        assert_eq!(
            refused(&CreateVm {
                disk_size_mb: 255,
                ..request()
            }),
            "disk_size_mb"
        );
        assert_eq!(
            refused(&CreateVm {
                disk_size_mb: 1_048_577,
                ..request()
            }),
            "disk_size_mb"
        );
        let dns_servers = vec!["9.9.9.9".parse().unwrap(); 4];
        assert_eq!(
            refused(&CreateVm {
                dns_servers,
                ..request()
            }),
            "dns_servers"
        );
    }

    #[test]
    fn two_forwards_of_one_host_port_are_refused() {
        let forward = |bind: &str, guest_port: u16| PortForward {
            host_port: 8080.try_into().unwrap(),
            guest_port: guest_port.try_into().unwrap(),
            protocol: crate::model::Protocol::Tcp,
            bind: bind.parse().unwrap(),
        };
        let with = |port_forwards| CreateVm {
            port_forwards,
            ..request()
        };
        assert_eq!(
            refused(&with(vec![
                forward("127.0.0.1", 80),
                forward("0.0.0.0", 81)
            ])),
            "port_forwards"
        );
        assert_eq!(
            check(&with(vec![
                forward("127.0.0.1", 80),
                forward("127.0.0.2", 81)
            ])),
            Ok(())
        );
    }

    #[test]
    fn a_public_key_is_taken_with_its_comment() {
        assert_eq!(KEY.parse::<SshPublicKey>().unwrap().as_str(), KEY);
        assert_eq!(
            format!("{KEY}\n").parse::<SshPublicKey>().unwrap().as_str(),
            KEY
        );
    }

    #[test]
    fn what_is_not_a_lone_public_key_is_refused() {
        let two_lines = format!("{KEY}\n{KEY}");
        let options = format!("command=\"reboot\" {KEY}");
        // Sound but for its type's name, which opens an option that the comment ends.
        let kind = "command=\"a";
        let blob = [&(kind.len() as u32).to_be_bytes()[..], kind.as_bytes()].concat();
        let disguised = format!("{kind} {} ;reboot\" {KEY}", BASE64.encode(blob));
        let wrong_kind = KEY.replace("ssh-ed25519 ", "ssh-rsa ");
        for text in [
            "",
            "ssh-ed25519",
            "ssh-ed25519 !!!",
            &two_lines,
            &options,
            &disguised,
            &wrong_kind,
            "a AAAA",
        ] {
            assert!(
                text.parse::<SshPublicKey>().is_err(),
                "{text:?} was taken for a key"
            );
        }
    }

    #[test]
    fn a_mac_address_is_locally_administered_and_unicast() {
        for _ in 0..100 {
            let mac = MacAddress::generate();
            let first = u8::from_str_radix(&mac.as_str()[..2], 16).unwrap();
            assert_eq!(first & 0b11, 0b10, "{mac:?}");
            assert_eq!(mac.as_str().len(), 17);
        }
    }
}
