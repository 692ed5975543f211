//! What runs first inside a microVM, and what stays to answer the host.
//!
//! The program is `/init` of the initial RAM file system, alone there with the kernel's modules
//! and the VM's configuration. It lives three lives:
//!
//! - as process 1 it **boots** ([`boot`]): it loads modules, mounts the root disk, tells the guest
//!   who it is (name, network, keys), and becomes the image's own `/sbin/init`, or runs the
//!   image's program where there is none ([`program`]);
//! - as a child that stays behind it is the **agent** ([`agent`]): it answers the host over a
//!   virtio serial port, until the host asks it to end the guest cleanly;
//! - for a moment it is each command that the host runs ([`launch`]), before it becomes that.
//!
//! It is one static binary without a shell or a library beside it, because under software
//! emulation every program that starts costs milliseconds that somebody waits for.

mod agent;
mod boot;
mod config;
mod error;
mod launch;
mod lines;
mod modules;
mod network;
mod program;
mod protocol;
mod shutdown;

use std::env;
use std::process::ExitCode;

/// The argument that makes the program the agent.
const AGENT: &str = "agent";

/// The argument that makes the program a command of the image.
const LAUNCH: &str = "launch";

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let role = arguments.next().unwrap_or_default();
    if role == LAUNCH {
        return launch::run(arguments);
    }
    let ended = if role == AGENT {
        agent::run()
    } else {
        boot::run()
    };
    let Err(error) = ended else {
        return ExitCode::SUCCESS;
    };
    // The console is the only place where anybody could read this. When process 1 ends, the
    // kernel panics, and the host sees that the guest did not come up.
    eprintln!("hostler-guest: {error}");
    ExitCode::FAILURE
}
