//! `hostler vm ssh`: over the forward that leads to the guest's port 22.

use std::net::{ToSocketAddrs, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use serde_json::Value;

use super::One;
use crate::client::Api;
use crate::failure::Failure;

/// Becomes `ssh`, so that terminal, signals and exit code are its own.
pub(super) async fn ssh(
    one: One,
    key: Option<PathBuf>,
    command: Vec<String>,
) -> Result<(), Failure> {
    let api = one.common.connect.open()?;
    let vm = api.get(&["v1", "vms", &one.name]).send().await?;
    let forwards = vm["port_forwards"].as_array();
    let forward = forwards.into_iter().flatten().find(|f| f["guest_port"] == 22).ok_or_else(|| {
        let name = &one.name;
        Failure::new(format!(
            "no port of the host leads to port 22 of {name}; run `hostler vm port-forward {name} \
             2222:22`"
        ))
    })?;
    let address = reach(&api, &vm, forward).await?;
    let mut ssh = std::process::Command::new("ssh");
    // A VM's host key is made anew with the VM; what vouches for it is the control plane that led
    // here, so the key is neither asked about nor remembered.
    ssh.args([
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ])
    .args([
        "-o",
        "LogLevel=ERROR",
        "-p",
        &forward["host_port"].to_string(),
    ]);
    if let Some(key) = key {
        ssh.arg("-i").arg(key).args(["-o", "IdentitiesOnly=yes"]);
    }
    let problem = ssh.arg(format!("root@{address}")).args(command).exec();
    Err(Failure::new(format!(
        "cannot run ssh: {problem}; install openssh-client"
    )))
}

/// Where a forward is reached from this machine: at the address that it listens on, at its host's
/// when it listens on all.
async fn reach(api: &Api, vm: &Value, forward: &Value) -> Result<String, Failure> {
    let bind = forward["bind"].as_str().unwrap_or("127.0.0.1");
    let id = vm["host"].as_str().unwrap_or_default();
    let host = api.get(&["v1", "hosts", id]).send().await?;
    let Some(address) = host["address"].as_str() else {
        return Err(Failure::new(format!(
            "{id} has no address: it is reached over a connection of its own, and its ports are \
             not; use `hostler vm shell` or `hostler vm exec`"
        )));
    };
    // Without its port. A name stands as it is.
    let address = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let address = address.trim_start_matches('[').trim_end_matches(']');
    match bind {
        _ if is_here(address) => Ok(match bind {
            "0.0.0.0" => "127.0.0.1".to_owned(),
            bind => bind.to_owned(),
        }),
        "0.0.0.0" => Ok(address.to_owned()),
        bind if bind.starts_with("127.") => Err(Failure::new(format!(
            "the forward to port 22 listens on {bind} of {id} ({address}) only; log in to that \
             machine, or make one that listens for others: hostler vm port-forward NAME \
             0.0.0.0:PORT:22"
        ))),
        bind => Ok(bind.to_owned()),
    }
}

/// Whether an address is one of this machine's: only then a socket can be bound to it.
fn is_here(address: &str) -> bool {
    let mut addresses = (address, 0).to_socket_addrs().into_iter().flatten();
    addresses.any(|at| UdpSocket::bind(at).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_knows_its_own_addresses() {
        assert!(is_here("127.0.0.1") && is_here("localhost"));
        // For documentation, so nobody's (RFC 5737).
        assert!(!is_here("192.0.2.1") && !is_here(""));
    }
}
