//! `hostler vm place`: where a VM would go, and why, or what keeps it from fitting.

use clap::Args;
use serde_json::{Value, json};

use crate::client::as_commands;
use crate::commands::{Column, Common, words};
use crate::failure::Failure;
use crate::output::{self, Format, cell};

/// How large a VM is to be, and where.
#[derive(Args)]
pub(crate) struct Wanted {
    /// Virtual CPUs, 1 to 32 [default: 1]
    #[arg(long)]
    cpus: Option<u32>,
    /// Memory in MiB, 128 to 65536 [default: 512]
    #[arg(long)]
    memory_mb: Option<u32>,
    /// Disk in MiB, 256 to 1048576 [default: 1024]
    #[arg(long)]
    disk_size_mb: Option<u32>,
    /// The host to place it on [default: one is chosen]
    #[arg(long)]
    host: Option<String>,
    /// Only on hosts of this architecture
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Only on hosts with this tag; may be given again
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Rather on hosts with this tag; may be given again
    #[arg(long = "prefer-tag", value_name = "TAG")]
    preferred: Vec<String>,
    /// Apart from the VMs that were created with the same word: in another zone, on another host
    #[arg(long, value_name = "WORD")]
    spread_group: Option<String>,
    /// How the host is chosen of several that are equally good otherwise [default: least-loaded]
    #[arg(long, value_parser = words(["least-loaded", "round-robin"]))]
    policy: Option<String>,
}

impl Wanted {
    pub(super) fn to_json(&self) -> Value {
        let list = |words: &[String]| (!words.is_empty()).then(|| json!(words));
        let word = |word: &Option<String>| word.clone().map(Value::from);
        let fields = [
            ("cpus", self.cpus.map(Value::from)),
            ("memory_mb", self.memory_mb.map(Value::from)),
            ("disk_size_mb", self.disk_size_mb.map(Value::from)),
            ("host", word(&self.host)),
            ("arch", word(&self.arch)),
            ("required_tags", list(&self.tags)),
            ("preferred_tags", list(&self.preferred)),
            ("spread_group", word(&self.spread_group)),
            ("policy", word(&self.policy)),
        ];
        let given = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect())
    }
}

#[derive(Args)]
pub(crate) struct Place {
    #[command(flatten)]
    wanted: Wanted,
    /// How many of the other hosts to tell of
    #[arg(long, default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

const COLUMNS: &[Column] = &[("HOST", |v| cell(v, "id")), ("LACKS", lacks)];

fn lacks(host: &Value) -> String {
    let each = host["lacks"].as_array().into_iter().flatten().map(|lack| {
        let what = lack["what"].as_str().unwrap_or_default();
        match (lack["wanted"].as_u64(), lack["free"].as_u64()) {
            (Some(wanted), Some(free)) => format!("{what} ({free} of {wanted})"),
            _ => what.to_owned(),
        }
    });
    let all = each.collect::<Vec<_>>().join(", ");
    if all.is_empty() { "-".to_owned() } else { all }
}

/// What would make it fit: one step, or several of which none is enough.
fn change(change: &Value) -> Vec<String> {
    let steps = change["steps"].as_array().into_iter().flatten();
    let steps: Vec<String> = steps.filter_map(Value::as_str).map(as_commands).collect();
    let together = match &steps[..] {
        [] => return steps,
        [step] => return vec![format!("it would fit: {step}")],
        [_, _] => "it would fit with both of these:",
        _ => "it would fit with all of these:",
    };
    let steps = steps.into_iter().map(|step| format!("  {step}"));
    [together.to_owned()].into_iter().chain(steps).collect()
}

pub(super) async fn place(place: Place) -> Result<(), Failure> {
    let api = place.common.connect.open()?;
    let mut body = place.wanted.to_json();
    body["limit"] = json!(place.limit);
    let said = api.post(&["v1", "vms", "place"]).body(body).send().await?;
    if place.common.printing.output == Format::Json {
        output::json(&said);
        return Ok(());
    }
    let why = as_commands(said["why"].as_str().unwrap_or_default());
    output::line(match said["host"].as_str() {
        Some(host) => format!("{host}: {why}"),
        None => why,
    });
    change(&said["smallest_change"])
        .into_iter()
        .for_each(output::line);
    let others = &said["others"];
    if others.as_array().is_some_and(|others| !others.is_empty()) {
        output::line("");
        crate::commands::show(place.common.printing, others, COLUMNS);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_which_all_are_needed_are_one_hint() {
        let told = |steps: &[&str]| change(&json!({ "steps": steps })).join("\n");
        assert_eq!(told(&[]), "");
        assert!(change(&Value::Null).is_empty());
        assert_eq!(told(&["ask for less"]), "it would fit: ask for less");
        assert_eq!(
            told(&["open host-1 (hosts/uncordon)", "ask for at most 2 CPUs"]),
            "it would fit with both of these:\n  open host-1 (`hostler host uncordon`)\n  \
             ask for at most 2 CPUs"
        );
        assert!(told(&["a", "b", "c"]).starts_with("it would fit with all of these:\n  a\n"));
    }
}
