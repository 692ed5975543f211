//! `users/*`: who may log in. Managed by the platform; what users do about themselves is in
//! [`login`](super::login).

use hostler_operations::{
    Call, FORBIDDEN, Grants, Identity, Method, NOT_FOUND, Service, StatusCode, internal, mutation,
    query, service,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::errors::{ReadError, read_errors, write_errors};
use super::page::Page;
use crate::clock;
use crate::codes::{BUSY, CONFLICT};
use crate::fleet::Fleet;
use crate::ids::UserId;
use crate::model::{Membership, User, UserName};
use crate::passwords::Unhashed;
use crate::reach::Reach;
use crate::scopes::{USERS_READ, USERS_WRITE};
use crate::secrets::NewPassword;
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, StoreError, keys, members, users};

pub(super) fn operations() -> Service<Fleet> {
    service("users")
        .with(mutation("create", create).requires(USERS_WRITE).rest(
            Method::POST,
            "/v1/users",
            StatusCode::CREATED,
        ))
        .with(query("list", list).requires(USERS_READ).rest(
            Method::GET,
            "/v1/users",
            StatusCode::OK,
        ))
        .with(query("get", get).requires(USERS_READ).rest(
            Method::GET,
            "/v1/users/{user}",
            StatusCode::OK,
        ))
        .with(mutation("delete", delete).requires(USERS_WRITE).rest(
            Method::DELETE,
            "/v1/users/{user}",
            StatusCode::NO_CONTENT,
        ))
        .with(
            mutation("set-password", set_password)
                .requires(USERS_WRITE)
                .rest(
                    Method::PUT,
                    "/v1/users/{user}/password",
                    StatusCode::NO_CONTENT,
                ),
        )
        .with(mutation("set-admin", set_admin).requires(USERS_WRITE).rest(
            Method::PUT,
            "/v1/users/{user}/admin",
            StatusCode::OK,
        ))
}

/// Whether the caller may do everything, and so give that away.
pub(super) fn is_admin(call: &Call) -> bool {
    call.identity().map(Identity::grants) == Some(&Grants::All)
}

/// The user of this id or name, if the caller sees users at all.
async fn visible(db: &mut Db, call: &Call, user: &str) -> Result<Option<User>, StoreError> {
    match Reach::of(call).is_platform() {
        true => users::find(db, user).await,
        false => Ok(None),
    }
}

/// Whether there would be nobody left who may do everything, nor a key that can.
pub(super) async fn nobody_is_admin(db: &mut Db) -> Result<bool, StoreError> {
    Ok(!users::any_admin(db).await? && !keys::any_admin(db, clock::now()).await?)
}

/// Creates a user, who is in no team yet. Needs a key or an admin of the platform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateUser {
    /// By which they log in; unique.
    name: UserName,
    /// Their first password; at least 12 characters.
    password: NewPassword,
    /// Whether they run the platform, and may do everything.
    #[serde(default)]
    is_admin: bool,
}

write_errors! {
    /// Why no user was created.
    enum CreateUserError {
        /// Only the platform has users.
        NotThePlatform = FORBIDDEN, "only the platform may create users";
        /// Only who may do everything makes others who may.
        Escalation = FORBIDDEN,
            "only an admin of the platform may create another one; leave is_admin out";
        /// There is one of this name.
        NameTaken { name: UserName } = CONFLICT,
            "there is a user called {name} already; choose another name";
        /// Too many passwords are being hashed.
        Busy = BUSY, "too many logins at once; try again in a moment";
    }
}

impl From<Unhashed> for CreateUserError {
    fn from(error: Unhashed) -> Self {
        match error {
            Unhashed::Busy => Self::Busy,
            failed @ Unhashed::Failed(_) => Self::Internal(internal(failed)),
        }
    }
}

async fn create(fleet: &Fleet, call: Call, input: CreateUser) -> Result<User, CreateUserError> {
    if !Reach::of(&call).is_platform() {
        return Err(CreateUserError::NotThePlatform);
    }
    if input.is_admin && !is_admin(&call) {
        return Err(CreateUserError::Escalation);
    }
    let password = fleet.passwords.hash(input.password.0).await?;
    let now = clock::now();
    let actor = Actor::of(&call, now);
    let user = User {
        id: UserId::generate(),
        name: input.name,
        is_admin: input.is_admin,
        created_by: actor.subject.clone(),
        created_at: now,
        updated_at: now,
    };
    let mut tx = fleet.store.begin().await?;
    match users::insert(&mut tx, &user, &password).await {
        Err(StoreError::Duplicate) => return Err(CreateUserError::NameTaken { name: user.name }),
        inserted => inserted?,
    }
    let object = format!("{} {}", user.id, user.name);
    audit::record(&mut tx, &actor, "user.create", object).await?;
    store::commit(tx).await?;
    Ok(user)
}

/// Lists users, in the order of their creation. Needs a key or an admin of the platform.
#[derive(Debug, Deserialize, JsonSchema)]
struct ListUsers {
    #[serde(flatten)]
    page: Page,
}

async fn list(fleet: &Fleet, call: Call, input: ListUsers) -> Result<Vec<User>, ReadError> {
    if !Reach::of(&call).is_platform() {
        return Ok(Vec::new());
    }
    let mut db = fleet.store.read().await?;
    let found = users::list(&mut db, input.page.after(), input.page.fetch()).await?;
    Ok(input.page.cut(&call, found, |user| user.id.as_str()))
}

/// Shows a user and their teams.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GetUser {
    /// The user's id or name.
    user: String,
}

/// A user and their teams.
#[derive(Debug, Serialize, JsonSchema)]
struct UserWithTeams {
    #[serde(flatten)]
    user: User,
    /// The teams that they are in.
    teams: Vec<Membership>,
}

read_errors! {
    /// Why nothing can be said of a user.
    enum ReadUserError {
        /// There is no such user, or not for this caller.
        NoSuchUser { user: String } = NOT_FOUND,
            "there is no user {user:?}; users/list shows those there are";
    }
}

async fn get(fleet: &Fleet, call: Call, input: GetUser) -> Result<UserWithTeams, ReadUserError> {
    let mut db = fleet.store.read().await?;
    let found = visible(&mut db, &call, &input.user).await?;
    let user = found.ok_or(ReadUserError::NoSuchUser { user: input.user })?;
    let teams = members::of_user(&mut db, &user.id).await?;
    Ok(UserWithTeams { user, teams })
}

write_errors! {
    /// Why a user was not changed.
    enum ChangeUserError {
        /// There is no such user, or not for this caller.
        NoSuchUser { user: String } = NOT_FOUND,
            "there is no user {user:?}; users/list shows those there are";
        /// Whoever could change them could become them.
        NotAnAdmin = FORBIDDEN, "only an admin of the platform may do this";
        /// Nobody could do everything any more.
        LastAdmin { user: UserName } = CONFLICT,
            "{user} is the last who may do everything; make another admin first";
        /// Too many passwords are being hashed.
        Busy = BUSY, "too many logins at once; try again in a moment";
    }
}

impl From<Unhashed> for ChangeUserError {
    fn from(error: Unhashed) -> Self {
        match error {
            Unhashed::Busy => Self::Busy,
            failed @ Unhashed::Failed(_) => Self::Internal(internal(failed)),
        }
    }
}

/// Deletes a user. Their tokens and API keys are refused from then on, on other replicas within
/// 5 s; what they made stays. A team may be left without an owner.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteUser {
    /// The user's id or name.
    user: String,
}

async fn delete(fleet: &Fleet, call: Call, input: DeleteUser) -> Result<(), ChangeUserError> {
    let actor = Actor::of(&call, clock::now());
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, &call, &input.user).await?;
    let user = found.ok_or(ChangeUserError::NoSuchUser { user: input.user })?;
    if user.is_admin && !is_admin(&call) {
        return Err(ChangeUserError::NotAnAdmin);
    }
    for key in keys::delete_of_user(&mut tx, &user.id, None).await? {
        audit::record(&mut tx, &actor, "api-key.delete", &key).await?;
    }
    for team in members::of_user(&mut tx, &user.id).await? {
        members::delete(&mut tx, &team.team_id, &user.id).await?;
        let object = format!("{} {}", team.team_id, user.id);
        audit::record(&mut tx, &actor, "team.member-remove", object).await?;
    }
    users::delete(&mut tx, &user.id).await?;
    if nobody_is_admin(&mut tx).await? {
        return Err(ChangeUserError::LastAdmin { user: user.name });
    }
    let object = format!("{} {}", user.id, user.name);
    audit::record(&mut tx, &actor, "user.delete", object).await?;
    store::commit(tx).await?;
    fleet.known_users.forget();
    fleet.known_keys.forget();
    Ok(())
}

/// Gives a user another password, and ends their tokens, on other replicas within 5 s. Their API
/// keys stay. Needs an admin of the platform, because whoever sets a password can log in with it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SetPassword {
    /// The user's id or name.
    user: String,
    /// The new password; at least 12 characters.
    password: NewPassword,
}

async fn set_password(
    fleet: &Fleet,
    call: Call,
    input: SetPassword,
) -> Result<(), ChangeUserError> {
    let no_such_user = || ChangeUserError::NoSuchUser {
        user: input.user.clone(),
    };
    if !Reach::of(&call).is_platform() {
        return Err(no_such_user());
    }
    if !is_admin(&call) {
        return Err(ChangeUserError::NotAnAdmin);
    }
    let password = fleet.passwords.hash(input.password.0).await?;
    let now = clock::now();
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, &call, &input.user).await?;
    let user = found.ok_or_else(no_such_user)?;
    users::set_password(&mut tx, &user.id, &password, now).await?;
    let actor = Actor::of(&call, now);
    audit::record(&mut tx, &actor, "user.set-password", &user.id).await?;
    store::commit(tx).await?;
    fleet.known_users.forget();
    Ok(())
}

/// Says whether a user runs the platform, and may do everything. Needs an admin of the platform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SetAdmin {
    /// The user's id or name.
    user: String,
    /// Whether they do.
    is_admin: bool,
}

async fn set_admin(fleet: &Fleet, call: Call, input: SetAdmin) -> Result<User, ChangeUserError> {
    let now = clock::now();
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, &call, &input.user).await?;
    let mut user = found.ok_or(ChangeUserError::NoSuchUser { user: input.user })?;
    if !is_admin(&call) {
        return Err(ChangeUserError::NotAnAdmin);
    }
    if user.is_admin == input.is_admin {
        return Ok(user);
    }
    users::set_admin(&mut tx, &user.id, input.is_admin, now).await?;
    if nobody_is_admin(&mut tx).await? {
        return Err(ChangeUserError::LastAdmin { user: user.name });
    }
    let action = match input.is_admin {
        true => "user.make-admin",
        false => "user.unmake-admin",
    };
    audit::record(&mut tx, &Actor::of(&call, now), action, &user.id).await?;
    store::commit(tx).await?;
    fleet.known_users.forget();
    (user.is_admin, user.updated_at) = (input.is_admin, now);
    Ok(user)
}
