//! `hostler image`: the root file systems that a host keeps.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Column, host_or_only, show};
use crate::cli::Printing;
use crate::client::{Connect, LONG_PATIENCE};
use crate::failure::Failure;
use crate::output::{self, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Image {
    /// List the images of a host
    #[command(after_help = "Example:\n  hostler image list")]
    List(On),
    /// Make the default image and kernel present on a host
    #[command(after_help = "Example:\n  hostler image pull --host host-1a2b3c")]
    Pull(On),
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
        on: On,
    },
    /// Delete an image that no VM uses
    #[command(after_help = "Example:\n  hostler image delete alpine")]
    Delete {
        /// The image's name
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
    ("NAME", |i| cell(i, "name")),
    ("SIZE_MB", |i| cell(i, "size_mb")),
    ("SHA256", |i| cell(i, "sha256").chars().take(16).collect()),
    ("CREATED", |i| moment(i, "created_at")),
];

pub(crate) async fn run(image: Image) -> Result<(), Failure> {
    let (Image::List(on) | Image::Pull(on) | Image::Import { on, .. } | Image::Delete { on, .. }) =
        &image;
    let (api, printing) = (on.connect.open()?, on.printing);
    let host = host_or_only(&api, on.host.clone()).await?;
    let images = ["v1", "hosts", &host, "images"];
    match image {
        Image::List(_) => show(printing, &api.list(&images).await?, COLUMNS),
        Image::Pull(_) => {
            output::progress(format!("{host} fetches the default image and kernel ..."));
            let path = ["v1", "hosts", &host, "images", "pull"];
            api.post(&path).patience(LONG_PATIENCE).send().await?;
            show(printing, &api.list(&images).await?, COLUMNS);
        }
        Image::Import {
            source,
            name,
            size_mb,
            ..
        } => {
            let mut body = json!({ "source": source, "name": name });
            if let Some(size_mb) = size_mb {
                body["size_mb"] = size_mb.into();
            }
            let path = ["v1", "hosts", &host, "images", "import"];
            let imported = api
                .post(&path)
                .body(body)
                .patience(LONG_PATIENCE)
                .send()
                .await?;
            show(printing, &imported, COLUMNS);
        }
        Image::Delete { name, .. } => {
            api.delete(&["v1", "hosts", &host, "images", &name])
                .send()
                .await?;
            output::progress(format!("deleted {name}"));
        }
    }
    Ok(())
}
