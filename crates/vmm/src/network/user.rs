//! Guests in user mode, and what of the host they are kept from.
//!
//! QEMU dials for such a guest as any program of the host would: to the host's own loopback
//! address, to other VMs' ports, to the metadata of its cloud. So where we may, QEMU becomes a user
//! of its own before its guest runs, and a table of ours holds back what that user sends there
//! ([`rules`]). The table is there while such a VM runs and gone soon after the last one; it depends on
//! the ports that lead in over UDP and on nothing else of a VM, so mostly one VM's start makes it
//! and the others find it.

mod care;
mod means;
mod others;
mod rules;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use self::rules::Plan;
use super::error::NetworkError;
use super::nft;
use crate::model::{PortForward, Protocol, VmId};
use crate::tool;

/// The first of the users (and groups) that guests' processes can be: above those of jailed VMs.
/// Which one it is depends on the data directory, so two daemons on one machine rarely share one;
/// it does no harm when they do.
const FIRST_USER: u32 = 966_000;
const USERS: u32 = 1000;

/// What keeps guests in user mode from their host.
pub(crate) struct UserMode {
    table: String,
    /// Whose it is, for the daemons that come after.
    owner: Option<String>,
    user: u32,
    bridge: Option<String>,
    wall: Mutex<Wall>,
}

/// What is on the host now.
#[derive(Debug, Default)]
struct Wall {
    up: bool,
    /// VMs that run, with their ports over UDP.
    guests: BTreeMap<VmId, Vec<PortForward>>,
    /// Whether VMs may run of which nobody knows.
    unknown: bool,
    name_servers: Vec<IpAddr>,
}

impl Wall {
    fn is_needed(&self) -> bool {
        self.unknown || !self.guests.is_empty()
    }

    fn forwards(&self) -> Vec<PortForward> {
        self.guests.values().flatten().copied().collect()
    }
}

impl UserMode {
    /// Finds out whether guests can be kept from this host; the reason for people if they cannot.
    /// `data_dir` tells it from that of other daemons, and changes only when no VM runs.
    pub(crate) async fn open(data_dir: &Path, bridge: Option<String>) -> Result<Arc<Self>, String> {
        let digest = Sha256::digest(data_dir.as_os_str().as_bytes());
        let [a, b, c, d] = [digest[0], digest[1], digest[2], digest[3]];
        let mark = u32::from_be_bytes([a, b, c, d]);
        let mode = Arc::new(Self {
            table: format!("{}{mark:08x}", others::PREFIX),
            owner: others::comment(data_dir),
            user: FIRST_USER + mark % USERS,
            bridge,
            wall: Mutex::default(),
        });
        means::check(mode.user)?;
        match mode.try_rules().await {
            // A host that was too busy to answer is asked again before a VM starts.
            Err(error) if !error.is_passing() => return Err(error.to_string()),
            Err(error) => tracing::warn!(%error, "it was not seen whether guests can be kept away"),
            Ok(()) => {}
        }
        tokio::spawn(care::look_after(Arc::downgrade(&mode)));
        Ok(mode)
    }

    /// The user that a guest's process has to become.
    pub(crate) fn user(&self) -> u32 {
        self.user
    }

    /// Sees to it that the rules are there before a VM runs.
    pub(crate) async fn admit(
        &self,
        vm: VmId,
        forwards: &[PortForward],
    ) -> Result<(), NetworkError> {
        let mut wall = self.wall.lock().await;
        let before = wall.forwards();
        wall.guests.insert(vm, over_udp(forwards));
        if wall.up && wall.forwards() == before {
            return Ok(());
        }
        let built = self.build(&mut wall).await;
        if built.is_err() {
            wall.guests.remove(&vm);
        }
        built
    }

    /// Forgets a VM that has ended. When it was the last one the rules stay for a moment ([`care`]): who
    /// starts another right away need not wait for them.
    pub(crate) async fn dismiss(&self, vm: VmId) {
        let mut wall = self.wall.lock().await;
        let Some(forwards) = wall.guests.remove(&vm) else {
            return;
        };
        if wall.is_needed() {
            // Ports that lead to it are somebody else's from now on.
            if !forwards.is_empty()
                && let Err(error) = self.build(&mut wall).await
            {
                tracing::warn!(%error, "ports of a VM that has ended stay in the rules");
            }
        }
    }

    /// Makes the rules what they should be.
    async fn build(&self, wall: &mut Wall) -> Result<(), NetworkError> {
        wall.up = false;
        wall.name_servers = means::name_servers();
        nft::carry_out(&self.text(&wall.name_servers, wall.forwards())).await?;
        wall.up = true;
        Ok(())
    }

    /// Whether the kernel would take our rules.
    async fn try_rules(&self) -> Result<(), NetworkError> {
        let text = self.text(&means::name_servers(), Vec::new());
        nft::check(&text).await
    }

    fn text(&self, name_servers: &[IpAddr], forwards: Vec<PortForward>) -> String {
        rules::replacement(&Plan {
            table: &self.table,
            owner: self.owner.as_deref(),
            user: self.user,
            name_servers,
            bridge: self.bridge.as_deref(),
            forwards,
        })
    }
}

fn over_udp(forwards: &[PortForward]) -> Vec<PortForward> {
    let forwards = forwards.iter().copied();
    forwards
        .filter(|forward| forward.protocol == Protocol::Udp)
        .collect()
}

impl Drop for UserMode {
    /// Leaves nothing behind that no VM needs. A daemon that is killed leaves it to the next one.
    fn drop(&mut self) {
        let wall = self.wall.get_mut();
        if !wall.up || wall.is_needed() {
            return;
        }
        let removed = tool::at_once("nft", &["-f", "-"], &rules::removal(&self.table));
        if let Err(error) = removed {
            tracing::warn!(%error, "rules without VMs were not removed");
        }
    }
}
