//! What runs first inside a microVM, and what stays to answer the host.
//!
//! The program is `/init` of the initial RAM file system, alone there with the kernel's modules
//! and the VM's configuration. It lives twice:
//!
//! - as process 1 it **boots** ([`boot`]): it loads modules, mounts the root disk, tells the guest
//!   who it is (name, network, keys), and becomes the image's own `/sbin/init`, or runs the
//!   image's program where there is none ([`program`]);
//! - as a child that stays behind it is the **agent** ([`agent`]): it answers the host over a
//!   virtio serial port, until the host asks it to end the guest cleanly.
//!
//! It is one static binary without a shell or a library beside it, because under software
//! emulation every program that starts costs milliseconds that somebody waits for.

mod agent;
mod boot;
mod config;
mod error;
mod modules;
mod network;
mod program;
mod protocol;
mod shutdown;

use std::env;
use std::process::ExitCode;

/// The argument that makes the program the agent.
const AGENT: &str = "agent";

fn main() -> ExitCode {
    let is_agent = env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == AGENT);
    let ended = if is_agent { agent::run() } else { boot::run() };
    let Err(error) = ended else {
        return ExitCode::SUCCESS;
    };
    // The console is the only place where anybody could read this. When process 1 ends, the
    // kernel panics, and the host sees that the guest did not come up.
    eprintln!("hostler-guest: {error}");
    ExitCode::FAILURE
}
