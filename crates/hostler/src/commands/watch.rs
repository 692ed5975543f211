//! `hostler watch`: what happens to hosts and VMs, a line for each change, as long as one listens.
//!
//! When the connection is lost it goes on where it was, as soon as the control plane answers again.

use std::time::Duration;

use clap::Args;
use futures::future::try_join;
use serde_json::Value;

use super::Common;
use crate::client::{Api, Events};
use crate::failure::Failure;
use crate::output::{self, Format, Printing, cell, moment};

/// Between two attempts to go on.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[derive(Args)]
pub(crate) struct Watch {
    /// Begin after this event, whose number an earlier watch printed as `seq` (--output json)
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// What is watched: the service, and the field in which an event tells of the thing.
#[derive(Clone, Copy)]
pub(crate) enum Things {
    Hosts,
    Vms,
}

impl Things {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Hosts => ("hosts", "host"),
            Self::Vms => ("vms", "vm"),
        }
    }
}

pub(crate) async fn everything(watch: Watch) -> Result<(), Failure> {
    let (after, printing) = (watch.after, watch.common.printing);
    let api = watch.common.connect.open()?;
    let one = follow(&api, Things::Hosts, after, printing);
    let other = follow(&api, Things::Vms, after, printing);
    try_join(one, other).await.map(|_| ())
}

pub(crate) async fn only(things: Things, watch: Watch) -> Result<(), Failure> {
    let api = watch.common.connect.open()?;
    follow(&api, things, watch.after, watch.common.printing).await
}

async fn follow(
    api: &Api,
    things: Things,
    mut after: Option<u64>,
    printing: Printing,
) -> Result<(), Failure> {
    let mut events = subscribe(api, things, after).await?;
    loop {
        match events.next().await {
            Ok(Some(event)) => {
                after = event["seq"].as_u64().or(after);
                print(things, &event, printing);
                if output::lost() {
                    return Ok(());
                }
            }
            Ok(None) => {
                output::progress("the server ended the stream; waiting for it");
                events = again(api, things, after).await?;
            }
            Err(lost) => {
                output::progress(format!("{lost}; waiting for the server"));
                events = again(api, things, after).await?;
            }
        }
    }
}

async fn subscribe(api: &Api, things: Things, after: Option<u64>) -> Result<Events, Failure> {
    let (service, _) = things.names();
    let ask = api.get(&[service, "watch"]);
    let after = after.map(|after| after.to_string());
    match &after {
        Some(after) => ask.query("after", after).stream().await,
        None => ask.stream().await,
    }
}

async fn again(api: &Api, things: Things, after: Option<u64>) -> Result<Events, Failure> {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        match subscribe(api, things, after).await {
            Ok(events) => return Ok(events),
            // Whoever may not watch any more need not wait for it.
            Err(refused) if refused.is_refusal() => return Err(refused),
            Err(error) => output::progress(format!("{error}; trying again")),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn print(things: Things, event: &Value, printing: Printing) {
    if printing.output == Format::Json {
        // A line for each event, for programs that read lines.
        return output::line(event.to_string());
    }
    let (_, field) = things.names();
    let thing = &event[field];
    let state = match things {
        Things::Hosts if thing["cordoned"] == true => format!("{} cordoned", cell(thing, "status")),
        Things::Hosts => cell(thing, "status"),
        Things::Vms => cell(thing, "state"),
    };
    let name = match things {
        Things::Hosts => cell(thing, "id"),
        Things::Vms => cell(thing, "name"),
    };
    let reason = thing["state_reason"].as_str().map(output::harmless);
    output::line(match event["change"].as_str() {
        Some("gap") => format!(
            "{}  {field}  gap: more has happened than is kept; list everything anew",
            moment(event, "at")
        ),
        change => format!(
            "{}  {field}  {:<8} {name}  {state}{}",
            moment(event, "at"),
            change.unwrap_or_default(),
            reason
                .map(|reason| format!(" ({reason})"))
                .unwrap_or_default(),
        ),
    });
}
