//! `hostler svid`: SPIFFE identities.

use clap::Subcommand;
use serde_json::json;

use super::{Common, show_fields};
use crate::failure::Failure;

#[derive(Subcommand)]
pub(crate) enum Svid {
    /// Give the authority's keys up: new ones, and a new identity for every host and process
    #[command(
        long_about = "Give the authority's keys up, because they may have become known. New keys \
                      are published at once and sign after the overlap; then every host and \
                      process gets a new identity. What the old ones signed is trusted until it \
                      expires.",
        after_help = "Example:\n  hostler svid rotate --overlap 60"
    )]
    Rotate {
        /// How long the new keys are published before they sign [default: 30]
        #[arg(long, value_name = "SECONDS")]
        overlap: Option<u32>,
        #[command(flatten)]
        common: Common,
    },
}

pub(crate) async fn run(svid: Svid) -> Result<(), Failure> {
    match svid {
        Svid::Rotate { overlap, common } => {
            let mut body = json!({});
            if let Some(seconds) = overlap {
                body["overlap_secs"] = seconds.into();
            }
            let api = common.connect.open()?;
            let rotation = api
                .post(&["v1", "svids", "rotate"])
                .body(body)
                .send()
                .await?;
            show_fields(common.printing, &rotation);
        }
    }
    Ok(())
}
