//! `hostler snapshot`: what VMs were, and can be again.

use clap::Subcommand;
use serde_json::{Value, json};

use super::vm::One;
use super::{Column, show};
use crate::client::LONG_PATIENCE;
use crate::failure::Failure;
use crate::output::{self, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Snapshot {
    /// List the snapshots of a VM
    #[command(after_help = "Example:\n  hostler snapshot list web-1")]
    List(One),
    /// Delete a snapshot of a VM; the VM is not touched
    #[command(after_help = "Example:\n  hostler snapshot delete web-1 before-upgrade")]
    Delete {
        #[command(flatten)]
        one: One,
        /// The snapshot's name
        snapshot: String,
    },
}

const COLUMNS: &[Column] = &[
    ("NAME", |v| cell(v, "name")),
    ("VM", |v| cell(v, "vm")),
    ("MEMORY", |v| match v["memory"].as_bool() {
        Some(true) => "yes".to_owned(),
        _ => "no".to_owned(),
    }),
    ("SIZE_MB", |v| cell(v, "size_mb")),
    ("CREATED", |v| moment(v, "created_at")),
];

pub(crate) async fn run(snapshot: Snapshot) -> Result<(), Failure> {
    match snapshot {
        Snapshot::List(one) => {
            let api = one.common.connect.open()?;
            let path = ["v1", "vms", &one.name, "snapshots"];
            show(one.common.printing, &api.list(&path).await?, COLUMNS);
        }
        Snapshot::Delete { one, snapshot } => {
            let api = one.common.connect.open()?;
            let path = ["v1", "vms", &one.name, "snapshots", &snapshot];
            api.delete(&path).send().await?;
            output::progress(format!("deleted {snapshot} of {}", one.name));
        }
    }
    Ok(())
}

/// `hostler vm snapshot`.
pub(super) async fn take(one: One, name: Option<String>) -> Result<(), Failure> {
    let api = one.common.connect.open()?;
    let mut ask = api
        .post(&["v1", "vms", &one.name, "snapshot"])
        .patience(LONG_PATIENCE);
    if let Some(name) = name {
        ask = ask.body(json!({ "snapshot": name }));
    }
    show(one.common.printing, &ask.send().await?, COLUMNS);
    Ok(())
}

/// `hostler vm restore`; answers how the VM is then.
pub(super) async fn restore(one: &One, snapshot: &str, force: bool) -> Result<Value, Failure> {
    let api = one.common.connect.open()?;
    let ask = api
        .post(&["v1", "vms", &one.name, "restore"])
        .body(json!({ "snapshot": snapshot, "force": force }))
        .patience(LONG_PATIENCE);
    ask.send().await
}
