//! Ports of the host: who has which, and whether one is really free.
//!
//! Two questions, two means. Whether another VM of ours has a port, running or not, the
//! [`PortBook`] knows. Whether any other program has it is found out by binding it: nothing else
//! tells the truth about rules and listeners that are not ours.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::{PortForward, Protocol};
use crate::name::VmName;

/// A port of the host cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// A VM has it, even if it does not run now. The message does not name it: it may be somebody
    /// else's.
    #[error(
        "{} port {}:{} of the host leads to a VM already; choose another port",
        forward.protocol, forward.bind, forward.host_port
    )]
    Claimed {
        forward: PortForward,
        holder: VmName,
    },
    /// Another program listens on it.
    #[error(
        "{} port {}:{} of the host is in use by another program; choose another port",
        forward.protocol, forward.bind, forward.host_port
    )]
    Taken { forward: PortForward },
    /// The system does not let us listen on it.
    #[error(
        "cannot listen on {} port {}:{} of the host: {source}; choose a port of 1024 or above and \
         an address of this host", forward.protocol, forward.bind, forward.host_port
    )]
    Refused {
        forward: PortForward,
        source: io::Error,
    },
}

/// Finds out whether a port is free, by binding it for a moment.
pub(crate) fn probe(forward: &PortForward) -> Result<(), PortError> {
    let address = SocketAddr::from((forward.bind, forward.host_port.get()));
    let bound = match forward.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    };
    let forward = *forward;
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => PortError::Taken { forward },
        _ => PortError::Refused { forward, source },
    })
}

/// Which VM has which ports. The lock inside is held for the time of a look-up, or of a bind.
#[derive(Debug, Default)]
pub(crate) struct PortBook {
    claims: Mutex<Vec<(PortForward, VmName)>>,
}

impl PortBook {
    /// Writes ports down without asking, for a VM that had them before.
    pub(crate) fn enter(&self, owner: &VmName, forwards: &[PortForward]) {
        self.lock()
            .extend(forwards.iter().map(|forward| (*forward, owner.clone())));
    }

    /// Claims ports for a VM: all of them, or on any conflict none.
    pub(crate) fn claim(
        self: &Arc<Self>,
        owner: &VmName,
        forwards: &[PortForward],
    ) -> Result<PortClaim, PortError> {
        let mut claims = self.lock();
        for forward in forwards {
            if let Some((_, holder)) = claims.iter().find(|(held, _)| held.collides_with(forward)) {
                return Err(PortError::Claimed {
                    forward: *forward,
                    holder: holder.clone(),
                });
            }
            probe(forward)?;
        }
        claims.extend(forwards.iter().map(|forward| (*forward, owner.clone())));
        Ok(PortClaim {
            book: self.clone(),
            forwards: forwards.to_vec(),
        })
    }

    /// Strikes out everything that a VM has.
    pub(crate) fn release(&self, owner: &VmName) {
        self.lock().retain(|(_, holder)| holder != owner);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(PortForward, VmName)>> {
        // Every change is one call on the vector, so a panic elsewhere cannot leave it half done.
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ports that are claimed for as long as this lives, or for good once it is kept.
#[derive(Debug)]
pub(crate) struct PortClaim {
    book: Arc<PortBook>,
    forwards: Vec<PortForward>,
}

impl PortClaim {
    /// Leaves the ports with the VM.
    pub(crate) fn keep(mut self) {
        self.forwards.clear();
    }
}

impl Drop for PortClaim {
    fn drop(&mut self) {
        if !self.forwards.is_empty() {
            self.book
                .lock()
                .retain(|(held, _)| !self.forwards.contains(held));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn forward(port: u16, bind: Ipv4Addr) -> PortForward {
        PortForward {
            host_port: port.try_into().unwrap(),
            guest_port: 80.try_into().unwrap(),
            protocol: Protocol::Tcp,
            bind,
        }
    }

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port()
    }

    fn vm(name: &str) -> VmName {
        name.parse().unwrap()
    }

    #[test]
    fn a_port_that_another_program_has_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = forward(listener.local_addr().unwrap().port(), Ipv4Addr::LOCALHOST);
        assert!(matches!(probe(&taken), Err(PortError::Taken { .. })));
        let everywhere = PortForward {
            bind: Ipv4Addr::UNSPECIFIED,
            ..taken
        };
        assert!(matches!(probe(&everywhere), Err(PortError::Taken { .. })));
    }

    #[test]
    fn an_address_that_is_not_the_hosts_is_refused() {
        let stranger = forward(free_port(), Ipv4Addr::new(192, 0, 2, 1));
        assert!(matches!(probe(&stranger), Err(PortError::Refused { .. })));
    }

    #[test]
    fn a_port_of_another_vm_is_refused_although_nobody_listens() {
        let book = Arc::new(PortBook::default());
        let wanted = forward(free_port(), Ipv4Addr::LOCALHOST);
        book.claim(&vm("a"), &[wanted]).unwrap().keep();
        match book.claim(&vm("b"), &[wanted]) {
            Err(PortError::Claimed { holder, .. }) => assert_eq!(holder, vm("a")),
            other => panic!("{other:?}"),
        }
        book.release(&vm("a"));
        book.claim(&vm("b"), &[wanted]).unwrap();
    }

    #[test]
    fn a_claim_that_is_given_up_leaves_nothing() {
        let book = Arc::new(PortBook::default());
        let free = forward(free_port(), Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = forward(listener.local_addr().unwrap().port(), Ipv4Addr::LOCALHOST);
        assert!(book.claim(&vm("a"), &[free, taken]).is_err());
        drop(book.claim(&vm("a"), &[free]).unwrap());
        assert!(book.lock().is_empty());
    }
}
