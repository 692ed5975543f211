//! How far a request may go: which addresses a registry may be at, and where it may send us.
//!
//! The host reaches what whoever names a registry does not: the cloud's metadata, its own services,
//! its own network. Addresses count, not names, and at the moment of the connection: what a name
//! means may change between two looks at it.

mod own;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;
use url::{Host, Url};

use self::own::is_own;
use crate::metadata;

/// Nothing is asked for at this address.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "no image is fetched from {host} at {address}: a registry may not be at a link-local address or \
     another where clouds keep metadata, nor lead into this host's own network unless it is there \
     itself, and then only to its own address and port, or over https to another machine"
)]
pub(crate) struct OutOfReach {
    host: String,
    address: IpAddr,
}

/// How far a request may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    /// Somebody named it: anywhere but to where a cloud's metadata may be ([`metadata`]).
    Named,
    /// Somebody at a public address led there: only to what is public too.
    Public,
    /// Somebody in this host's own network led there, who may be a VM behind a forwarded port.
    Near {
        /// Its address, where it led to its own port: it answers for what is there.
        itself: Option<IpAddr>,
        /// Whether another machine of the network will have to prove its name. Who serves nothing
        /// but its network without asking for a name (a cache, a metrics page) has no certificate.
        is_proven: bool,
    },
}

impl Reach {
    /// How far one may go to where an answer leads, by who gave the answer. Who may be near or not
    /// counts as public, and leads less far.
    pub(super) fn led_by(sender: Option<SocketAddr>, to: &Url) -> Self {
        match sender {
            Some(sender) if is_near(sender.ip()) == Some(true) => Self::Near {
                itself: (to.port_or_known_default() == Some(sender.port()))
                    .then(|| plain(sender.ip())),
                is_proven: to.scheme() == "https",
            },
            _ => Self::Public,
        }
    }

    /// Whether an address is within reach; one of which it cannot be told is not.
    fn admits(self, address: IpAddr) -> bool {
        let address = plain(address);
        if metadata::is_at(address) {
            return false;
        }
        match self {
            Self::Named => true,
            Self::Public => is_near(address) == Some(false),
            Self::Near { itself, is_proven } => {
                itself == Some(address)
                    || is_near(address) == Some(false)
                    || is_proven && is_this_host(address) == Some(false)
            }
        }
    }

    /// Checks a URL that has an address for a host, of which no resolver is asked.
    pub(super) fn check(self, url: &Url) -> Result<(), OutOfReach> {
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) | None => return Ok(()),
        };
        match self.admits(address) {
            true => Ok(()),
            false => Err(OutOfReach {
                host: url.host_str().unwrap_or_default().to_owned(),
                address,
            }),
        }
    }
}

/// The address that is meant by one that only wraps it: mapped (RFC 4291, section 2.5.5.2), or
/// behind a translator (RFC 6052, section 2.1).
fn plain(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0] => {
            Ipv4Addr::from_bits(address.to_bits() as u32).into()
        }
        address => address,
    }
}

/// Whether an address is this host's: loopback, or none, which means the same (RFC 1122), or one
/// that it has now, however public: behind it is what a firewall keeps from everybody else. `None`
/// where that cannot be found out.
fn is_this_host(address: IpAddr) -> Option<bool> {
    let is_always = match address {
        IpAddr::V4(address) => address.is_loopback() || address.octets()[0] == 0,
        IpAddr::V6(address) => address.is_loopback() || address == Ipv6Addr::UNSPECIFIED,
    };
    if is_always {
        return Some(true);
    }
    is_own(address)
}

/// Whether only this host or its network reaches an address (RFC 1122, 1918, 4193, 6598), the cloud's
/// metadata included, or it is this host's own. `None` where that cannot be found out.
fn is_near(address: IpAddr) -> Option<bool> {
    let address = plain(address);
    let is_of_a_network = match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let is_shared = first == 100 && second & 0xc0 == 64;
            address.is_private() || is_shared
        }
        IpAddr::V6(address) => address.is_unique_local(),
    };
    if is_of_a_network || metadata::is_at(address) {
        return Some(true);
    }
    is_this_host(address)
}

/// Resolves names to those of their addresses that are within reach.
#[derive(Clone)]
pub(super) struct Resolver {
    system: GaiResolver,
    reach: Reach,
}

impl Resolver {
    pub(super) fn new(reach: Reach) -> Self {
        Self {
            system: GaiResolver::new(),
            reach,
        }
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;
type Addresses = std::vec::IntoIter<SocketAddr>;

impl Service<Name> for Resolver {
    type Response = Addresses;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Addresses, Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.system.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (reach, host) = (self.reach, name.to_string());
        let found = self.system.call(name);
        Box::pin(async move {
            let found: Vec<SocketAddr> = found.await?.collect();
            let (within, beyond): (Vec<_>, Vec<_>) = found
                .into_iter()
                .partition(|found| reach.admits(found.ip()));
            match beyond.first() {
                Some(address) if within.is_empty() => Err(OutOfReach {
                    host,
                    address: address.ip(),
                }
                .into()),
                _ => Ok(within.into_iter()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn an_address_is_judged_by_where_it_is_however_it_is_written() {
        let admits = |reach: Reach, text: &str| reach.admits(text.parse().unwrap());
        for text in ["203.0.113.7", "2001:db8::1", "100.128.0.1", "172.32.0.1"] {
            assert!(
                admits(Reach::Named, text) && admits(Reach::Public, text),
                "{text}"
            );
        }
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "fd00::1",
            "::ffff:127.0.0.1",
            "64:ff9b::10.0.0.1",
        ] {
            assert!(admits(Reach::Named, text), "{text}");
            assert!(!admits(Reach::Public, text), "{text}");
        }
        for text in [
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "168.63.129.16",
            "64:ff9b::a83f:8110",
            "100.100.100.200",
            "::ffff:100.100.100.200",
            "fd00:ec2::254",
        ] {
            assert!(
                !admits(Reach::Named, text) && !admits(Reach::Public, text),
                "{text}"
            );
        }
    }

    #[test]
    fn where_an_answer_leads_is_judged_by_who_gave_it() {
        let admits = |sender: &str, to: &str| {
            let to = Url::parse(to).unwrap();
            Reach::led_by(sender.parse().ok(), &to).check(&to).is_ok()
        };
        for (sender, to) in [
            ("203.0.113.7:443", "https://198.51.100.1/"),
            ("10.0.0.5:5000", "https://198.51.100.1/"),
            // Itself.
            ("10.0.0.5:5000", "http://10.0.0.5:5000/token"),
            ("10.0.0.5:80", "http://10.0.0.5/token"),
            ("[::ffff:10.0.0.5]:80", "http://10.0.0.5/token"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000/token"),
            // Another machine, which has to prove who it is.
            ("10.0.0.5:5000", "https://10.213.87.6:9000/blobs"),
            ("127.0.0.1:5000", "https://[fd00::6]/token"),
        ] {
            assert!(admits(sender, to), "{sender} to {to}");
        }
        for (sender, to) in [
            ("203.0.113.7:443", "https://10.0.0.6/"),
            ("203.0.113.7:443", "https://127.0.0.1/"),
            ("nobody knows", "https://10.0.0.6/"),
            // A VM is at the host's address where its port is forwarded; so is all that the host
            // serves to itself.
            ("127.0.0.1:5000", "http://127.0.0.1:9100/metrics"),
            ("127.0.0.1:5000", "https://127.0.0.1:9443/"),
            ("127.0.0.1:5000", "http://[::1]:5000/"),
            ("10.0.0.5:5000", "https://127.0.0.1/"),
            ("10.0.0.5:5000", "https://0.0.0.0/"),
            ("10.0.0.5:5000", "http://10.0.0.5:9100/"),
            ("10.0.0.5:5000", "http://10.0.0.6:5000/"),
            ("10.0.0.5:443", "https://169.254.169.254/"),
            ("10.0.0.5:443", "https://100.100.100.200/"),
            ("10.0.0.5:443", "https://[fd00:ec2::254]/"),
            ("203.0.113.7:443", "https://168.63.129.16/"),
            ("169.254.169.254:80", "http://169.254.169.254/"),
        ] {
            assert!(!admits(sender, to), "{sender} to {to}");
        }
    }

    #[test]
    fn an_address_of_this_host_is_as_near_as_its_loopback() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // For documentation, so nobody's (RFC 5737).
        let way = socket.connect("203.0.113.1:9");
        let own = way.and_then(|()| socket.local_addr());
        let Some(own) = own.ok().filter(|own| !own.ip().is_loopback()) else {
            eprintln!("skipped: this machine has no address but its loopback");
            return;
        };
        let own = own.ip();
        let is_own = [own, "203.0.113.1".parse().unwrap()].map(is_own);
        assert_eq!(is_own, [Some(true), Some(false)]);
        let admits = |sender: &str, to: &str| {
            let to = Url::parse(to).unwrap();
            Reach::led_by(sender.parse().ok(), &to).check(&to).is_ok()
        };
        let itself = format!("{own}:5000");
        for (sender, scheme, port) in [
            ("127.0.0.1:5000", "http", 5000),
            ("127.0.0.1:5000", "https", 9443),
            ("10.213.87.6:443", "https", 443),
            ("203.0.113.7:443", "https", 443),
            (&itself, "http", 9100),
            (&itself, "https", 9443),
        ] {
            let to = format!("{scheme}://{own}:{port}/");
            assert!(!admits(sender, &to), "{sender} to {to}");
        }
        assert!(admits(&itself, &format!("http://{itself}/token")));
        let named = Url::parse(&format!("http://{itself}/v2/")).unwrap();
        assert!(Reach::Named.check(&named).is_ok());
    }

    #[test]
    fn an_address_in_a_url_is_judged_in_every_spelling() {
        let check = |url: &str| Reach::Named.check(&Url::parse(url).unwrap());
        for url in [
            "http://169.254.169.254/v2/",
            "http://2852039166/v2/",
            "http://0xa9.0xfe.0xa9.0xfe/v2/",
            "http://[fe80::1]/v2/",
            "http://[::ffff:a9fe:a9fe]/v2/",
            "http://168.63.129.16/v2/",
            "http://0xa8.077.0x81.020/v2/",
            "http://[fd00:0ec2:0::254]/v2/",
        ] {
            assert!(check(url).is_err(), "{url}");
        }
        assert!(check("http://127.0.0.1:5000/v2/").is_ok());
        assert!(check("https://registry.example/v2/").is_ok());
    }

    #[tokio::test]
    async fn a_name_leads_no_further_than_its_addresses() {
        let ask = async |reach| {
            let name = "localhost".parse().unwrap();
            Resolver::new(reach).call(name).await.map(Iterator::count)
        };
        assert!(ask(Reach::Named).await.unwrap() > 0);
        let error = ask(Reach::Public).await.unwrap_err();
        assert!(error.is::<OutOfReach>(), "{error}");
    }
}
