//! Who is in which team, as what.

use sqlx::FromRow;

use super::{Db, StoreError, millis, query, revisions, time};
use crate::ids::{TeamId, UserId};
use crate::model::{Member, Membership, Role, UserName};

#[derive(FromRow)]
struct Row {
    user_id: String,
    name: String,
    role: String,
    created_at: i64,
}

fn role(word: &str) -> Result<Role, StoreError> {
    Role::parse(word).map_err(StoreError::unreadable)
}

impl TryFrom<Row> for Member {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            user_id: UserId::named(row.user_id),
            name: UserName::try_from(row.name).map_err(StoreError::unreadable)?,
            role: role(&row.role)?,
            created_at: time(row.created_at)?,
        })
    }
}

/// Puts a user into a team; [`StoreError::Duplicate`] when they are in it.
pub(crate) async fn insert(db: &mut Db, team: &TeamId, member: &Member) -> Result<(), StoreError> {
    query("INSERT INTO members (team_id, user_id, role, created_at) VALUES ($1, $2, $3, $4)")
        .bind(team.as_str())
        .bind(member.user_id.as_str())
        .bind(member.role.as_str())
        .bind(millis(member.created_at))
        .execute(&mut *db)
        .await?;
    revisions::bump(db, revisions::USERS).await
}

/// The member of this team with this user's id or name.
pub(crate) async fn find(
    db: &mut Db,
    team: &TeamId,
    id_or_name: &str,
) -> Result<Option<Member>, StoreError> {
    let row: Option<Row> = query(
        "SELECT m.user_id, u.name, m.role, m.created_at
         FROM members m JOIN users u ON u.id = m.user_id
         WHERE m.team_id = $1 AND (u.id = $2 OR u.name = $2)",
    )
    .bind(team.as_str())
    .bind(id_or_name)
    .fetch_optional(db)
    .await?;
    row.map(TryInto::try_into).transpose()
}

/// The members of a team after this user's id, in the order of their ids.
pub(crate) async fn list(
    db: &mut Db,
    team: &TeamId,
    after: &str,
    limit: u32,
) -> Result<Vec<Member>, StoreError> {
    let rows: Vec<Row> = query(
        "SELECT m.user_id, u.name, m.role, m.created_at
         FROM members m JOIN users u ON u.id = m.user_id
         WHERE m.team_id = $1 AND m.user_id > $2 ORDER BY m.user_id LIMIT $3",
    )
    .bind(team.as_str())
    .bind(after)
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.into_iter().map(TryInto::try_into).collect()
}

/// The teams that a user is in, the oldest first.
pub(crate) async fn of_user(db: &mut Db, user: &UserId) -> Result<Vec<Membership>, StoreError> {
    let rows: Vec<(String, String, String)> = query(
        "SELECT m.team_id, t.name, m.role
         FROM members m JOIN teams t ON t.id = m.team_id
         WHERE m.user_id = $1 ORDER BY m.team_id",
    )
    .bind(user.as_str())
    .fetch_all(db)
    .await?;
    let membership = |(team_id, name, word): (String, String, String)| {
        Ok(Membership {
            team_id: TeamId::named(team_id),
            name,
            role: role(&word)?,
        })
    };
    rows.into_iter().map(membership).collect()
}

/// Whether somebody other than this user owns the team.
pub(crate) async fn another_owner(
    db: &mut Db,
    team: &TeamId,
    user: &UserId,
) -> Result<bool, StoreError> {
    let found: Option<(String,)> = query(
        "SELECT user_id FROM members
         WHERE team_id = $1 AND user_id <> $2 AND role = 'owner' LIMIT 1",
    )
    .bind(team.as_str())
    .bind(user.as_str())
    .fetch_optional(db)
    .await?;
    Ok(found.is_some())
}

/// Makes a member something else in the team.
pub(crate) async fn set_role(
    db: &mut Db,
    team: &TeamId,
    user: &UserId,
    role: Role,
) -> Result<(), StoreError> {
    query("UPDATE members SET role = $3 WHERE team_id = $1 AND user_id = $2")
        .bind(team.as_str())
        .bind(user.as_str())
        .bind(role.as_str())
        .execute(&mut *db)
        .await?;
    revisions::bump(db, revisions::USERS).await
}

/// Takes a user out of a team.
pub(crate) async fn delete(db: &mut Db, team: &TeamId, user: &UserId) -> Result<(), StoreError> {
    query("DELETE FROM members WHERE team_id = $1 AND user_id = $2")
        .bind(team.as_str())
        .bind(user.as_str())
        .execute(&mut *db)
        .await?;
    revisions::bump(db, revisions::USERS).await
}
