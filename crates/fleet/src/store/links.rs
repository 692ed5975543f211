//! The table of connections that hosts have made to servers. Each statement is a change by itself.

use super::{Db, StoreError, query};
use crate::ids::HostId;

/// Says that the server at this URL holds a host's connection, of this name, from now on.
pub(crate) async fn put(
    db: &mut Db,
    host: &HostId,
    link: &str,
    url: &str,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO links (host_id, link, url) VALUES ($1, $2, $3)
         ON CONFLICT (host_id) DO UPDATE SET link = excluded.link, url = excluded.url",
    )
    .bind(host.as_str())
    .bind(link)
    .bind(url)
    .execute(db)
    .await?;
    Ok(())
}

/// Says that a connection has ended; a newer one stays.
pub(crate) async fn end(db: &mut Db, host: &HostId, link: &str) -> Result<(), StoreError> {
    query("DELETE FROM links WHERE host_id = $1 AND link = $2")
        .bind(host.as_str())
        .bind(link)
        .execute(db)
        .await?;
    Ok(())
}

/// Where the server is that holds a host's connection.
pub(crate) async fn of(db: &mut Db, host: &HostId) -> Result<Option<String>, StoreError> {
    let row: Option<(String,)> = query("SELECT url FROM links WHERE host_id = $1")
        .bind(host.as_str())
        .fetch_optional(db)
        .await?;
    Ok(row.map(|(url,)| url))
}
