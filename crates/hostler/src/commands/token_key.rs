//! `hostler token-key`: the keys that sign host tokens and user tokens.

use clap::Subcommand;
use serde_json::json;

use super::{Column, Common, show};
use crate::failure::Failure;
use crate::output::{cell, moment};

#[derive(Subcommand)]
pub(crate) enum TokenKey {
    /// List the keys, the newest first
    #[command(after_help = "Example:\n  hostler token-key list")]
    List(Common),
    /// Let another key sign; tokens of the keys before it stay good
    #[command(
        long_about = "Let another key sign host tokens and user tokens: it is published at once \
                      and signs ten seconds later. Tokens of the keys before it stay good for as \
                      long as they say. By itself that happens every 90 days.",
        after_help = "Examples:\n  hostler token-key rotate\n  hostler token-key rotate --give-up"
    )]
    Rotate {
        /// The present keys may have become known: every token ends now. Users log in again; hosts
        /// get new tokens by their certificates
        #[arg(long)]
        give_up: bool,
        #[command(flatten)]
        common: Common,
    },
}

const COLUMNS: &[Column] = &[
    ("KEY", |k| cell(k, "kid")),
    ("SIGNS FROM", |k| moment(k, "signs_from")),
    ("SIGNS UNTIL", |k| moment(k, "signs_until")),
    ("VERIFIES UNTIL", |k| moment(k, "verifies_until")),
];

const KEYS: [&str; 2] = ["v1", "token-keys"];

pub(crate) async fn run(key: TokenKey) -> Result<(), Failure> {
    match key {
        TokenKey::List(common) => {
            let api = common.connect.open()?;
            show(common.printing, &api.get(&KEYS).send().await?, COLUMNS);
        }
        TokenKey::Rotate { give_up, common } => {
            let api = common.connect.open()?;
            let rotate = api.post(&["v1", "token-keys", "rotate"]);
            let keys = rotate.body(json!({ "give_up": give_up })).send().await?;
            show(common.printing, &keys, COLUMNS);
        }
    }
    Ok(())
}
