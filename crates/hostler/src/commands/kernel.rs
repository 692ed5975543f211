//! `hostler kernel`: the kernels that a host boots its VMs with.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Column, host_or_only, show};
use crate::cli::Printing;
use crate::client::{Connect, LONG_PATIENCE};
use crate::failure::Failure;
use crate::output::{self, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Kernel {
    /// List the kernels of a host
    #[command(after_help = "Example:\n  hostler kernel list")]
    List(On),
    /// Take over a kernel from a file on a host: an ELF vmlinux or a bzImage
    #[command(after_help = "Example:\n  hostler kernel import /boot/vmlinuz-6.1 --name debian-6.1")]
    Import {
        /// A path on the host
        source: String,
        /// What the kernel is to be called
        #[arg(long)]
        name: String,
        #[command(flatten)]
        on: On,
    },
    /// Delete a kernel that no VM uses
    #[command(after_help = "Example:\n  hostler kernel delete debian-6.1")]
    Delete {
        /// The kernel's name
        name: String,
        #[command(flatten)]
        on: On,
    },
}

#[derive(Args)]
pub(crate) struct On {
    /// The host [default: the only one]
    #[arg(long)]
    host: Option<String>,
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    printing: Printing,
}

const COLUMNS: &[Column] = &[
    ("NAME", |k| cell(k, "name")),
    ("ARCH", |k| cell(k, "arch")),
    ("FORMAT", |k| cell(k, "format")),
    ("SHA256", |k| cell(k, "sha256").chars().take(16).collect()),
    ("CREATED", |k| moment(k, "created_at")),
];

pub(crate) async fn run(kernel: Kernel) -> Result<(), Failure> {
    let (Kernel::List(on) | Kernel::Import { on, .. } | Kernel::Delete { on, .. }) = &kernel;
    let (api, printing) = (on.connect.open()?, on.printing);
    let host = host_or_only(&api, on.host.clone()).await?;
    match kernel {
        Kernel::List(_) => {
            show(
                printing,
                &api.list(&["v1", "hosts", &host, "kernels"]).await?,
                COLUMNS,
            );
        }
        Kernel::Import { source, name, .. } => {
            let path = ["v1", "hosts", &host, "kernels", "import"];
            let body = json!({ "source": source, "name": name });
            let imported = api
                .post(&path)
                .body(body)
                .patience(LONG_PATIENCE)
                .send()
                .await?;
            show(printing, &imported, COLUMNS);
        }
        Kernel::Delete { name, .. } => {
            api.delete(&["v1", "hosts", &host, "kernels", &name])
                .send()
                .await?;
            output::progress(format!("deleted {name}"));
        }
    }
    Ok(())
}
