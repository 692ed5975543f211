//! `hostler spiffe-id`: whether a text is a SPIFFE ID.

use clap::Subcommand;
use hostler_identity::parse_spiffe_id;
use serde_json::json;

use super::show_fields;
use crate::failure::{Doing, Failure};
use crate::output::Printing;

#[derive(Subcommand)]
pub(crate) enum SpiffeIdCommand {
    /// Check a SPIFFE ID: exit 0 and its parts, or 1 and what is wrong with it
    #[command(after_help = "Example:\n  hostler spiffe-id check spiffe://example.org/web")]
    Check {
        /// The text
        id: String,
        #[command(flatten)]
        printing: Printing,
    },
}

pub(crate) fn run(command: SpiffeIdCommand) -> Result<(), Failure> {
    let SpiffeIdCommand::Check { id: text, printing } = command;
    let id = parse_spiffe_id(&text).doing(|| format!("{text:?} is no SPIFFE ID"))?;
    let parts = json!({
        "id": id.to_string(),
        "trust_domain": id.trust_domain().as_str(),
        "path": id.path(),
    });
    show_fields(printing, &parts);
    Ok(())
}
