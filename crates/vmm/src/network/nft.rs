//! Rules of the host, through nft(8).

use super::error::NetworkError;
use super::links::LIMIT;
use crate::tool::Tool;

/// Carries out a transaction: all of it, or nothing.
pub(super) async fn carry_out(transaction: &str) -> Result<(), NetworkError> {
    let nft = Tool::new("nft").within(LIMIT).args(["-f", "-"]);
    nft.input(transaction).run().await?;
    Ok(())
}

/// Whether the kernel would take it.
pub(super) async fn check(transaction: &str) -> Result<(), NetworkError> {
    let nft = Tool::new("nft").within(LIMIT).args(["-c", "-f", "-"]);
    nft.input(transaction).run().await?;
    Ok(())
}
