//! `hostler vm create`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::place::Wanted;
use super::words::{Forward, Mount, Restart};
use super::{COLUMNS, One};
use crate::client::LONG_PATIENCE;
use crate::commands::show;
use crate::failure::{Doing, Failure};

#[derive(Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub(super) one: One,
    #[command(flatten)]
    wanted: Wanted,
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

impl Create {
    pub(super) async fn run(self) -> Result<(), Failure> {
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
        let mut body = self.wanted.to_json();
        body["name"] = json!(self.one.name);
        let mut set = |field: &str, value: Option<Value>| {
            if let Some(value) = value {
                body[field] = value;
            }
        };
        set("image", self.image.clone().map(Value::from));
        set("kernel", self.kernel.clone().map(Value::from));
        set("auto_start", self.auto_start.then_some(Value::Bool(true)));
        let restart = self.restart.as_ref();
        set("restart_policy", restart.map(|r| Value::from(r.policy)));
        set(
            "restart_limit",
            restart.and_then(|r| r.limit).map(Value::from),
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
