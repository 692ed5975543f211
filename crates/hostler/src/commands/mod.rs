//! The client commands, one file for each noun.

pub(crate) mod api_key;
pub(crate) mod audit;
pub(crate) mod entry;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod kernel;
pub(crate) mod login;
pub(crate) mod snapshot;
pub(crate) mod spiffe_id;
pub(crate) mod status;
pub(crate) mod svid;
pub(crate) mod team;
pub(crate) mod tls;
pub(crate) mod token_key;
pub(crate) mod user;
pub(crate) mod vm;
pub(crate) mod watch;

use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::Value;

use crate::client::{Api, Connect};
use crate::failure::Failure;
use crate::output::{self, Format, Printing};

/// What every command takes: where the control plane is, and how to print its answer.
#[derive(Args)]
pub(crate) struct Common {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    printing: Printing,
}

/// What every command about one host's things takes.
#[derive(Args)]
pub(crate) struct OnHost {
    /// The host [default: the only one]
    #[arg(long)]
    host: Option<String>,
    #[command(flatten)]
    common: Common,
}

impl OnHost {
    /// Connects, and says which host is meant.
    async fn open(self) -> Result<(Api, String), Failure> {
        let api = self.common.connect.open()?;
        let host = host_or_only(&api, self.host).await?;
        Ok((api, host))
    }
}

/// The words that an option takes; help and errors list them.
fn words(all: impl IntoIterator<Item = &'static str>) -> PossibleValuesParser {
    PossibleValuesParser::new(all)
}

/// A column of a table: its heading, and what makes a cell of an item.
type Column = (&'static str, fn(&Value) -> String);

/// Prints a list of objects, or a single one, as a table of these columns or as it came.
fn show(printing: Printing, answer: &Value, columns: &[Column]) {
    if printing.output == Format::Json {
        return output::json(answer);
    }
    let one = std::slice::from_ref(answer);
    let items = answer.as_array().map_or(one, Vec::as_slice);
    let headings: Vec<&str> = columns.iter().map(|(heading, _)| *heading).collect();
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| columns.iter().map(|(_, make)| make(item)).collect())
        .collect();
    output::table(&headings, &rows);
}

/// Prints one object as its fields, or as it came.
fn show_fields(printing: Printing, answer: &Value) {
    if printing.output == Format::Json {
        return output::json(answer);
    }
    let mut rows = Vec::new();
    for (name, value) in answer.as_object().into_iter().flatten() {
        match value.as_array() {
            // Each of several things gets a line.
            Some(items) if items.iter().any(Value::is_object) => {
                let lines = items
                    .iter()
                    .map(|item| vec![name.clone(), output::plain(item)]);
                rows.extend(lines);
            }
            _ => rows.push(vec![name.clone(), output::cell(answer, name)]),
        }
    }
    output::table(&["FIELD", "VALUE"], &rows);
}

/// The host that was named, else the only one there is.
async fn host_or_only(api: &Api, host: Option<String>) -> Result<String, Failure> {
    if let Some(host) = host {
        return Ok(host);
    }
    let hosts = api.list(&["v1", "hosts"]).await?;
    let ids: Vec<&str> = hosts
        .as_array()
        .into_iter()
        .flatten()
        .filter(|host| host["status"] != "pending")
        .filter_map(|host| host["id"].as_str())
        .collect();
    match ids[..] {
        [only] => Ok(only.to_owned()),
        [] => Err(Failure::new(
            "no host is enrolled yet; see `hostler host create --help`",
        )),
        _ => Err(Failure::new(format!(
            "which host? give --host, one of {}",
            ids.join(", ")
        ))),
    }
}
