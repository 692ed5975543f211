//! `hostler kernel`: the kernels that a host boots its VMs with.

use clap::Subcommand;
use serde_json::json;

use super::{Column, OnHost, show};
use crate::client::LONG_PATIENCE;
use crate::failure::Failure;
use crate::output::{self, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Kernel {
    /// List the kernels of a host
    #[command(after_help = "Example:\n  hostler kernel list")]
    List(OnHost),
    /// Take over a kernel from a file on a host: an ELF vmlinux or a bzImage
    #[command(
        after_help = "Example:\n  hostler kernel import /srv/kernels/vmlinuz-6.1 --name debian-6.1"
    )]
    Import {
        /// A path on the host, which its agent has to allow (--import-allow)
        source: String,
        /// What the kernel is to be called
        #[arg(long)]
        name: String,
        #[command(flatten)]
        on: OnHost,
    },
    /// Delete a kernel that no VM uses
    #[command(after_help = "Example:\n  hostler kernel delete debian-6.1")]
    Delete {
        /// The kernel's name
        name: String,
        #[command(flatten)]
        on: OnHost,
    },
}

const COLUMNS: &[Column] = &[
    ("NAME", |k| cell(k, "name")),
    ("ARCH", |k| cell(k, "arch")),
    ("FORMAT", |k| cell(k, "format")),
    ("SHA256", |k| cell(k, "sha256").chars().take(16).collect()),
    ("CREATED", |k| moment(k, "created_at")),
];

pub(crate) async fn run(kernel: Kernel) -> Result<(), Failure> {
    match kernel {
        Kernel::List(on) => {
            let printing = on.common.printing;
            let (api, host) = on.open().await?;
            show(
                printing,
                &api.list(&["v1", "hosts", &host, "kernels"]).await?,
                COLUMNS,
            );
        }
        Kernel::Import { source, name, on } => {
            let body = json!({ "source": source, "name": name });
            let printing = on.common.printing;
            let (api, host) = on.open().await?;
            let import = api
                .post(&["v1", "hosts", &host, "kernels", "import"])
                .body(body);
            show(
                printing,
                &import.patience(LONG_PATIENCE).send().await?,
                COLUMNS,
            );
        }
        Kernel::Delete { name, on } => {
            let (api, host) = on.open().await?;
            api.delete(&["v1", "hosts", &host, "kernels", &name])
                .send()
                .await?;
            output::progress(format!("deleted {name}"));
        }
    }
    Ok(())
}
