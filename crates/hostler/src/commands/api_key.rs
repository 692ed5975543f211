//! `hostler api-key`: what programs present to the control plane.

use clap::Subcommand;
use hostler_fleet::KeyScope;
use serde_json::json;

use super::{Column, Common, show, team, words};
use crate::failure::Failure;
use crate::output::{self, Format, cell, moment};

#[derive(Subcommand)]
pub(crate) enum ApiKey {
    /// Make a key; it is shown once
    #[command(
        after_help = "Example:\n  hostler api-key create ci --scope vms:read --scope \
                            vms:write --expires-in 86400"
    )]
    Create {
        /// What the key is for
        name: String,
        /// What it may do; may be given again
        #[arg(long = "scope", required = true, value_parser = words(KeyScope::ALL.iter().map(|scope| scope.as_str())))]
        scopes: Vec<String>,
        /// Seconds until it expires [default: 90 days]
        #[arg(long, value_name = "SECONDS")]
        expires_in: Option<u64>,
        /// The team to whose things it is confined, by its name or id [default: that for which you
        /// work]
        #[arg(long)]
        team: Option<String>,
        /// It is the platform's and outlives you; for admins [default: it is yours]
        #[arg(long)]
        platform: bool,
        #[command(flatten)]
        common: Common,
    },
    /// List the keys
    #[command(after_help = "Example:\n  hostler api-key list")]
    List(Common),
    /// Revoke a key
    #[command(after_help = "Example:\n  hostler api-key delete key-1a2b3c")]
    Delete {
        /// The key's id
        id: String,
        #[command(flatten)]
        common: Common,
    },
}

const COLUMNS: &[Column] = &[
    ("ID", |k| cell(k, "id")),
    ("NAME", |k| cell(k, "name")),
    ("SCOPES", |k| cell(k, "scopes")),
    ("USER", |k| cell(k, "user_id")),
    ("TEAM", |k| cell(k, "team_id")),
    ("EXPIRES", |k| moment(k, "expires_at")),
    ("LAST USED", |k| moment(k, "last_used_at")),
];

const KEYS: [&str; 2] = ["v1", "api-keys"];

pub(crate) async fn run(key: ApiKey) -> Result<(), Failure> {
    match key {
        ApiKey::Create {
            name,
            scopes,
            expires_in,
            team,
            platform,
            common,
        } => {
            let mut body = json!({ "name": name, "scopes": scopes });
            if let Some(seconds) = expires_in {
                body["expires_in_secs"] = seconds.into();
            }
            let api = common.connect.open()?;
            if let Some(team) = team {
                body["team_id"] = team::id_of(&api, team).await?.into();
            }
            if platform {
                body["of_platform"] = true.into();
            }
            let made = api.post(&KEYS).body(body).send().await?;
            if common.printing.output == Format::Json {
                output::json(&made);
            } else {
                output::line(cell(&made, "secret"));
                output::progress("This is the key; it is not shown again.");
            }
        }
        ApiKey::List(common) => {
            let api = common.connect.open()?;
            show(common.printing, &api.list(&KEYS).await?, COLUMNS);
        }
        ApiKey::Delete { id, common } => {
            let api = common.connect.open()?;
            api.delete(&["v1", "api-keys", &id]).send().await?;
            output::progress(format!("revoked {id}"));
        }
    }
    Ok(())
}
