//! Ports that rules lead away before anybody could listen on them: held by a socket that never
//! listens, so that another program which wants one is told that it is taken.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use crate::model::{PortForward, Protocol};
use crate::ports::PortError;

/// A port of the host that nobody else can have for as long as this lives.
#[derive(Debug)]
pub(crate) struct Hold {
    _socket: OwnedFd,
}

impl Hold {
    pub(crate) fn take(forward: &PortForward) -> Result<Self, PortError> {
        let address = SocketAddr::from((forward.bind, forward.host_port.get()));
        let kind = match forward.protocol {
            Protocol::Tcp => SocketType::STREAM,
            Protocol::Udp => SocketType::DGRAM,
        };
        let held = socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)
            .and_then(|socket| bind(&socket, &address).map(|()| socket))
            .map_err(io::Error::from);
        let forward = *forward;
        match held {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(PortError::Taken { forward })
            }
            Err(source) => Err(PortError::Refused { forward, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_held_port_is_nobody_elses_until_it_is_let_go() {
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut forward = PortForward {
            host_port: free.port().try_into().unwrap(),
            guest_port: 80.try_into().unwrap(),
            protocol: Protocol::Tcp,
            bind: Ipv4Addr::LOCALHOST,
        };
        let hold = Hold::take(&forward).unwrap();
        assert!(TcpListener::bind(free).is_err());
        assert!(matches!(Hold::take(&forward), Err(PortError::Taken { .. })));
        drop(hold);
        TcpListener::bind(free).unwrap();

        forward.protocol = Protocol::Udp;
        let _other = UdpSocket::bind(free).unwrap();
        assert!(matches!(Hold::take(&forward), Err(PortError::Taken { .. })));
    }
}
