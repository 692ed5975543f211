//! `hostler`, the one binary: the command line and the assembly of the parts.
//!
//! Three commands run a room: `server` the control plane, `agent` a host, `up` both on this
//! machine. All others are clients of a control plane and know only its REST routes, so whatever
//! they do a program can do too. Nothing here decides anything about a VM, a host or a certificate:
//! this crate reads options, joins the rooms' doors, and prints.

mod agent;
mod attach;
mod cli;
mod client;
mod commands;
mod failure;
mod files;
mod machines;
mod options;
mod output;
mod password;
mod process;
mod server;
mod up;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Agent, AgentStep, Cli, Command};
use crate::failure::Failure;

/// What is given back goes back to the system, whichever thread took it. The C library's allocator
/// keeps it in an arena for each thread, by which a daemon with fifty VMs is a quarter larger.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(_) if output::lost() => ExitCode::FAILURE,
        Ok(code) => code,
        Err(failure) => {
            output::complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    let done = match command {
        Command::Server(options) => process::daemon(server::run(options.resolve()?)),
        Command::Agent(agent) => {
            let Agent { options, step } = *agent;
            match step {
                Some(AgentStep::Install(mut install)) => {
                    install.options = install.options.over(options);
                    install.run()
                }
                None => process::daemon(agent::run(options.resolve()?)),
            }
        }
        Command::Up(options) => process::daemon(up::run(options.resolve()?)),
        Command::Host(host) => process::client(commands::host::run(host)),
        // A command in a VM ends as it ends there.
        Command::Vm(vm) => return process::client(commands::vm::run(vm)),
        Command::Snapshot(snapshot) => process::client(commands::snapshot::run(snapshot)),
        Command::Image(image) => process::client(commands::image::run(image)),
        Command::Kernel(kernel) => process::client(commands::kernel::run(kernel)),
        Command::ApiKey(key) => process::client(commands::api_key::run(key)),
        Command::TokenKey(key) => process::client(commands::token_key::run(key)),
        Command::Entry(entry) => process::client(commands::entry::run(entry)),
        Command::Audit(audit) => process::client(commands::audit::run(audit)),
        Command::Watch(watch) => process::client(commands::watch::everything(watch)),
        Command::Status(status) => process::client(commands::status::run(status)),
        Command::User(user) => process::client(commands::user::run(user)),
        Command::Team(team) => process::client(commands::team::run(team)),
        Command::Login(login) => process::client(commands::login::run(login)),
        Command::Logout(logout) => process::client(commands::login::out(logout)),
        Command::Svid(svid) => process::client(commands::svid::run(svid)),
        Command::SpiffeId(id) => commands::spiffe_id::run(id),
        Command::Tls(tls) => commands::tls::run(tls),
        Command::Completion { shell } => {
            cli::completion(shell);
            Ok(())
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}
