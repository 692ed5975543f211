//! `hostler status`: the whole fleet at a glance.

use clap::Args;

use super::show_fields;
use crate::cli::Printing;
use crate::client::Connect;
use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Status {
    #[command(flatten)]
    connect: Connect,
    #[command(flatten)]
    printing: Printing,
}

pub(crate) async fn run(status: Status) -> Result<(), Failure> {
    let api = status.connect.open()?;
    show_fields(status.printing, &api.get(&["v1", "status"]).send().await?);
    Ok(())
}
