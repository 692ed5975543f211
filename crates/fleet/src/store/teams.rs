//! The table of teams.

use super::{Db, StoreError, millis, query, revisions, time};
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

/// The team of this id, else of this name.
pub(crate) async fn find(db: &mut Db, id_or_name: &str) -> Result<Option<Team>, StoreError> {
    let id = TeamId::named(id_or_name);
    if let Some(found) = get(db, &id).await? {
        return Ok(Some(found));
    }
    let row: Option<Row> = query("SELECT id, name, is_byoc, created_at FROM teams WHERE name = $1")
        .bind(id_or_name)
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

/// Changes what may be changed; [`StoreError::Duplicate`] when another has this name.
pub(crate) async fn update(db: &mut Db, team: &Team) -> Result<(), StoreError> {
    query("UPDATE teams SET name = $2, is_byoc = $3 WHERE id = $1")
        .bind(team.id.as_str())
        .bind(&team.name)
        .bind(team.is_byoc)
        .execute(db)
        .await?;
    Ok(())
}

/// What a team still has and would leave behind: the ids of its hosts and of its VMs.
pub(crate) async fn belongings(
    db: &mut Db,
    id: &TeamId,
) -> Result<(Vec<String>, Vec<String>), StoreError> {
    let hosts: Vec<(String,)> = query("SELECT id FROM hosts WHERE team_id = $1 ORDER BY id")
        .bind(id.as_str())
        .fetch_all(&mut *db)
        .await?;
    let vms: Vec<(String,)> = query("SELECT id FROM vms WHERE team_id = $1 ORDER BY id")
        .bind(id.as_str())
        .fetch_all(db)
        .await?;
    let ids = |rows: Vec<(String,)>| rows.into_iter().map(|(id,)| id).collect();
    Ok((ids(hosts), ids(vms)))
}

/// Removes a team that has no host, VM or key, and its memberships.
pub(crate) async fn delete(db: &mut Db, id: &TeamId) -> Result<(), StoreError> {
    query("DELETE FROM members WHERE team_id = $1")
        .bind(id.as_str())
        .execute(&mut *db)
        .await?;
    query("DELETE FROM teams WHERE id = $1")
        .bind(id.as_str())
        .execute(&mut *db)
        .await?;
    revisions::bump(db, revisions::USERS).await
}
