//! The commands and their help. Every command shows an example.

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::agent::install::Install;
use crate::commands::{
    Common, api_key, audit, entry, host, image, kernel, login, snapshot, spiffe_id, svid, team,
    tls, token_key, user, vm, watch,
};
use crate::options::{AgentOptions, ServerOptions, UpOptions};
use crate::output;

/// A private microVM cloud: hosts enrol, prove who they are, and run microVMs.
#[derive(Parser)]
#[command(
    name = "hostler",
    version,
    propagate_version = true,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the control plane
    #[command(
        after_help = "Example:\n  hostler server --data-dir /var/lib/hostler/server \
                            --listen 10.0.0.1:8443 --fleet-listen 10.0.0.1:8444 --tls-name cloud.example"
    )]
    Server(Box<ServerOptions>),
    /// Run a host: enrol this machine and run microVMs on it
    #[command(after_help = "Examples:\n  HOSTLER_REGISTER=TOKEN hostler agent \
                            --server https://cloud.example:8443 --server-ca ca.pem \
                            --address 10.0.0.7:9443\n  hostler agent --standalone \
                            --listen 10.0.0.7:9443 --tls-cert server.crt --tls-key server.key \
                            --tls-ca ca.crt")]
    Agent(Box<Agent>),
    /// Run a control plane and a host on this machine, enrolled to each other
    #[command(after_help = "Example:\n  hostler up --data-dir ./hostler-data")]
    Up(Box<UpOptions>),
    /// Hosts: the machines that run microVMs
    #[command(subcommand)]
    Host(host::Host),
    /// MicroVMs
    #[command(subcommand)]
    Vm(vm::Vm),
    /// Snapshots of microVMs; `hostler vm snapshot` takes them and `hostler vm restore` uses them
    #[command(subcommand)]
    Snapshot(snapshot::Snapshot),
    /// Root file system images on a host
    #[command(subcommand)]
    Image(image::Image),
    /// Kernels on a host
    #[command(subcommand)]
    Kernel(kernel::Kernel),
    /// Users: who may log in
    #[command(subcommand)]
    User(user::User),
    /// Teams: who shares VMs, hosts and keys
    #[command(subcommand)]
    Team(team::Team),
    /// API keys: what programs present to the control plane
    #[command(subcommand)]
    ApiKey(api_key::ApiKey),
    /// The keys that sign host tokens and user tokens
    #[command(subcommand)]
    TokenKey(token_key::TokenKey),
    /// Registration entries: which processes on which hosts have which identities
    #[command(subcommand)]
    Entry(entry::Entry),
    /// The audit trail: who changed what, and whether it is whole
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Show the state of the whole fleet
    #[command(after_help = "Example:\n  hostler status --output json")]
    Status(Common),
    /// Tell what happens to hosts and VMs, as it happens
    #[command(after_help = "Example:\n  hostler watch\n  hostler watch --output json")]
    Watch(watch::Watch),
    /// Log in with a name and a password, or save an API key; for the next commands
    #[command(
        after_help = "Examples:\n  hostler login --user ada --server https://cloud.example:8443 \
                            --ca ca.pem\n  HOSTLER_TOKEN=hst_... hostler login --server \
                            https://cloud.example:8443 --ca ca.pem"
    )]
    Login(login::Login),
    /// Log out everywhere: all your tokens end
    #[command(after_help = "Example:\n  hostler logout")]
    Logout(login::Logout),
    /// Identities (SVIDs): in files, from a Workload API, and the keys of their authority
    #[command(subcommand)]
    Svid(svid::Svid),
    /// SPIFFE IDs as text
    #[command(subcommand)]
    SpiffeId(spiffe_id::SpiffeIdCommand),
    /// Certificates for hosts without a control plane
    #[command(subcommand)]
    Tls(tls::Tls),
    /// Print a completion script for a shell
    #[command(after_help = "Example:\n  hostler completion bash > \
                            /etc/bash_completion.d/hostler")]
    Completion {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Args)]
pub(crate) struct Agent {
    #[command(flatten)]
    pub(crate) options: AgentOptions,
    #[command(subcommand)]
    pub(crate) step: Option<AgentStep>,
}

#[derive(Subcommand)]
pub(crate) enum AgentStep {
    /// Make a host a service of systemd, with the options that it is to run with
    #[command(
        after_help = "Example:\n  HOSTLER_REGISTER=TOKEN hostler agent install \
                            --server https://cloud.example:8443 --server-ca /etc/hostler/ca.pem \
                            --address 10.0.0.7:9443"
    )]
    Install(Box<Install>),
}

pub(crate) fn completion(shell: Shell) {
    // By way of memory: the generator panics when its reader goes away.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hostler", &mut script);
    output::bytes(&script);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_agree_with_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn visit(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let mut leaves = command
                .get_subcommands()
                .filter(|c| c.get_name() != "help")
                .peekable();
            if leaves.peek().is_none() {
                let help = command
                    .get_after_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let shown = ["Example:", "Examples:"]
                    .iter()
                    .any(|head| help.contains(head));
                assert!(shown, "{path} has no example");
            }
            leaves.for_each(|leaf| visit(leaf, &path));
        }
        visit(&Cli::command(), "");
    }

    #[test]
    fn the_example_environment_lists_every_variable_of_a_daemon() {
        let listed = include_str!("../../../.env.example");
        let commands = Cli::command();
        for daemon in ["server", "agent", "up"] {
            let command = commands
                .find_subcommand(daemon)
                .expect("the command exists");
            for argument in command
                .get_arguments()
                .filter(|a| a.get_long() != Some("help"))
            {
                let flag = argument.get_long().unwrap_or_default();
                if flag == "version" {
                    continue;
                }
                let expected = format!("HOSTLER_{}", flag.to_uppercase().replace('-', "_"));
                let variable = argument.get_env().and_then(|v| v.to_str());
                assert_eq!(variable, Some(expected.as_str()), "{daemon} --{flag}");
                assert!(
                    listed.contains(&format!("{expected}=")),
                    ".env.example lacks {expected}"
                );
            }
        }
    }
}
