//! `hostler status`: the whole fleet at a glance.

use super::{Common, show_fields};
use crate::failure::Failure;

pub(crate) async fn run(status: Common) -> Result<(), Failure> {
    let api = status.connect.open()?;
    show_fields(status.printing, &api.get(&["v1", "status"]).send().await?);
    Ok(())
}
