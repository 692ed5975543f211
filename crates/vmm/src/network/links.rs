//! Interfaces, addresses and routes of the host, through ip(8): batches in, JSON out.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::NetworkError;
use super::names::Instance;
use super::subnet::Subnet;
use crate::model::VmId;
use crate::tool::Tool;

/// How long ip(8) and nft(8) may take. They take milliseconds, and whoever starts or stops a VM on the
/// bridge waits for them.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A route of the host, or one of its own addresses.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Route {
    dst: String,
    #[serde(default)]
    pub(crate) dev: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

/// An interface of the host.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Interface {
    pub(crate) ifname: String,
    #[serde(default)]
    mtu: Option<u32>,
}

impl Route {
    /// Where it leads; `None` for the one that leads everywhere else.
    pub(crate) fn subnet(&self) -> Option<Subnet> {
        let whole = |address: Ipv4Addr| Subnet::around(address, 32);
        match self.dst.as_str() {
            "default" => None,
            text => text.parse().ok().or_else(|| text.parse().ok().map(whole)),
        }
        .filter(|subnet| subnet.prefix() > 0)
    }

    fn is_default(&self) -> bool {
        self.dst == "default" && self.kind.as_deref().is_none_or(|kind| kind == "unicast")
    }
}

/// The smallest MTU of the ways out, where that is not Ethernet's.
pub(crate) fn mtu_of_ways_out(routes: &[Route], interfaces: &[Interface]) -> Option<u16> {
    const ETHERNET: u16 = 1500;
    // IPv4 works with less (RFC 791), and nobody means it.
    const LEAST: u16 = 576;
    let ways = routes.iter().filter(|route| route.is_default());
    let devices = ways.filter_map(|route| {
        let named = |interface: &&Interface| Some(&interface.ifname) == route.dev.as_ref();
        interfaces.iter().find(named)?.mtu
    });
    let smallest = devices.min()?.try_into().ok()?;
    (LEAST..ETHERNET).contains(&smallest).then_some(smallest)
}

pub(crate) async fn routes() -> Result<Vec<Route>, NetworkError> {
    ask(&["-4", "-json", "route", "show", "table", "all"]).await
}

pub(crate) async fn interfaces() -> Result<Vec<Interface>, NetworkError> {
    ask(&["-json", "link", "show"]).await
}

async fn ask<T: DeserializeOwned>(arguments: &[&str]) -> Result<Vec<T>, NetworkError> {
    let answer = Tool::new("ip").within(LIMIT).args(arguments).run().await?;
    let answer = answer.trim();
    if answer.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(answer).map_err(|error| NetworkError::Unreadable {
        command: format!("ip {}", arguments.join(" ")),
        problem: error.to_string(),
    })
}

/// Carries out commands of ip(8), one per line, until one fails.
pub(crate) async fn carry_out(batch: &str) -> Result<(), NetworkError> {
    let ip = Tool::new("ip")
        .within(LIMIT)
        .args(["-batch", "-"])
        .input(batch);
    ip.run().await?;
    Ok(())
}

/// Makes the bridge.
pub(crate) fn bridge_up(instance: &Instance, gateway: Ipv4Addr, prefix: u8) -> String {
    let (bridge, mac) = (instance.bridge(), instance.bridge_mac());
    format!(
        "link add {bridge} address {mac} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set dev {bridge} alias hostler:{} addrgenmode none\n\
         addr add {gateway}/{prefix} dev {bridge}\n\
         link set dev {bridge} up\n",
        instance.as_str()
    )
}

/// Makes a VM's tap device on the bridge, for a process of this user. Ports that are isolated
/// exchange no frames with each other (bridge(8)).
pub(crate) fn tap_up(
    instance: &Instance,
    tap: &str,
    vm: VmId,
    owner: u32,
    mtu: Option<u16>,
) -> String {
    let (bridge, alias) = (instance.bridge(), instance.alias(vm));
    let mtu = mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
    format!(
        "tuntap add dev {tap} mode tap user {owner}\n\
         link set dev {tap} alias {alias} addrgenmode none master {bridge}{mtu}\n\
         link set dev {tap} type bridge_slave isolated on\n\
         link set dev {tap} up\n"
    )
}

/// Puts a tap device that is there back on a bridge that was made anew.
pub(crate) fn tap_back(instance: &Instance, tap: &str) -> String {
    let bridge = instance.bridge();
    format!(
        "link set dev {tap} master {bridge}\n\
         link set dev {tap} type bridge_slave isolated on\n\
         link set dev {tap} up\n"
    )
}

pub(crate) fn down(name: &str) -> String {
    format!("link del dev {name}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = r#"[
        {"dst":"default","gateway":"192.0.2.1","dev":"wg0","flags":[]},
        {"dst":"default","gateway":"192.0.2.1","dev":"eth0","metric":100,"flags":[]},
        {"type":"unreachable","dst":"default","dev":"lo","table":"7","flags":[]},
        {"dst":"10.77.3.0/24","dev":"hb1a2b3c4d","protocol":"kernel","scope":"link"},
        {"type":"local","dst":"192.0.2.7","dev":"eth0","table":"local"}]"#;

    const INTERFACES: &str = r#"[
        {"ifindex":1,"ifname":"lo","mtu":65536},{"ifname":"eth0","mtu":1500},
        {"ifname":"wg0","mtu":1420,"ifalias":"hostler:1a2b3c4d:x"}]"#;

    #[test]
    fn routes_tell_what_is_taken_and_which_way_is_out() {
        let routes: Vec<Route> = serde_json::from_str(ROUTES).unwrap();
        let interfaces: Vec<Interface> = serde_json::from_str(INTERFACES).unwrap();
        let taken: Vec<_> = routes.iter().filter_map(Route::subnet).collect();
        let taken: Vec<_> = taken.iter().map(ToString::to_string).collect();
        assert_eq!(taken, ["10.77.3.0/24", "192.0.2.7/32"]);
        assert_eq!(mtu_of_ways_out(&routes, &interfaces), Some(1420));
        assert_eq!(mtu_of_ways_out(&routes[1..], &interfaces), None);
        assert_eq!(mtu_of_ways_out(&[], &interfaces), None);
    }
}
