//! `hostler vm`: microVMs, wherever in the fleet they run.

mod copy;
mod create;
mod exec;
mod logs;
mod place;
mod ssh;
mod terminal;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::watch::{self, Things, Watch};
use super::{Column, Common, show, show_fields, snapshot};
use words::Forward;

use crate::client::LONG_PATIENCE;
use crate::failure::Failure;
use crate::output::{self, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Vm {
    /// Create a VM; it does not run before it is started
    #[command(
        after_help = "Example:\n  hostler vm create web-1 --memory-mb 256 --port 8080:80 \
                            --ssh-key ~/.ssh/id_ed25519.pub --start"
    )]
    Create(Box<create::Create>),
    /// Say where a VM would go, and why, or what keeps it from fitting; nothing is created
    #[command(after_help = "Example:\n  hostler vm place --cpus 8 --memory-mb 16384 --tag ssd")]
    Place(Box<place::Place>),
    /// Start a VM
    #[command(after_help = "Example:\n  hostler vm start web-1")]
    Start(One),
    /// Stop a VM: ask the guest, wait, then end it
    #[command(after_help = "Example:\n  hostler vm stop web-1 --timeout 30")]
    Stop {
        #[command(flatten)]
        one: One,
        /// Seconds to wait for the guest before ending it [default: 10]
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u32>,
    },
    /// Pause a VM: it stands still, memory and all, until it is resumed, started or stopped
    #[command(after_help = "Example:\n  hostler vm pause web-1")]
    Pause(One),
    /// Let a paused VM go on
    #[command(after_help = "Example:\n  hostler vm resume web-1")]
    Resume(One),
    /// Take a snapshot of a VM: its disk, and if it runs its memory; it stands still meanwhile
    #[command(after_help = "Example:\n  hostler vm snapshot web-1 before-upgrade")]
    Snapshot {
        #[command(flatten)]
        one: One,
        /// What to call the snapshot [default: by the time when it is taken]
        snapshot: Option<String>,
    },
    /// Let a VM be what it was when a snapshot was taken; what it has become since is lost
    #[command(after_help = "Example:\n  hostler vm restore web-1 before-upgrade --force")]
    Restore {
        #[command(flatten)]
        one: One,
        /// The snapshot's name
        snapshot: String,
        /// Even when it runs
        #[arg(long)]
        force: bool,
    },
    /// Delete a VM, its disk and its snapshots
    #[command(after_help = "Example:\n  hostler vm delete web-1 --force")]
    Delete {
        #[command(flatten)]
        one: One,
        /// Even when it runs
        #[arg(long)]
        force: bool,
    },
    /// List the VMs
    #[command(after_help = "Example:\n  hostler vm list")]
    List(Common),
    /// Tell what happens to VMs, as it happens
    #[command(after_help = "Example:\n  hostler vm watch")]
    Watch(Watch),
    /// Show one VM
    #[command(after_help = "Example:\n  hostler vm show web-1 --output json")]
    Show(One),
    /// Forward a port of its host to a port of a VM
    #[command(after_help = "Example:\n  hostler vm port-forward web-1 8080:80")]
    PortForward {
        #[command(flatten)]
        one: One,
        /// `[IP:]HOST_PORT:GUEST_PORT`, with /udp for UDP; the host listens on that IP, 127.0.0.1
        /// unless said, and 0.0.0.0 for all
        forward: Forward,
    },
    /// Run a command in a VM, as root; its exit code is this one's
    #[command(after_help = "Example:\n  hostler vm exec web-1 -- uname -a\n  \
                            tar -c . | hostler vm exec -i web-1 -- tar -C /srv -x\n  \
                            hostler vm exec -it web-1 -- top")]
    Exec(Box<exec::Exec>),
    /// Open a shell in a VM, as root; neither a network nor a key is needed
    #[command(after_help = "Example:\n  hostler vm shell web-1")]
    Shell(exec::Shell),
    /// Copy a file into a VM or out of it
    #[command(
        after_help = "Example:\n  hostler vm cp index.html web-1:/run/www/\n  \
                            hostler vm cp web-1:/var/log/app.log ."
    )]
    Cp(copy::Copy),
    /// Show what a VM's console shows
    #[command(after_help = "Example:\n  hostler vm logs web-1 -f")]
    Logs(logs::Logs),
    /// Open a shell in a VM over SSH, through the forward to its port 22
    #[command(after_help = "Example:\n  hostler vm ssh web-1 --key ~/.ssh/id_ed25519 -- uname -a")]
    Ssh {
        #[command(flatten)]
        one: One,
        /// The private key that belongs to the VM's SSH key
        #[arg(long, short = 'i', value_name = "FILE")]
        key: Option<PathBuf>,
        /// A command to run instead of a shell
        #[arg(last = true)]
        command: Vec<String>,
    },
}

#[derive(Args)]
pub(crate) struct One {
    /// The VM's name
    pub(super) name: String,
    #[command(flatten)]
    pub(super) common: Common,
}

const COLUMNS: &[Column] = &[
    ("NAME", |v| cell(v, "name")),
    ("STATE", |v| cell(v, "state")),
    ("HOST", |v| cell(v, "host")),
    ("CPUS", |v| cell(v, "cpus")),
    ("MEMORY_MB", |v| cell(v, "memory_mb")),
    ("IMAGE", |v| cell(v, "image")),
    ("PORTS", ports),
    ("STARTED", |v| moment(v, "started_at")),
];

fn ports(vm: &Value) -> String {
    let forwards = vm["port_forwards"].as_array();
    let each = forwards.into_iter().flatten().map(|f| {
        let udp = if f["protocol"] == "udp" { "/udp" } else { "" };
        let bind = match f["bind"].as_str() {
            None | Some("127.0.0.1") => String::new(),
            Some(ip) => format!("{ip}:"),
        };
        format!("{bind}{}:{}{udp}", f["host_port"], f["guest_port"])
    });
    let all = each.collect::<Vec<_>>().join(",");
    if all.is_empty() { "-".to_owned() } else { all }
}

/// Runs a command about VMs; one that runs something inside of a VM ends as that does.
pub(crate) async fn run(vm: Vm) -> Result<ExitCode, Failure> {
    let done = match vm {
        Vm::Exec(exec) => return exec::exec(*exec).await,
        Vm::Shell(shell) => return exec::shell(shell).await,
        Vm::Cp(copy) => copy::copy(copy).await,
        Vm::Logs(logs) => logs::logs(logs).await,
        Vm::Create(create) => create.run().await,
        Vm::Place(place) => place::place(*place).await,
        Vm::Start(one) => change(one, "start").await,
        Vm::Stop { one, timeout } => {
            let api = one.common.connect.open()?;
            let mut ask = api
                .post(&["v1", "vms", &one.name, "stop"])
                .patience(LONG_PATIENCE);
            if let Some(timeout) = timeout {
                ask = ask.body(json!({ "timeout_secs": timeout }));
            }
            show(one.common.printing, &ask.send().await?, COLUMNS);
            Ok(())
        }
        Vm::Pause(one) => change(one, "pause").await,
        Vm::Resume(one) => change(one, "resume").await,
        Vm::Snapshot { one, snapshot } => snapshot::take(one, snapshot).await,
        Vm::Restore {
            one,
            snapshot,
            force,
        } => {
            let vm = snapshot::restore(&one, &snapshot, force).await?;
            show(one.common.printing, &vm, COLUMNS);
            Ok(())
        }
        Vm::Delete { one, force } => {
            let api = one.common.connect.open()?;
            let force = force.to_string();
            api.delete(&["v1", "vms", &one.name])
                .query("force", &force)
                .send()
                .await?;
            output::progress(format!("deleted {}", one.name));
            Ok(())
        }
        Vm::List(common) => {
            let api = common.connect.open()?;
            show(common.printing, &api.list(&["v1", "vms"]).await?, COLUMNS);
            Ok(())
        }
        Vm::Watch(watch) => watch::only(Things::Vms, watch).await,
        Vm::Show(one) => {
            let api = one.common.connect.open()?;
            show_fields(
                one.common.printing,
                &api.get(&["v1", "vms", &one.name]).send().await?,
            );
            Ok(())
        }
        Vm::PortForward { one, forward } => {
            let api = one.common.connect.open()?;
            let ask = api
                .post(&["v1", "vms", &one.name, "port-forward"])
                .body(forward.to_json());
            show(one.common.printing, &ask.send().await?, COLUMNS);
            Ok(())
        }
        Vm::Ssh { one, key, command } => ssh::ssh(one, key, command).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Has something done to a VM that needs no more words, and shows how it is then.
async fn change(one: One, action: &str) -> Result<(), Failure> {
    let api = one.common.connect.open()?;
    let ask = api
        .post(&["v1", "vms", &one.name, action])
        .patience(LONG_PATIENCE);
    show(one.common.printing, &ask.send().await?, COLUMNS);
    Ok(())
}
