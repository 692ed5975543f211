//! `teams/members-*`: who is in a team, as what. Nobody gives a role away, or takes one, that comes to
//! more than they may do themselves.

use hostler_operations::{
    Call, FORBIDDEN, Method, NOT_FOUND, Service, StatusCode, mutation, query,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::errors::write_errors;
use super::page::Page;
use super::teams::{ReadTeamError, visible};
use crate::clock;
use crate::codes::CONFLICT;
use crate::fleet::Fleet;
use crate::model::{Member, Role, Team};
use crate::reach::calling_user;
use crate::scopes::{self, KEYS_WRITE, KeyScope, MEMBERS_WRITE, TEAMS_READ, USER_SELF};
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, StoreError, keys, members, users};

pub(super) fn of_teams(teams: Service<Fleet>) -> Service<Fleet> {
    teams
        .with(mutation("members-add", add).requires(MEMBERS_WRITE).rest(
            Method::POST,
            "/v1/teams/{team}/members",
            StatusCode::CREATED,
        ))
        .with(
            query("members-list", list)
                .requires_any([TEAMS_READ, KEYS_WRITE])
                .rest(Method::GET, "/v1/teams/{team}/members", StatusCode::OK),
        )
        .with(
            mutation("members-set-role", set_role)
                .requires(MEMBERS_WRITE)
                .rest(
                    Method::PUT,
                    "/v1/teams/{team}/members/{user}",
                    StatusCode::OK,
                ),
        )
        .with(
            mutation("members-remove", remove)
                .requires_any([MEMBERS_WRITE, USER_SELF])
                .rest(
                    Method::DELETE,
                    "/v1/teams/{team}/members/{user}",
                    StatusCode::NO_CONTENT,
                ),
        )
}

write_errors! {
    /// Why nothing was changed about who is in a team.
    enum MemberError {
        /// There is no such team, or not for this caller.
        NoSuchTeam { team: String } = NOT_FOUND,
            "there is no team {team:?}; teams/list shows those there are";
        /// Nobody is called so.
        NoSuchUser { user: String } = NOT_FOUND,
            "there is no user {user:?}; the platform's admins create users";
        /// They are not in the team.
        NoSuchMember { user: String } = NOT_FOUND,
            "{user:?} is not in the team; teams/members-list shows who is";
        /// They are in the team.
        IsMember { user: String } = CONFLICT,
            "{user:?} is in the team already; teams/members-set-role changes what they are";
        /// The caller may do less than the role.
        Escalation { role: Role, scope: KeyScope } = FORBIDDEN,
            "{role} comes to {scope}, which your own credentials do not grant; ask somebody who \
             may do as much";
        /// A team keeps an owner.
        LastOwner { user: String } = CONFLICT,
            "{user:?} is the last owner of the team; make somebody else an owner first";
    }
}

/// Whoever gives a role, or takes it from somebody, must be allowed as much as it comes to.
fn may_handle(call: &Call, role: Role) -> Result<(), MemberError> {
    match scopes::lacking(call.identity(), scopes::of_role(role)) {
        Some(scope) => Err(MemberError::Escalation { role, scope }),
        None => Ok(()),
    }
}

async fn visible_team(db: &mut Db, call: &Call, team: String) -> Result<Team, MemberError> {
    let found = visible(db, call, &team).await?;
    found.ok_or(MemberError::NoSuchTeam { team })
}

/// That the team has an owner without this one.
async fn keeps_owner(db: &mut Db, team: &Team, member: &Member) -> Result<(), MemberError> {
    if member.role == Role::Owner && !members::another_owner(db, &team.id, &member.user_id).await? {
        let user = member.name.to_string();
        return Err(MemberError::LastOwner { user });
    }
    Ok(())
}

fn object(team: &Team, member: &Member) -> String {
    format!("{} {} {}", team.id, member.user_id, member.role)
}

/// Puts a user into a team.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddMember {
    /// The team's id or name.
    team: String,
    /// The user's id or name.
    user: String,
    /// What they are in it.
    #[serde(default = "member")]
    role: Role,
}

fn member() -> Role {
    Role::Member
}

async fn add(fleet: &Fleet, call: Call, input: AddMember) -> Result<Member, MemberError> {
    let now = clock::now();
    let mut tx = fleet.store.begin().await?;
    let team = visible_team(&mut tx, &call, input.team).await?;
    may_handle(&call, input.role)?;
    let found = users::find(&mut tx, &input.user).await?;
    let user = found.ok_or(MemberError::NoSuchUser {
        user: input.user.clone(),
    })?;
    let member = Member {
        user_id: user.id,
        name: user.name,
        role: input.role,
        created_at: now,
    };
    match members::insert(&mut tx, &team.id, &member).await {
        Err(StoreError::Duplicate) => {
            return Err(MemberError::IsMember { user: input.user });
        }
        inserted => inserted?,
    }
    let actor = Actor::of(&call, now);
    audit::record(&mut tx, &actor, "team.member-add", object(&team, &member)).await?;
    store::commit(tx).await?;
    fleet.known_users.forget();
    Ok(member)
}

/// Lists who is in a team, in the order in which they became users.
#[derive(Debug, Deserialize, JsonSchema)]
struct ListMembers {
    /// The team's id or name.
    team: String,
    #[serde(flatten)]
    page: Page,
}

async fn list(fleet: &Fleet, call: Call, input: ListMembers) -> Result<Vec<Member>, ReadTeamError> {
    let mut db = fleet.store.read().await?;
    let found = visible(&mut db, &call, &input.team).await?;
    let team = found.ok_or(ReadTeamError::NoSuchTeam { team: input.team })?;
    let (after, limit) = (input.page.after(), input.page.fetch());
    let found = members::list(&mut db, &team.id, after, limit).await?;
    Ok(input
        .page
        .cut(&call, found, |member| member.user_id.as_str()))
}

/// Makes a member something else in the team. It holds for their tokens and keys at once, on other
/// replicas within 5 s. The last owner stays one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SetRole {
    /// The team's id or name.
    team: String,
    /// The user's id or name.
    user: String,
    /// What they are from now on.
    role: Role,
}

async fn set_role(fleet: &Fleet, call: Call, input: SetRole) -> Result<Member, MemberError> {
    let mut tx = fleet.store.begin().await?;
    let team = visible_team(&mut tx, &call, input.team).await?;
    let found = members::find(&mut tx, &team.id, &input.user).await?;
    let mut member = found.ok_or(MemberError::NoSuchMember { user: input.user })?;
    may_handle(&call, member.role)?;
    may_handle(&call, input.role)?;
    if member.role == input.role {
        return Ok(member);
    }
    keeps_owner(&mut tx, &team, &member).await?;
    members::set_role(&mut tx, &team.id, &member.user_id, input.role).await?;
    member.role = input.role;
    let actor = Actor::of(&call, clock::now());
    let object = object(&team, &member);
    audit::record(&mut tx, &actor, "team.member-set-role", object).await?;
    store::commit(tx).await?;
    fleet.known_users.forget();
    Ok(member)
}

/// Takes a user out of a team; everybody may take themselves out. Their API keys for the team are
/// deleted, and their tokens for it refused, on other replicas within 5 s. The last owner stays.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveMember {
    /// The team's id or name.
    team: String,
    /// The user's id or name.
    user: String,
}

async fn remove(fleet: &Fleet, call: Call, input: RemoveMember) -> Result<(), MemberError> {
    let actor = Actor::of(&call, clock::now());
    let mut tx = fleet.store.begin().await?;
    let team = visible_team(&mut tx, &call, input.team).await?;
    let found = members::find(&mut tx, &team.id, &input.user).await?;
    let member = found.ok_or(MemberError::NoSuchMember { user: input.user })?;
    let grants = call.identity().map(hostler_operations::Identity::grants);
    let leaves = calling_user(&call) == Some(&member.user_id)
        && grants.is_some_and(|grants| grants.holds(&USER_SELF));
    if !leaves {
        // Who came in by `user:self` alone has nothing of the scope that this needs.
        if grants.is_none_or(|grants| !grants.holds(&MEMBERS_WRITE)) {
            let (role, scope) = (member.role, KeyScope::MembersWrite);
            return Err(MemberError::Escalation { role, scope });
        }
        may_handle(&call, member.role)?;
    }
    keeps_owner(&mut tx, &team, &member).await?;
    for key in keys::delete_of_user(&mut tx, &member.user_id, Some(&team.id)).await? {
        audit::record(&mut tx, &actor, "api-key.delete", &key).await?;
    }
    members::delete(&mut tx, &team.id, &member.user_id).await?;
    let object = format!("{} {}", team.id, member.user_id);
    audit::record(&mut tx, &actor, "team.member-remove", object).await?;
    store::commit(tx).await?;
    fleet.known_keys.forget();
    fleet.known_users.forget();
    Ok(())
}
