//! `hostler host`: the machines that run microVMs.

mod status;

use clap::{Args, Subcommand};
use hostler_fleet::{HostStatus, HostType};
use serde_json::{Value, json};

use super::watch::{self, Things, Watch};
use super::{Column, Common, host_or_only, show, show_fields, team, words};
use crate::client::LONG_PATIENCE;
use crate::failure::Failure;
use crate::output::{self, Format, Printing, cell, moment};

#[derive(Subcommand)]
pub(crate) enum Host {
    /// List the hosts
    #[command(after_help = "Example:\n  hostler host list --status online --tag gpu")]
    List {
        /// Only hosts in this state
        #[arg(long, value_parser = words(HostStatus::ALL.iter().map(|status| status.as_str())))]
        status: Option<String>,
        /// Only hosts with this tag
        #[arg(long)]
        tag: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Tell what happens to hosts, as it happens
    #[command(after_help = "Example:\n  hostler host watch")]
    Watch(Watch),
    /// Show one host
    #[command(after_help = "Example:\n  hostler host show host-1a2b3c")]
    Show(One),
    /// Show what one host reports of itself: its drivers, its capacity, its load
    #[command(
        after_help = "Example:\n  hostler host status\n  hostler host status host-1a2b3c --output json"
    )]
    Status(Perhaps),
    /// List what is on a host and belongs to no VM: nothing, on a healthy one
    #[command(after_help = "Example:\n  hostler host leaks\n  hostler host leaks host-1a2b3c")]
    Leaks(Perhaps),
    /// Print what a host and its VMs use, as Prometheus text
    #[command(after_help = "Example:\n  hostler host metrics host-1a2b3c")]
    Metrics(Perhaps),
    /// Announce a host and get the one-time token that enrols it
    #[command(after_help = "Example:\n  hostler host create --zone rack-4\n  \
                            HOSTLER_REGISTER=TOKEN hostler agent --server ... (on the host)")]
    Create {
        /// Whose machine it is: regular or byoc
        #[arg(
            long = "type",
            default_value = "regular",
            value_parser = words(HostType::ALL.iter().map(|kind| kind.as_str()))
        )]
        kind: String,
        /// The team that a byoc host belongs to, by its name or id
        #[arg(long)]
        team: Option<String>,
        /// Who provides the machine
        #[arg(long)]
        provider: Option<String>,
        /// The availability zone that it stands in
        #[arg(long)]
        zone: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Make a new enrolment token for a pending host; older ones die
    #[command(after_help = "Example:\n  hostler host token host-1a2b3c")]
    Token(One),
    /// Show what removing a host would take with it
    #[command(after_help = "Example:\n  hostler host delete-preview host-1a2b3c")]
    DeletePreview(One),
    /// Remove a host from the fleet
    #[command(after_help = "Example:\n  hostler host delete host-1a2b3c --force")]
    Delete {
        /// Even when VMs are on it
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        one: One,
    },
    /// Place no new VMs on a host
    #[command(after_help = "Example:\n  hostler host cordon host-1a2b3c")]
    Cordon(One),
    /// Place VMs on a host again
    #[command(after_help = "Example:\n  hostler host uncordon host-1a2b3c")]
    Uncordon(One),
    /// Empty a host before it is taken away: no new VMs, those that run on it are stopped, and none
    /// is started; `hostler host uncordon` ends it
    #[command(after_help = "Example:\n  hostler host drain host-1a2b3c")]
    Drain {
        /// Let its VMs run on; only what does not run is kept from it
        #[arg(long)]
        keep_vms: bool,
        #[command(flatten)]
        one: One,
    },
    /// Labels that steer placement
    #[command(subcommand)]
    Tag(Tag),
}

#[derive(Subcommand)]
pub(crate) enum Tag {
    /// Add a tag to a host
    #[command(after_help = "Example:\n  hostler host tag add host-1a2b3c gpu")]
    Add {
        #[command(flatten)]
        one: One,
        /// The tag
        tag: String,
    },
    /// Remove a tag from a host
    #[command(after_help = "Example:\n  hostler host tag remove host-1a2b3c gpu")]
    Remove {
        #[command(flatten)]
        one: One,
        /// The tag
        tag: String,
    },
    /// List the tags of a host
    #[command(after_help = "Example:\n  hostler host tag list host-1a2b3c")]
    List(One),
}

#[derive(Args)]
pub(crate) struct One {
    /// The host's id
    host: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Args)]
pub(crate) struct Perhaps {
    /// The host's id [default: the only one there is]
    host: Option<String>,
    #[command(flatten)]
    common: Common,
}

const LEAKS: &[Column] = &[
    ("KIND", |l| cell(l, "kind")),
    ("WHAT", |l| cell(l, "what")),
    ("VM", |l| cell(l, "vm_id")),
    ("WHY", |l| cell(l, "reason")),
];

const COLUMNS: &[Column] = &[
    ("ID", |h| cell(h, "id")),
    ("STATUS", |h| match h["cordoned"].as_bool() {
        Some(true) => format!("{} (cordoned)", cell(h, "status")),
        _ => cell(h, "status"),
    }),
    ("TYPE", |h| cell(h, "type")),
    ("ADDRESS", address),
    ("ARCH", |h| cell(h, "arch")),
    ("CPUS", |h| cell(h, "cpu_cores")),
    ("MEMORY_MB", |h| cell(h, "memory_mb")),
    ("TAGS", |h| cell(h, "tags")),
    ("LAST HEARTBEAT", |h| moment(h, "last_heartbeat_at")),
];

/// Where a host is dialled, or that it has a connection of its own.
fn address(host: &Value) -> String {
    match host["address"].is_null() && host["status"] != "pending" {
        true => "reverse".to_owned(),
        false => cell(host, "address"),
    }
}

pub(crate) async fn run(host: Host) -> Result<(), Failure> {
    match host {
        Host::List {
            status,
            tag,
            common,
        } => list(status, tag, common).await,
        Host::Watch(watch) => watch::only(Things::Hosts, watch).await,
        Host::Drain { keep_vms, one } => {
            let api = one.common.connect.open()?;
            let ask = api
                .post(&["v1", "hosts", &one.host, "drain"])
                .body(json!({ "keep_vms": keep_vms }))
                .patience(LONG_PATIENCE);
            show_fields(one.common.printing, &ask.send().await?);
            Ok(())
        }
        Host::Show(one) => {
            let api = one.common.connect.open()?;
            show_fields(
                one.common.printing,
                &api.get(&["v1", "hosts", &one.host]).send().await?,
            );
            Ok(())
        }
        Host::Status(perhaps) => status::status(perhaps).await,
        Host::Leaks(perhaps) => leaks(perhaps).await,
        Host::Metrics(perhaps) => {
            let api = perhaps.common.connect.open()?;
            let host = host_or_only(&api, perhaps.host).await?;
            let text = api.get(&["v1", "hosts", &host, "metrics"]).text().await?;
            output::bytes(text.as_bytes());
            Ok(())
        }
        Host::Create {
            kind,
            team,
            provider,
            zone,
            common,
        } => {
            let api = common.connect.open()?;
            let team = match team {
                Some(team) => Some(team::id_of(&api, team).await?),
                None => None,
            };
            let mut body = json!({ "type": kind });
            let optional = [
                ("team_id", team),
                ("provider", provider),
                ("availability_zone", zone),
            ];
            for (field, value) in optional {
                if let Some(value) = value {
                    body[field] = Value::String(value);
                }
            }
            announced(
                common.printing,
                &api.post(&["v1", "hosts"]).body(body).send().await?,
            );
            Ok(())
        }
        Host::Token(one) => {
            let api = one.common.connect.open()?;
            let answer = api
                .post(&["v1", "hosts", &one.host, "token"])
                .send()
                .await?;
            announced(one.common.printing, &answer);
            Ok(())
        }
        Host::DeletePreview(one) => {
            let api = one.common.connect.open()?;
            let path = ["v1", "hosts", &one.host, "delete-preview"];
            let preview = api.get(&path).send().await?;
            if one.common.printing.output == Format::Json {
                output::json(&preview);
            } else {
                output::line(format!("host  {}", cell(&preview["host"], "id")));
                output::line(format!("VMs   {}", cell(&preview, "vm_names")));
            }
            Ok(())
        }
        Host::Delete { force, one } => {
            let api = one.common.connect.open()?;
            let force = force.to_string();
            api.delete(&["v1", "hosts", &one.host])
                .query("force", &force)
                .send()
                .await?;
            output::progress(format!("deleted {}", one.host));
            Ok(())
        }
        Host::Cordon(one) => act(one, "cordon").await,
        Host::Uncordon(one) => act(one, "uncordon").await,
        Host::Tag(tag) => tags(tag).await,
    }
}

async fn list(status: Option<String>, tag: Option<String>, common: Common) -> Result<(), Failure> {
    let api = common.connect.open()?;
    let filters = [("status", status), ("tag", tag)];
    show(
        common.printing,
        &api.list_where(&["v1", "hosts"], &filters).await?,
        COLUMNS,
    );
    Ok(())
}

/// Prints nothing for people when there is nothing; an empty list for programs.
async fn leaks(perhaps: Perhaps) -> Result<(), Failure> {
    let api = perhaps.common.connect.open()?;
    let host = host_or_only(&api, perhaps.host).await?;
    let leaks = api
        .get(&["v1", "hosts", &host, "host", "leaks"])
        .send()
        .await?;
    let printing = perhaps.common.printing;
    if printing.output == Format::Json || leaks.as_array().is_none_or(|list| !list.is_empty()) {
        show(printing, &leaks, LEAKS);
    }
    Ok(())
}

/// Shows a host with its token: the only time that anyone sees it.
fn announced(printing: Printing, answer: &Value) {
    if printing.output == Format::Json {
        return output::json(answer);
    }
    let (id, token) = (
        cell(&answer["host"], "id"),
        cell(answer, "registration_token"),
    );
    output::line(format!("host   {id}"));
    output::line(format!("token  {token}"));
    output::progress(
        "The token is shown once, works once, and for one hour. On the host:\n  \
         HOSTLER_REGISTER=TOKEN hostler agent --server URL --server-ca ca.pem --address IP:9443",
    );
}

async fn act(one: One, verb: &str) -> Result<(), Failure> {
    let api = one.common.connect.open()?;
    let host = api.post(&["v1", "hosts", &one.host, verb]).send().await?;
    show(one.common.printing, &host, COLUMNS);
    Ok(())
}

async fn tags(tag: Tag) -> Result<(), Failure> {
    let (Tag::Add { ref one, .. } | Tag::Remove { ref one, .. } | Tag::List(ref one)) = tag;
    let api = one.common.connect.open()?;
    let path = ["v1", "hosts", &one.host, "tags"];
    match &tag {
        Tag::Add { tag, .. } => {
            api.post(&path).body(json!({ "tag": tag })).send().await?;
        }
        Tag::Remove { tag, .. } => {
            api.delete(&["v1", "hosts", &one.host, "tags", tag])
                .send()
                .await?;
        }
        Tag::List(_) => {}
    }
    let tags = api.get(&path).send().await?;
    show(
        one.common.printing,
        &tags,
        &[("TAG", |t| t.as_str().unwrap_or_default().to_owned())],
    );
    Ok(())
}
