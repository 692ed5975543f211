//! `hostler vm`: microVMs, wherever in the fleet they run.

mod copy;
mod exec;
mod logs;
mod terminal;

use std::net::{Ipv4Addr, ToSocketAddrs, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Column, Common, show, show_fields, snapshot};
use crate::client::{Api, LONG_PATIENCE};
use crate::failure::{Doing, Failure};
use crate::output::{self, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Vm {
    /// Create a VM; it does not run before it is started
    #[command(
        after_help = "Example:\n  hostler vm create web-1 --memory-mb 256 --port 8080:80 \
                            --ssh-key ~/.ssh/id_ed25519.pub --start"
    )]
    Create(Box<Create>),
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
        after_help = "Example:\n  hostler vm cp index.html web-1:/srv/www/\n  \
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

#[derive(Args)]
pub(crate) struct Create {
    #[command(flatten)]
    one: One,
    /// Virtual CPUs, 1 to 32 [default: 1]
    #[arg(long)]
    cpus: Option<u32>,
    /// Memory in MiB, 128 to 65536 [default: 512]
    #[arg(long)]
    memory_mb: Option<u32>,
    /// Disk in MiB, 256 to 1048576 [default: 1024]
    #[arg(long)]
    disk_size_mb: Option<u32>,
    /// The image of its disk [default: the host's]
    #[arg(long)]
    image: Option<String>,
    /// Its kernel [default: the host's]
    #[arg(long)]
    kernel: Option<String>,
    /// The public key that may log in as root over SSH, a file
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<PathBuf>,
    /// Forward `[IP:]HOST_PORT:GUEST_PORT`, with /udp for UDP; may be given again. The host
    /// listens on that IP, 127.0.0.1 unless said, and 0.0.0.0 for all
    #[arg(long = "port", value_name = "FORWARD")]
    ports: Vec<Forward>,
    /// Share a directory of the host, which its agent has to allow (--mount-allow): the guest finds
    /// it at /mnt/TAG, and with :ro can only read it. May be given again
    #[arg(long = "mount", value_name = "HOST_DIR:TAG[:ro]")]
    mounts: Vec<Mount>,
    /// The host to place it on [default: the least loaded]
    #[arg(long)]
    host: Option<String>,
    /// Only on hosts with this tag; may be given again
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Start it whenever its host boots
    #[arg(long)]
    auto_start: bool,
    /// Start it again when it ends: never, on-failure or always; with `:N`, at most N times in a
    /// row [default: never, and 10 times]
    #[arg(long, value_name = "POLICY[:N]")]
    restart: Option<Restart>,
    /// Start it now
    #[arg(long)]
    start: bool,
}

/// `/srv/data:data`, or `/srv/data:data:ro`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    host_path: String,
    guest_tag: String,
    read_only: bool,
}

impl FromStr for Mount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is not HOST_DIR:TAG, such as /srv/data:data or /srv/data:data:ro");
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let (host_path, guest_tag) = rest.rsplit_once(':').ok_or_else(wrong)?;
        if !host_path.starts_with('/') || guest_tag.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            host_path: host_path.to_owned(),
            guest_tag: guest_tag.to_owned(),
            read_only,
        })
    }
}

impl Mount {
    fn to_json(&self) -> Value {
        let Self {
            host_path,
            guest_tag,
            read_only,
        } = self;
        json!({ "host_path": host_path, "guest_tag": guest_tag, "read_only": read_only })
    }
}

/// `8080:80`, `0.0.0.0:8080:80` or `5353:53/udp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forward {
    bind: Option<Ipv4Addr>,
    host_port: u16,
    guest_port: u16,
    protocol: &'static str,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not [IP:]HOST_PORT:GUEST_PORT, such as 8080:80, 0.0.0.0:8080:80 or \
                 53:53/udp"
            )
        };
        let (ports, protocol) = match text.split_once('/') {
            None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), "tcp"),
            Some((ports, "udp")) => (ports, "udp"),
            Some(_) => return Err(wrong()),
        };
        let (host, guest) = ports.rsplit_once(':').ok_or_else(wrong)?;
        let (bind, host) = match host.rsplit_once(':') {
            None => (None, host),
            Some((ip, port)) => (Some(ip.parse().map_err(|_| wrong())?), port),
        };
        let port = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|p| *p > 0)
                .ok_or_else(wrong)
        };
        Ok(Self {
            bind,
            host_port: port(host)?,
            guest_port: port(guest)?,
            protocol,
        })
    }
}

impl Forward {
    fn to_json(&self) -> Value {
        let Self {
            bind,
            host_port,
            guest_port,
            protocol,
        } = self;
        let mut forward =
            json!({ "host_port": host_port, "guest_port": guest_port, "protocol": protocol });
        if let Some(bind) = bind {
            forward["bind"] = json!(bind);
        }
        forward
    }
}

/// `on-failure`, or `always:5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Restart {
    policy: &'static str,
    limit: Option<u32>,
}

impl FromStr for Restart {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{text:?} is not never, on-failure or always, perhaps with a limit: always:5")
        };
        let (policy, limit) = match text.split_once(':') {
            None => (text, None),
            Some((policy, limit)) => (policy, Some(limit.parse().map_err(|_| wrong())?)),
        };
        let known = ["never", "on-failure", "always"];
        let policy = known.into_iter().find(|known| *known == policy);
        let policy = policy.ok_or_else(wrong)?;
        match limit {
            Some(0 | 1001..) => Err(wrong()),
            limit => Ok(Self { policy, limit }),
        }
    }
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
        Vm::Ssh { one, key, command } => ssh(one, key, command).await,
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

impl Create {
    async fn run(self) -> Result<(), Failure> {
        let body = self.body()?;
        let api = self.one.common.connect.open()?;
        let ask = api.post(&["v1", "vms"]).body(body).patience(LONG_PATIENCE);
        let mut vm = ask.send().await?;
        if self.start {
            let start = api
                .post(&["v1", "vms", &self.one.name, "start"])
                .patience(LONG_PATIENCE);
            vm = start.send().await?;
        }
        show(self.one.common.printing, &vm, COLUMNS);
        Ok(())
    }

    fn body(&self) -> Result<Value, Failure> {
        let mut body = json!({ "name": self.one.name });
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[field] = value;
            }
        };
        set("cpus", self.cpus.map(Value::from));
        set("memory_mb", self.memory_mb.map(Value::from));
        set("disk_size_mb", self.disk_size_mb.map(Value::from));
        set("image", self.image.clone().map(Value::from));
        set("kernel", self.kernel.clone().map(Value::from));
        set("host", self.host.clone().map(Value::from));
        set("auto_start", self.auto_start.then_some(Value::Bool(true)));
        let restart = self.restart.as_ref();
        set("restart_policy", restart.map(|r| Value::from(r.policy)));
        set(
            "restart_limit",
            restart.and_then(|r| r.limit).map(Value::from),
        );
        set(
            "required_tags",
            (!self.tags.is_empty()).then(|| json!(self.tags)),
        );
        let forwards: Vec<Value> = self.ports.iter().map(Forward::to_json).collect();
        set(
            "port_forwards",
            (!forwards.is_empty()).then_some(Value::Array(forwards)),
        );
        let mounts: Vec<Value> = self.mounts.iter().map(Mount::to_json).collect();
        set(
            "mounts",
            (!mounts.is_empty()).then_some(Value::Array(mounts)),
        );
        if let Some(path) = &self.ssh_key {
            let key = std::fs::read_to_string(path)
                .doing(|| format!("cannot read the SSH key {}", path.display()))?;
            if key.contains("PRIVATE KEY") {
                return Err(Failure::new(format!(
                    "{} is a private key; give the public one, {}.pub",
                    path.display(),
                    path.display()
                )));
            }
            set("ssh_public_key", Some(Value::String(key.trim().to_owned())));
        }
        Ok(body)
    }
}

/// Becomes `ssh`, so that terminal, signals and exit code are its own.
async fn ssh(one: One, key: Option<PathBuf>, command: Vec<String>) -> Result<(), Failure> {
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
    // Without its port. A name stands as it is.
    let address = host["address"].as_str().unwrap_or_default();
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
    fn a_mount_is_a_directory_and_a_tag_and_perhaps_only_to_be_read() {
        let mount = |text: &str| text.parse::<Mount>();
        let plain = mount("/srv/my:data:work").expect("a mount");
        assert_eq!(
            (&*plain.host_path, &*plain.guest_tag),
            ("/srv/my:data", "work")
        );
        assert!(!plain.read_only);
        assert_eq!(mount("/srv/my:data:work:rw"), Ok(plain));
        assert_eq!(
            mount("/srv:work:ro").expect("a mount").to_json()["read_only"],
            true
        );
        for bad in [
            "", "/srv", "srv:work", ":work", "/srv:", "/srv:ro", "/srv::ro",
        ] {
            assert!(mount(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_forward_is_two_ports_and_perhaps_a_protocol() {
        let forward = |text: &str| text.parse::<Forward>();
        let tcp = forward("8080:80").expect("a forward");
        assert_eq!(
            (tcp.host_port, tcp.guest_port, tcp.protocol),
            (8080, 80, "tcp")
        );
        assert_eq!(forward("8080:80/tcp"), Ok(tcp));
        assert_eq!(forward("53:53/udp").expect("a forward").protocol, "udp");
        let open = forward("0.0.0.0:1:2").expect("a forward");
        assert_eq!(open.to_json()["bind"], "0.0.0.0");
        for bad in [
            "",
            "80",
            "0:80",
            "80:0",
            "99999:1",
            "a:b",
            "80:80/sctp",
            "1:2:3",
            "localhost:1:2",
            "[::1]:1:2",
        ] {
            assert!(forward(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_restart_is_a_policy_and_perhaps_a_limit() {
        let restart = |text: &str| text.parse::<Restart>();
        let always = restart("always:5").expect("a policy");
        assert_eq!((always.policy, always.limit), ("always", Some(5)));
        let failure = restart("on-failure").expect("a policy");
        assert_eq!((failure.policy, failure.limit), ("on-failure", None));
        for bad in [
            "",
            "sometimes",
            "always:",
            "always:0",
            "always:1001",
            "always:x",
            ":5",
        ] {
            assert!(restart(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn this_machine_knows_its_own_addresses() {
        assert!(is_here("127.0.0.1") && is_here("localhost"));
        // For documentation, so nobody's (RFC 5737).
        assert!(!is_here("192.0.2.1") && !is_here(""));
    }
}
