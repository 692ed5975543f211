//! `hostler audit`: who changed what, and whether the trail is whole.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use hostler_fleet::UserId;
use hostler_fleet::chain::{self, Head, Line};
use serde_json::Value;

use super::{Column, Common, show};
use crate::client::Api;
use crate::failure::{Doing, Failure};
use crate::output::{self, Format, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Audit {
    /// List the lines, oldest first
    #[command(
        after_help = "Examples:\n  hostler audit list --action host.create\n  hostler audit \
                            list --output json > audit.json"
    )]
    List {
        /// Only what this one did: a user's or key's id, a host's SPIFFE ID, or server
        #[arg(long)]
        subject: Option<String>,
        /// Only this kind of change
        #[arg(long)]
        action: Option<String>,
        /// Only what was done to this
        #[arg(long)]
        object: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Check that no line was changed, removed or inserted; fails and names the first that is wrong
    #[command(
        after_help = "Examples:\n  hostler audit verify\n  hostler audit verify audit.json --head \
                            1204:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    )]
    Verify {
        /// A copy, as `hostler audit list --output json` printed all of it; nothing is asked of
        /// the control plane then [default: what the control plane has]
        file: Option<PathBuf>,
        #[arg(
            long,
            value_name = "NUMBER:HASH",
            value_parser = head,
            help = "The head of an earlier check, which must still be in the trail: without one, a \
                    trail that was cut off at its end or written anew looks whole"
        )]
        head: Option<Head>,
        #[command(flatten)]
        common: Common,
    },
}

const COLUMNS: &[Column] = &[
    ("LINE", |l| cell(l, "seq")),
    ("AT", |l| moment(l, "at")),
    ("SUBJECT", |l| cell(l, "subject")),
    ("ACTION", |l| cell(l, "action")),
    ("OBJECT", |l| cell(l, "object")),
    ("OUTCOME", |l| cell(l, "outcome")),
    ("FROM", |l| cell(l, "remote")),
];

const AUDIT: [&str; 2] = ["v1", "audit"];

fn head(text: &str) -> Result<Head, String> {
    let parts = text.split_once(':');
    let parsed = parts.and_then(|(seq, hash)| Some((seq.parse().ok()?, hash)));
    match parsed {
        Some((seq, hash)) if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) => {
            let hash = hash.to_ascii_lowercase();
            Ok(Head { seq, hash })
        }
        _ => Err("expected NUMBER:HASH, as an earlier check printed it".to_owned()),
    }
}

pub(crate) async fn run(audit: Audit) -> Result<(), Failure> {
    match audit {
        Audit::List {
            subject,
            action,
            object,
            common,
        } => {
            let api = common.connect.open()?;
            let filters = [("subject", subject), ("action", action), ("object", object)];
            let mut lines = api.list_where(&AUDIT, &filters).await?;
            if common.printing.output == Format::Table {
                name_users(&api, &mut lines).await;
            }
            show(common.printing, &lines, COLUMNS);
        }
        Audit::Verify { file, head, common } => {
            let trail = match &file {
                Some(file) => read(file)?,
                None => common.connect.open()?.list_where(&AUDIT, &[]).await?,
            };
            let lines: Vec<Line> = serde_json::from_value(trail).doing(
                || "the trail cannot be read; give what `hostler audit list --output json` printed",
            )?;
            let end = chain::verify(&lines, head.as_ref())
                .map_err(|broken| Failure::new(format!("the audit trail is broken: {broken}")))?;
            output::line(format!("{} lines, whole", end.seq));
            output::line(format!("head {}:{}", end.seq, end.hash));
            if head.is_none() {
                output::progress(
                    "keep the head elsewhere and give it to the next check (--head): only so a trail \
                     is found out that was cut off or written anew",
                );
            }
        }
    }
    Ok(())
}

/// Puts the present names of users in the place of their ids, for people; whoever may not see users
/// sees ids.
async fn name_users(api: &Api, lines: &mut Value) {
    let lines = lines.as_array_mut().map(Vec::as_mut_slice);
    let lines = lines.unwrap_or_default();
    let of_user = |line: &Value| line["subject"].as_str().is_some_and(UserId::is_one);
    if !lines.iter().any(of_user) {
        return;
    }
    let Ok(users) = api.list(&["v1", "users"]).await else {
        return;
    };
    let users = users.as_array().into_iter().flatten();
    let names: HashMap<&str, &Value> = users
        .filter_map(|user| Some((user["id"].as_str()?, &user["name"])))
        .collect();
    for line in lines {
        let name = line["subject"].as_str().and_then(|id| names.get(id));
        if let Some(name) = name {
            line["subject"] = (*name).clone();
        }
    }
}

fn read(file: &Path) -> Result<Value, Failure> {
    let text = std::fs::read(file).doing(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).doing(|| {
        let file = file.display();
        format!("{file} is no JSON; give what `hostler audit list --output json` printed")
    })
}
