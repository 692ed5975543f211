//! The guest's network, configured straight through rtnetlink(7): no program of the image is
//! needed, and it takes microseconds.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use crate::config::Config;
use crate::error::{Context, Result};

/// The first Ethernet device, as the kernel names it.
const INTERFACE: &str = "eth0";
const LOOPBACK: &str = "lo";

// rtnetlink(7), netlink(7); the values of <linux/rtnetlink.h>, <linux/netlink.h>, <linux/if.h>.
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;

/// Brings the interfaces up and gives the first Ethernet device its address and gateway.
pub(crate) fn configure(config: &Config) -> Result<()> {
    let socket = open().context(|| "open a netlink socket".to_owned())?;
    link_up(&socket, LOOPBACK)?;
    let Some((address, prefix)) = config.address else {
        return Ok(());
    };
    let index = link_up(&socket, INTERFACE)?;
    if let Some(mtu) = config.mtu {
        request(&socket, RTM_NEWLINK, &mtu_body(index, mtu))
            .context(|| format!("limit packets of {INTERFACE} to {mtu} bytes"))?;
    }
    request(&socket, RTM_NEWADDR, &address_body(index, address, prefix))
        .context(|| format!("give {INTERFACE} the address {address}/{prefix}"))?;
    if let Some(gateway) = config.gateway {
        request(&socket, RTM_NEWROUTE, &route_body(index, gateway))
            .context(|| format!("make {gateway} the gateway"))?;
    }
    Ok(())
}

fn link_up(socket: &OwnedFd, name: &str) -> Result<u32> {
    let tried = || format!("bring {name} up");
    let index = index_of(name).context(tried)?;
    request(socket, RTM_NEWLINK, &link_body(index)).context(tried)?;
    Ok(index)
}

fn index_of(name: &str) -> io::Result<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))?;
    text.trim()
        .parse()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

/// `struct ifinfomsg` that sets the flag "up".
fn link_body(index: u32) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0];
    for word in [index, IFF_UP, IFF_UP] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// `struct ifinfomsg` that changes no flag, with the MTU.
fn mtu_body(index: u32, mtu: u32) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0];
    for word in [index, 0, 0] {
        body.extend(word.to_ne_bytes());
    }
    attribute(&mut body, IFLA_MTU, mtu.to_ne_bytes());
    body
}

/// `struct ifaddrmsg` with the address.
fn address_body(index: u32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    let mut body = vec![AF_INET, prefix, 0, RT_SCOPE_UNIVERSE];
    body.extend(index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, address.octets());
    attribute(&mut body, IFA_ADDRESS, address.octets());
    body
}

/// `struct rtmsg` with a default route.
fn route_body(index: u32, gateway: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![
        AF_INET,
        0,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_BOOT,
        RT_SCOPE_UNIVERSE,
        RTN_UNICAST,
    ];
    body.extend(0u32.to_ne_bytes());
    attribute(&mut body, RTA_GATEWAY, gateway.octets());
    attribute(&mut body, RTA_OIF, index.to_ne_bytes());
    body
}

/// `struct rtattr` with four bytes, which need no padding.
fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend(8u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn open() -> io::Result<OwnedFd> {
    // The protocol that is not named is number 0, NETLINK_ROUTE.
    Ok(socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// Sends a request and waits for the kernel's answer to it.
fn request(socket: &OwnedFd, kind: u16, body: &[u8]) -> io::Result<()> {
    let message = message(kind, flags_of(kind), body);
    sendto(
        socket,
        &message,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut answer = [0; 1024];
    let (length, _) = recv(socket, &mut answer[..], RecvFlags::empty())?;
    understand(&answer[..length])
}

/// Addresses and routes are made or replaced; a link is there already and only changed.
fn flags_of(kind: u16) -> u16 {
    match kind {
        RTM_NEWLINK => NLM_F_REQUEST | NLM_F_ACK,
        _ => NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
    }
}

/// `struct nlmsghdr` and the body.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    const HEADER: u32 = 16;
    let length = HEADER + body.len() as u32;
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// The answer is an `NLMSG_ERROR` whose code is zero when all is well.
fn understand(answer: &[u8]) -> io::Result<()> {
    let kind = answer
        .get(4..6)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_ne_bytes);
    let code = answer
        .get(16..20)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_understands_the_messages() {
        // Loopback is up everywhere, so this changes nothing; without the privilege the kernel
        // says so only after it has understood the message.
        let socket = open().unwrap();
        let index = index_of(LOOPBACK).unwrap();
        match request(&socket, RTM_NEWLINK, &link_body(index)) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }

    #[test]
    fn the_kernel_refuses_an_interface_that_is_not_there() {
        let socket = open().unwrap();
        let body = address_body(u32::MAX >> 1, Ipv4Addr::new(192, 0, 2, 1), 32);
        assert!(request(&socket, RTM_NEWADDR, &body).is_err());
    }

    #[test]
    fn an_answer_that_is_cut_off_is_an_error() {
        assert!(understand(&[]).is_err());
        assert!(understand(&message(NLMSG_ERROR, 0, &[])).is_err());
        assert!(understand(&message(NLMSG_ERROR, 0, &0i32.to_ne_bytes())).is_ok());
    }
}
