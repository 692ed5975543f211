//! The conversation with a guest breaks off, and is begun again.

use std::path::Path;

use hostler_vmm::GuestProblem;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, getpeername, shutdown};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::Inside;
use crate::support::{Host, PATIENCE};

/// This process is the daemon, so it can hang up behind the daemon's back.
pub(super) async fn a_conversation_that_breaks_off_is_begun_again(
    inside: &Inside<'_>,
    host: &Host,
) {
    let mut cut_off = inside.exec(&["sleep", "777"], None).await;
    inside.until_there("sleep 777").await;
    assert!(hang_up(&host.data_dir()) > 0, "no conversation was found");
    let lost = tokio::time::timeout(PATIENCE, cut_off.next()).await;
    let lost = lost.expect("it is told");
    assert!(matches!(lost, Err(GuestProblem::Lost)), "{lost:?}");
    assert_eq!(inside.shell("echo again").await, "again");
    inside.until_gone("sleep 777").await;
}

/// Ends every connection of ours to a guest in this directory; says how many there were.
fn hang_up(data_dir: &Path) -> usize {
    let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = numbers.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let sockets = numbers
        .filter_map(|number: i32| pidfd_getfd(&me, number, PidfdGetfdFlags::empty()).ok())
        .filter(|fd| {
            let Ok(Some(peer)) = getpeername(fd) else {
                return false;
            };
            let path = (peer.address_family() == AddressFamily::UNIX)
                .then(|| SocketAddrUnix::try_from(peer).ok())
                .flatten();
            let path = path.and_then(|peer| Some(peer.path()?.to_string_lossy().into_owned()));
            path.is_some_and(|path| {
                path.starts_with(data_dir.to_str().unwrap()) && path.ends_with("guest.sock")
            })
        });
    let ended = sockets.map(|socket| shutdown(&socket, Shutdown::Both).unwrap());
    ended.count()
}
