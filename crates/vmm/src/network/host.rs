//! What the host is and allows: looked at before anything is changed.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::error::NetworkError;
use super::subnet::Subnet;
use crate::files::{Context as _, StorageError};

/// capabilities(7): the number of CAP_NET_ADMIN.
const CAP_NET_ADMIN: u32 = 12;

/// Finds out whether this process may make bridges at all.
pub(crate) fn check_privileges() -> Result<(), NetworkError> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !may_administer(&status) {
        return Err(NetworkError::NotPrivileged);
    }
    let opened = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun");
    opened
        .map(drop)
        .map_err(|source| NetworkError::NoTaps { source })
}

fn may_administer(status: &str) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    capabilities.is_some_and(|capabilities| capabilities & (1 << CAP_NET_ADMIN) != 0)
}

/// The subnets that a bridge may be given: the parts of `range` that meet none of `taken`.
pub(crate) fn free_subnets(range: Subnet, taken: &[Subnet]) -> Result<Vec<Subnet>, NetworkError> {
    let problem = |problem: &str| NetworkError::Range {
        range,
        problem: problem.to_owned(),
    };
    if range.prefix() > LARGEST_PREFIX {
        return Err(problem("is too small for a host and a guest"));
    }
    let reserved = ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"];
    let reserved = reserved
        .iter()
        .filter_map(|text| text.parse::<Subnet>().ok());
    if reserved
        .into_iter()
        .any(|reserved| reserved.overlaps(range))
    {
        return Err(problem("holds addresses that no machine can have"));
    }
    let is_free = |part: &Subnet| !taken.iter().any(|taken| taken.overlaps(*part));
    let free: Vec<_> = range
        .parts(range.prefix().max(PREFIX))
        .filter(is_free)
        .collect();
    if free.is_empty() {
        return Err(problem("meets routes of this host everywhere"));
    }
    Ok(free)
}

/// A subnet of this size has 253 guests, more than a host has memory for, mostly.
const PREFIX: u8 = 24;
/// Four addresses: the subnet's own, the gateway, one guest, and that of all.
const LARGEST_PREFIX: u8 = 30;

/// The name server that guests are led to: one of the host's that is reached over the network,
/// else one on the host itself.
pub(crate) fn name_server() -> Option<Ipv4Addr> {
    let read = |path: &str| name_servers(&fs::read_to_string(path).unwrap_or_default());
    let own = read("/etc/resolv.conf");
    // systemd-resolved names itself in the first file and the network's servers in this one.
    let behind = || read("/run/systemd/resolve/resolv.conf");
    let remote =
        |servers: &[Ipv4Addr]| servers.iter().copied().find(|server| !server.is_loopback());
    remote(&own)
        .or_else(|| remote(&behind()))
        .or_else(|| own.first().copied())
}

fn name_servers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    let lines = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    let addresses = lines.filter_map(|word| word.parse::<IpAddr>().ok());
    let usable = addresses.filter_map(|address| match address {
        IpAddr::V4(address) if !address.is_unspecified() => Some(address),
        _ => None,
    });
    usable.collect()
}

/// Sets what the kernel has to do with a bridge that has just been made. Forwarding is the host's
/// as a whole; the rest is the bridge's alone.
pub(crate) fn set_kernel_up(bridge: &str) -> Result<(), StorageError> {
    let sys = Path::new("/proc/sys/net");
    let of_bridge =
        |family: &str, name: &str| sys.join(family).join("conf").join(bridge).join(name);
    set(&sys.join("ipv4/ip_forward"), "1")?;
    // So that the host's loopback address can lead to a guest. That no guest gets to the loopback
    // address by this, the rules see to.
    set(&of_bridge("ipv4", "route_localnet"), "1")?;
    let ipv6 = of_bridge("ipv6", "disable_ipv6");
    if ipv6.exists() {
        set(&ipv6, "1")?;
    }
    Ok(())
}

/// Changes a setting that is not yet so.
fn set(path: &Path, value: &str) -> Result<(), StorageError> {
    let now = fs::read_to_string(path).context("read", path)?;
    if now.trim() == value {
        return Ok(());
    }
    fs::write(path, value).context("change", path)?;
    tracing::info!(setting = %path.display(), from = now.trim(), to = value, "a kernel setting was changed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn only_who_may_administer_the_network_makes_bridges() {
        assert!(may_administer("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(may_administer("CapEff:\t0000000000001000\n"));
        assert!(!may_administer(
            "CapEff:\t0000000000000fff\nCapBnd:\t000001ffffffffff\n"
        ));
        assert!(!may_administer(""));
    }

    #[test]
    fn a_subnet_meets_no_route_of_the_host() {
        let taken = [subnet("10.77.0.0/17"), subnet("10.77.200.7/32")];
        let free = free_subnets(subnet("10.77.0.0/16"), &taken).unwrap();
        assert_eq!(free.len(), 127);
        assert!(!free.contains(&subnet("10.77.200.0/24")));
        let error = free_subnets(subnet("10.77.0.0/24"), &taken)
            .unwrap_err()
            .to_string();
        assert!(error.contains("--bridge-range"), "{error}");
        assert_eq!(
            free_subnets(subnet("10.1.0.8/30"), &[]).unwrap(),
            [subnet("10.1.0.8/30")]
        );
    }

    #[test]
    fn a_range_that_no_machine_can_be_in_is_refused() {
        for range in [
            "10.77.0.0/31",
            "127.0.0.0/16",
            "169.254.8.0/24",
            "224.0.0.0/8",
            "0.0.0.0/0",
        ] {
            assert!(free_subnets(subnet(range), &[]).is_err(), "{range}");
        }
    }

    #[test]
    fn name_servers_are_those_that_ipv4_reaches() {
        let text = "# x\nsearch a.example\nnameserver ::1\nnameserver 127.0.0.53\n\
                    nameserver 9.9.9.9 # y\noptions ndots:1\nnameserver\n";
        let servers = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(9, 9, 9, 9)];
        assert_eq!(name_servers(text), servers);
    }
}
