//! The table of teams.

use super::{Db, StoreError, millis, query, time};
use crate::ids::TeamId;
use crate::model::Team;

type Row = (String, String, bool, i64);

fn team((id, name, is_byoc, created_at): Row) -> Result<Team, StoreError> {
    Ok(Team {
        id: TeamId::named(id),
        name,
        is_byoc,
        created_at: time(created_at)?,
    })
}

/// Adds a team; [`StoreError::Duplicate`] when there is one of this name.
pub(crate) async fn insert(db: &mut Db, team: &Team) -> Result<(), StoreError> {
    query("INSERT INTO teams (id, name, is_byoc, created_at) VALUES ($1, $2, $3, $4)")
        .bind(team.id.as_str())
        .bind(&team.name)
        .bind(team.is_byoc)
        .bind(millis(team.created_at))
        .execute(db)
        .await?;
    Ok(())
}

/// The team of this id.
pub(crate) async fn get(db: &mut Db, id: &TeamId) -> Result<Option<Team>, StoreError> {
    let row: Option<Row> = query("SELECT id, name, is_byoc, created_at FROM teams WHERE id = $1")
        .bind(id.as_str())
        .fetch_optional(db)
        .await?;
    row.map(team).transpose()
}

/// The teams after this id, in the order of their creation.
pub(crate) async fn list(db: &mut Db, after: &str, limit: u32) -> Result<Vec<Team>, StoreError> {
    let rows: Vec<Row> =
        query("SELECT id, name, is_byoc, created_at FROM teams WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(db)
            .await?;
    rows.into_iter().map(team).collect()
}
