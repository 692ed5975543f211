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

/// The names of the tables of the family inet.
pub(super) async fn tables_inet() -> Result<Vec<String>, NetworkError> {
    let nft = Tool::new("nft").within(LIMIT);
    let listed = nft.args(["list", "tables", "inet"]).run().await?;
    let names = listed
        .lines()
        .filter_map(|line| line.split(' ').next_back());
    Ok(names.map(str::to_owned).collect())
}

/// What is in one of them.
pub(super) async fn table_inet(name: &str) -> Result<String, NetworkError> {
    let nft = Tool::new("nft").within(LIMIT);
    Ok(nft.args(["list", "table", "inet", name]).run().await?)
}
