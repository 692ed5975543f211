//! `hostler image`: the root file systems that a host keeps.

mod progress;

use std::time::Duration;

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
    /// Make an image on a host of one from a registry, or of a file or layout on the host
    #[command(after_help = "Examples:\n  \
        hostler image import registry.example/team/web:1.2 --name web\n  \
        hostler image import 127.0.0.1:5000/alpine-like:1 --name a\n  \
        hostler image import /srv/layout:1 --name web        an OCI layout or archive, or docker save\n  \
        hostler image import /srv/alpine-rootfs.tar.gz --name alpine\n\n\
        Plain HTTP is spoken to the host itself, and elsewhere after http:// only. An image without\n\
        an /sbin/init runs its Entrypoint and Cmd, and stays up when they end.")]
    Import {
        #[arg(
            help = "HOST[:PORT]/NAME[:TAG], or an absolute path on the host, which its agent has to allow (--import-allow)"
        )]
        source: String,
        /// What the image is to be called
        #[arg(long)]
        name: String,
        /// The size of its file system in MiB [default: what the content needs, and some air]
        #[arg(long)]
        size_mb: Option<u32>,
        /// Who asks the registry; the password is read from HOSTLER_REGISTRY_PASSWORD
        #[arg(long, value_name = "NAME")]
        registry_user: Option<String>,
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

/// A host gives itself half an hour for an import.
const IMPORT_PATIENCE: Duration = Duration::from_secs(31 * 60);

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
            registry_user,
            on,
        } => {
            let mut body = json!({ "source": source, "name": name });
            if let Some(username) = registry_user {
                let password = std::env::var("HOSTLER_REGISTRY_PASSWORD").map_err(|_| {
                    Failure::new("set HOSTLER_REGISTRY_PASSWORD to the password of --registry-user")
                })?;
                body["credentials"] = json!({ "username": username, "password": password });
            }
            if let Some(size_mb) = size_mb {
                body["size_mb"] = size_mb.into();
            }
            let printing = on.common.printing;
            let (api, host) = on.open().await?;
            let import = api
                .post(&["v1", "hosts", &host, "images", "import"])
                .body(body);
            let import = import.patience(IMPORT_PATIENCE).send();
            let image = progress::shown(&api, &host, &name, import).await?;
            show(printing, &image, COLUMNS);
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
