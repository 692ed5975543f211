//! Which addresses this host has now. The system is asked each time, since addresses come and go;
//! nothing is sent.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use rustix::io::Errno;

/// Whether this host has an address; `None` where that cannot be found out.
///
/// Nobody can bind an address that the host has not got. To ask which address the host would send from
/// is not enough: to a further address of a subnet it sends from the subnet's first one.
pub(super) fn is_own(address: IpAddr) -> Option<bool> {
    let bound = UdpSocket::bind((address, 0));
    match bound.as_ref().map_err(Errno::from_io_error) {
        Ok(_) if !lets_bind_any(address) => Some(true),
        // Binding says nothing where everything can be bound. Where it says no, the other question
        // costs little, and either yes is enough.
        Ok(_) | Err(Some(Errno::ADDRNOTAVAIL)) => is_sent_to_from_itself(address),
        // Without the family (the kernel's, or what this process may use) the host has no address
        // of it, and nothing is reached at one.
        Err(Some(Errno::AFNOSUPPORT)) => Some(false),
        // Above all, that there are too many open files. And EINVAL: an IPv6 address that means nothing
        // without its interface, which is to say link-local or multicast. No registry is there.
        Err(_) => None,
    }
}

/// Whether this host lets anybody bind what it has not got (`ip_nonlocal_bind`), as those do that
/// take each other's addresses over. Where that cannot be read, it does not: what can be bound is its
/// own then.
fn lets_bind_any(address: IpAddr) -> bool {
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let setting = fs::read_to_string(format!("/proc/sys/net/{family}/ip_nonlocal_bind"));
    setting.is_ok_and(|setting| setting.trim() != "0")
}

/// Whether the system would send to an address from itself, as it does to no other's.
fn is_sent_to_from_itself(address: IpAddr) -> Option<bool> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Any port will do.
    let way = socket.connect((address, 9));
    match way.as_ref().map_err(Errno::from_io_error) {
        Ok(()) => Some(socket.local_addr().ok()?.ip() == address),
        // What has no way there, or nothing to send from, reaches nothing there either.
        Err(Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL)) => Some(false),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::Command;

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

    use super::super::Reach;
    use super::*;

    fn own(address: &str) -> Option<bool> {
        is_own(address.parse().unwrap())
    }

    /// A network namespace that is removed at the end.
    struct Namespace(String);

    impl Namespace {
        fn new() -> Self {
            let name = format!("hostler-test-own-{}", std::process::id());
            ip(&format!("netns add {name}"));
            Self(name)
        }

        /// Does some work with a thread in here.
        fn within(&self, work: impl FnOnce() + Send) {
            let inside = || {
                let file = File::open(format!("/run/netns/{}", self.0)).unwrap();
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(file.as_fd(), network).unwrap();
                work();
            };
            let done = std::thread::scope(|scope| scope.spawn(inside).join());
            done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }

    impl Drop for Namespace {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
        }
    }

    fn ip(arguments: &str) {
        let output = Command::new("ip").args(arguments.split(' ')).output();
        let output = output.unwrap();
        assert!(output.status.success(), "ip {arguments}: {output:?}");
    }

    #[test]
    fn every_address_of_a_subnet_is_this_hosts_and_their_neighbour_is_not() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("left out: network namespaces need root");
            return;
        }
        let namespace = Namespace::new();
        let inside = |arguments: &str| ip(&format!("-n {} {arguments}", namespace.0));
        inside("link set lo up");
        let (first, further, neighbour) = ("203.0.113.10", "203.0.113.11", "203.0.113.12");
        let (first_6, further_6, neighbour_6) = ("2001:db8::a", "2001:db8::b", "2001:db8::c");
        // As on a wire: nothing but the addresses themselves is this host's.
        inside("link add wire type veth peer name end");
        for link in ["wire", "end"] {
            inside(&format!("link set {link} up"));
        }
        for address in [first, further] {
            inside(&format!("addr add {address}/24 dev wire"));
        }
        for address in [first_6, further_6] {
            inside(&format!("addr add {address}/64 dev wire nodad"));
        }
        // No interface has it, and it is kept on this host all the same.
        inside("route add local 198.51.100.7 dev lo");
        namespace.within(|| {
            for address in [first, further, first_6, further_6, "198.51.100.7"] {
                assert_eq!(own(address), Some(true), "{address}");
                assert!(!Reach::Public.admits(address.parse().unwrap()), "{address}");
            }
            for address in [neighbour, neighbour_6, "192.0.2.1", "2001:db8:1::1"] {
                assert_eq!(own(address), Some(false), "{address}");
                assert!(Reach::Public.admits(address.parse().unwrap()), "{address}");
            }
            // Where everything can be bound, not everything is this host's.
            for family in ["ipv4", "ipv6"] {
                let setting = format!("/proc/sys/net/{family}/ip_nonlocal_bind");
                fs::write(setting, "1").unwrap();
            }
            for address in [first, first_6, further_6] {
                assert_eq!(own(address), Some(true), "{address}");
            }
            for address in [neighbour, neighbour_6, "192.0.2.1", "2001:db8:1::1"] {
                assert_eq!(own(address), Some(false), "{address}");
            }
        });
    }

    #[test]
    fn where_no_socket_is_to_be_had_nobody_is_trusted() {
        let this = std::env::current_exe().unwrap();
        let (_, test) = concat!(module_path!(), "::asks_without_a_socket")
            .split_once("::")
            .unwrap();
        let child = Command::new(this)
            .args([test, "--exact", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && told.contains("1 passed"),
            "{child:?}"
        );
    }

    #[test]
    #[ignore = "a part of where_no_socket_is_to_be_had_nobody_is_trusted: nothing else in its process \
                could open a file"]
    fn asks_without_a_socket() {
        let before = getrlimit(Resource::Nofile);
        let none = Rlimit {
            current: Some(0),
            ..before
        };
        setrlimit(Resource::Nofile, none).unwrap();
        let address = "203.0.113.1".parse().unwrap();
        let (is_own, is_admitted) = (is_own(address), Reach::Public.admits(address));
        let to = "https://10.0.0.6/".parse().unwrap();
        let led = Reach::led_by(Some((address, 443).into()), &to);
        setrlimit(Resource::Nofile, before).unwrap();
        assert_eq!((is_own, is_admitted), (None, false));
        // Somebody public is not taken for near, which would let him lead into this host's network.
        assert_eq!(led, Reach::Public);
    }
}
