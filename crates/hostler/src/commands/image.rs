//! `hostler image`: the root file systems that a host keeps.

use clap::Subcommand;
use serde_json::json;

use super::{Column, OnHost, show};
use crate::client::LONG_PATIENCE;
use crate::failure::Failure;
use crate::output::{self, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Image {
    /// List the images of a host
    #[command(after_help = "Example:\n  hostler image list")]
    List(OnHost),
    /// Make the default image and kernel present on a host
    #[command(after_help = "Example:\n  hostler image pull --host host-1a2b3c")]
    Pull(OnHost),
    /// Make an image of a root file system's tar archive on a host
    #[command(after_help = "Example:\n  hostler image import /srv/alpine-rootfs.tar --name alpine")]
    Import {
        /// A path on the host
        source: String,
        /// What the image is to be called
        #[arg(long)]
        name: String,
        /// The size of its file system in MiB [default: what the content needs, and some air]
        #[arg(long)]
        size_mb: Option<u32>,
        #[command(flatten)]
        on: OnHost,
    },
    /// Delete an image that no VM uses
    #[command(after_help = "Example:\n  hostler image delete alpine")]
    Delete {
        /// The image's name
        name: String,
        #[command(flatten)]
        on: OnHost,
    },
}

const COLUMNS: &[Column] = &[
    ("NAME", |i| cell(i, "name")),
    ("SIZE_MB", |i| cell(i, "size_mb")),
    ("SHA256", |i| cell(i, "sha256").chars().take(16).collect()),
    ("CREATED", |i| moment(i, "created_at")),
];

pub(crate) async fn run(image: Image) -> Result<(), Failure> {
    match image {
        Image::List(on) => {
            let printing = on.common.printing;
            let (api, host) = on.open().await?;
            show(
                printing,
                &api.list(&["v1", "hosts", &host, "images"]).await?,
                COLUMNS,
            );
        }
        Image::Pull(on) => {
            let printing = on.common.printing;
            let (api, host) = on.open().await?;
            output::progress(format!("{host} fetches the default image and kernel ..."));
            let pull = api.post(&["v1", "hosts", &host, "images", "pull"]);
            pull.patience(LONG_PATIENCE).send().await?;
            show(
                printing,
                &api.list(&["v1", "hosts", &host, "images"]).await?,
                COLUMNS,
            );
        }
        Image::Import {
            source,
            name,
            size_mb,
            on,
        } => {
            let mut body = json!({ "source": source, "name": name });
            if let Some(size_mb) = size_mb {
                body["size_mb"] = size_mb.into();
            }
            let printing = on.common.printing;
            let (api, host) = on.open().await?;
            let import = api
                .post(&["v1", "hosts", &host, "images", "import"])
                .body(body);
            show(
                printing,
                &import.patience(LONG_PATIENCE).send().await?,
                COLUMNS,
            );
        }
        Image::Delete { name, on } => {
            let (api, host) = on.open().await?;
            api.delete(&["v1", "hosts", &host, "images", &name])
                .send()
                .await?;
            output::progress(format!("deleted {name}"));
        }
    }
    Ok(())
}
