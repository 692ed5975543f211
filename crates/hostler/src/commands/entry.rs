//! `hostler entry`: which processes on which hosts have which identities.

use clap::Subcommand;
use serde_json::json;

use super::{Column, Common, show};
use crate::failure::Failure;
use crate::output::{self, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Entry {
    /// Give processes an identity
    #[command(
        after_help = "Example:\n  hostler entry create /web --selector unix:uid:33 --selector \
                            unix:path:/usr/sbin/nginx --tag frontend"
    )]
    Create {
        /// Who a matching process is: spiffe://DOMAIN/PATH, or /PATH in the fleet's trust domain
        spiffe_id: String,
        /// What a process must match: unix:uid:N, unix:gid:N, unix:pid:N, unix:path:/ABSOLUTE or
        /// unix:sha256:HEX; may be given again, and all must match
        #[arg(long = "selector", value_name = "SELECTOR", required = true)]
        selectors: Vec<String>,
        /// Only on this host [default: every regular host]
        #[arg(long, value_name = "HOST", conflicts_with = "tag")]
        host: Option<String>,
        /// Only on regular hosts with this tag
        #[arg(long)]
        tag: Option<String>,
        /// By what a process that has several identities tells them apart
        #[arg(long)]
        hint: Option<String>,
        /// How long its certificates are valid [default: as long as the authority's usually are]
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u32>,
        #[command(flatten)]
        common: Common,
    },
    /// List the entries
    #[command(after_help = "Example:\n  hostler entry list --output json")]
    List {
        /// Only those of this SPIFFE ID
        #[arg(long, value_name = "ID")]
        spiffe_id: Option<String>,
        /// Only those that name this host
        #[arg(long)]
        host: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Take an identity back
    #[command(after_help = "Example:\n  hostler entry delete entry-1a2b3c")]
    Delete {
        /// The entry's id
        id: String,
        #[command(flatten)]
        common: Common,
    },
}

const COLUMNS: &[Column] = &[
    ("ID", |e| cell(e, "id")),
    ("SPIFFE ID", |e| cell(e, "spiffe_id")),
    ("SELECTORS", |e| cell(e, "selectors")),
    ("HOSTS", |e| match (e["host"].as_str(), e["tag"].as_str()) {
        (Some(host), _) => host.to_owned(),
        (None, Some(tag)) => format!("tag {tag}"),
        (None, None) => "all".to_owned(),
    }),
    ("HINT", |e| cell(e, "hint")),
    ("TTL", |e| cell(e, "ttl_secs")),
    ("CREATED", |e| moment(e, "created_at")),
];

const ENTRIES: [&str; 2] = ["v1", "entries"];

pub(crate) async fn run(entry: Entry) -> Result<(), Failure> {
    match entry {
        Entry::Create {
            spiffe_id,
            selectors,
            host,
            tag,
            hint,
            ttl,
            common,
        } => {
            let mut body = json!({ "spiffe_id": spiffe_id, "selectors": selectors });
            for (field, value) in [("host", host), ("tag", tag), ("hint", hint)] {
                if let Some(value) = value {
                    body[field] = value.into();
                }
            }
            if let Some(seconds) = ttl {
                body["ttl_secs"] = seconds.into();
            }
            let api = common.connect.open()?;
            let made = api.post(&ENTRIES).body(body).send().await?;
            show(common.printing, &made, COLUMNS);
        }
        Entry::List {
            spiffe_id,
            host,
            common,
        } => {
            let api = common.connect.open()?;
            let filters = [("spiffe_id", spiffe_id), ("host", host)];
            let entries = api.list_where(&ENTRIES, &filters).await?;
            show(common.printing, &entries, COLUMNS);
        }
        Entry::Delete { id, common } => {
            let api = common.connect.open()?;
            api.delete(&["v1", "entries", &id]).send().await?;
            output::progress(format!("deleted {id}"));
        }
    }
    Ok(())
}
