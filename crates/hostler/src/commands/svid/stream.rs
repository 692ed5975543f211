//! `hostler svid fetch` and `watch`: what a Workload API says about this process.

use std::collections::BTreeMap;

use hostler_identity::{MaterialError, WorkloadSvid};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{From, certificate};
use crate::commands::show_fields;
use crate::failure::{Doing, Failure};
use crate::output::{self, Format, Printing};

pub(super) async fn fetch(from: &From, printing: Printing) -> Result<(), Failure> {
    let stream = from.open().await?;
    let given = stream.current().doing(|| "no usable identity")?;
    let mut answer = identity(&given);
    let roots: BTreeMap<_, _> = given
        .bundles
        .iter()
        .map(|(domain, roots)| (domain.to_string(), roots.len()))
        .collect();
    answer["roots"] = json!(roots);
    let others = stream.given();
    let others = others
        .iter()
        .filter(|name| &name.id != given.svid.id() || name.hint != given.hint);
    let others: Vec<_> = others.map(ToString::to_string).collect();
    if !others.is_empty() {
        answer["others"] = json!(others);
    }
    show_fields(printing, &answer);
    Ok(())
}

pub(super) async fn watch(from: &From, printing: Printing) -> Result<(), Failure> {
    let mut stream = from.open().await?;
    loop {
        tell(&event(stream.current()), printing);
        stream.changed().await?;
    }
}

/// An identity as an object: who, until when, and what it is for.
fn identity(given: &WorkloadSvid) -> Value {
    let mut identity = certificate::identity(&given.svid);
    if let Some(hint) = &given.hint {
        identity["hint"] = json!(hint);
    }
    identity
}

/// A change as an object.
fn event(given: Result<WorkloadSvid, MaterialError>) -> Value {
    let mut event = match given {
        Ok(given) => {
            let mut event = identity(&given);
            event["event"] = json!("issued");
            event
        }
        Err(reason) => json!({ "event": "withdrawn", "reason": reason.to_string() }),
    };
    event["at"] = json!(Timestamp::now().to_string());
    event
}

fn tell(event: &Value, printing: Printing) {
    if printing.output == Format::Json {
        // One object a line, for programs that read a stream.
        return output::line(event.to_string());
    }
    let at = output::moment(event, "at");
    output::line(match event["id"].as_str() {
        Some(id) => format!("{at}  {id}  until {}", output::moment(event, "not_after")),
        None => format!("{at}  withdrawn: {}", output::cell(event, "reason")),
    });
}
