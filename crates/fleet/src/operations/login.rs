//! `auth/*`, and what users do about themselves: logging in and out, looking who they are, and
//! changing their password.
//!
//! An unknown name and a wrong password get the same answer after the same work, names count against
//! their limit whether or not somebody has them, and which of both it was is told only to the audit
//! trail.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use hostler_operations::{
    Call, FORBIDDEN, Grants, Identity, Method, NOT_FOUND, Scope, Service, StatusCode, internal,
    mutation, query, service,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::errors::{read_errors, write_errors};
use crate::attempts::TooMany;
use crate::clock;
use crate::codes::{BUSY, RATE_LIMITED, TEAM_REQUIRED, UNAUTHORIZED};
use crate::fleet::Fleet;
use crate::ids::{TeamId, UserId};
use crate::model::{Membership, User};
use crate::passwords::{Unhashed, Verdict};
use crate::reach::{Reach, calling_user};
use crate::scopes::USER_SELF;
use crate::secrets::{self, NewPassword, Password, USER_TOKEN_LIFE, UserToken};
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, StoreError, members, teams, users};

pub(super) fn operations() -> Service<Fleet> {
    service("auth")
        .with(
            mutation("login", login)
                .open()
                .rest(Method::POST, "/v1/login", StatusCode::OK),
        )
        .with(mutation("logout", logout).requires(USER_SELF).rest(
            Method::POST,
            "/v1/logout",
            StatusCode::NO_CONTENT,
        ))
}

/// What users do about themselves, under `users/`.
pub(super) fn of_users(users: Service<Fleet>) -> Service<Fleet> {
    users
        .with(
            query("me", me)
                .requires(USER_SELF)
                .rest(Method::GET, "/v1/users/me", StatusCode::OK),
        )
        .with(
            mutation("change-password", change_password)
                .requires(USER_SELF)
                .rest(Method::PUT, "/v1/users/me/password", StatusCode::NO_CONTENT),
        )
}

/// Logs a user in: their token is good for six hours, for one team or for the platform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Login {
    /// The user's name.
    #[schemars(length(min = 1, max = 128))]
    name: String,
    /// The user's password.
    password: Password,
    /// For which team, by its id or name. Absent: for the only one that the user is in; an admin of
    /// the platform then works for the platform.
    #[serde(default)]
    #[schemars(length(min = 1, max = 128))]
    team: Option<String>,
}

/// A login that went well.
#[derive(Debug, Serialize, JsonSchema)]
struct LoggedIn {
    /// The token, for `Authorization: Bearer`.
    #[serde(serialize_with = "secrets::reveal")]
    #[schemars(with = "String")]
    token: SecretString,
    /// From when on it is refused.
    expires_at: Timestamp,
    /// Who has logged in.
    user: User,
    /// For which team; absent: for the platform, or for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<TeamId>,
    /// The teams that the user is in.
    teams: Vec<Membership>,
}

write_errors! {
    /// Why nobody was logged in.
    enum LoginError {
        /// There is no such user, or it is not their password.
        Wrong = UNAUTHORIZED, "the name or the password is wrong";
        /// Somebody has tried this name, or from this address, too often.
        TooOften { retry_after_secs: u64 } = RATE_LIMITED,
            "there were too many attempts; try again in {retry_after_secs} s";
        /// Others are logging in.
        Busy = BUSY, "too many logins at once; try again in a moment";
        /// The user is in no such team.
        NotOfTeam { team: String } = NOT_FOUND, "you are in no team {team:?}";
        /// The user is in several teams.
        WhichTeam { teams: Vec<String> } = TEAM_REQUIRED,
            "you are in several teams ({teams:?}); say for which one you log in";
    }
}

/// Why a password was not found to be right.
enum NotProven {
    Wrong,
    TooOften(Duration),
    Unhashed(Unhashed),
    Store(StoreError),
}

impl From<Unhashed> for NotProven {
    fn from(error: Unhashed) -> Self {
        Self::Unhashed(error)
    }
}

impl From<StoreError> for NotProven {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TooMany> for NotProven {
    fn from(TooMany(wait): TooMany) -> Self {
        Self::TooOften(wait)
    }
}

impl From<NotProven> for LoginError {
    fn from(error: NotProven) -> Self {
        match error {
            NotProven::Wrong => Self::Wrong,
            NotProven::TooOften(wait) => Self::TooOften {
                retry_after_secs: whole_secs(wait),
            },
            NotProven::Unhashed(Unhashed::Busy) => Self::Busy,
            NotProven::Unhashed(failed) => Self::Internal(internal(failed)),
            NotProven::Store(error) => error.into(),
        }
    }
}

fn whole_secs(wait: Duration) -> u64 {
    wait.saturating_add(Duration::from_millis(999)).as_secs()
}

/// A user whose password was right.
struct Proven {
    user: User,
    epoch: i64,
}

fn address(call: &Call) -> Option<IpAddr> {
    call.remote_addr().as_ref().map(SocketAddr::ip)
}

/// Compares a password with that of the user of this name. What it was compared with is right as
/// long as the epoch that comes back is still the user's.
async fn prove(
    fleet: &Fleet,
    call: &Call,
    action: &str,
    name: &str,
    password: Password,
) -> Result<Proven, NotProven> {
    let from = address(call);
    fleet.attempts.take(name, from, Instant::now())?;
    let mut db = fleet.store.read().await?;
    let user = users::find(&mut db, name).await?;
    // An id is no name to log in with.
    let user = user.filter(|user| user.name.as_str() == name);
    let nobody = UserId::named(name);
    let id = user.as_ref().map_or(&nobody, |user| &user.id);
    let secret = users::secret(&mut db, id).await?;
    drop(db);
    let hash = secret.as_ref().map(|secret| secret.password.clone());
    let verdict = fleet.passwords.verify(password.clone(), hash).await?;
    match (user, secret, verdict) {
        (Some(user), Some(secret), Verdict::Right | Verdict::RightButWeak) => {
            fleet.attempts.give_back(name, from);
            if verdict == Verdict::RightButWeak {
                strengthen(fleet, &user.id, &secret.password, password).await;
            }
            let epoch = secret.epoch;
            Ok(Proven { user, epoch })
        }
        (user, ..) => {
            note_refusal(fleet, call, action, user.as_ref()).await?;
            Err(NotProven::Wrong)
        }
    }
}

/// A line about an attempt that failed. A name that nobody has is not written down: people type
/// their password into the wrong field.
async fn note_refusal(
    fleet: &Fleet,
    call: &Call,
    action: &str,
    user: Option<&User>,
) -> Result<(), StoreError> {
    if !fleet.attempts.may_note(Instant::now()) {
        tracing::warn!(
            action,
            "refused; the audit trail has enough lines about this minute"
        );
        return Ok(());
    }
    let mut tx = fleet.store.begin().await?;
    let object = user.map_or("unknown", |user| user.id.as_str());
    let actor = Actor::of(call, clock::now());
    audit::record_refusal(&mut tx, &actor, action, object).await?;
    store::commit(tx).await
}

/// Keeps a password with as much work in its hash as is asked for today. That this fails is no
/// reason to turn the user away.
async fn strengthen(fleet: &Fleet, user: &UserId, weak: &SecretString, password: Password) {
    let Ok(hash) = fleet.passwords.hash(password).await else {
        return;
    };
    let kept = async {
        let mut tx = fleet.store.begin().await?;
        users::strengthen(&mut tx, user, weak, &hash).await?;
        store::commit(tx).await
    };
    if let Err(error) = kept.await {
        tracing::warn!(%error, %user, "cannot keep a stronger hash of a password");
    }
}

/// For which team a user logs in.
async fn choose_team(
    db: &mut Db,
    user: &User,
    own: &[Membership],
    asked: Option<String>,
) -> Result<Option<TeamId>, LoginError> {
    if let Some(asked) = asked {
        let named = |team: &&Membership| team.team_id.as_str() == asked || team.name == asked;
        if let Some(team) = own.iter().find(named) {
            return Ok(Some(team.team_id.clone()));
        }
        let any = match user.is_admin {
            true => teams::find(db, &asked).await?,
            false => None,
        };
        let team = any.ok_or(LoginError::NotOfTeam { team: asked })?;
        return Ok(Some(team.id));
    }
    match own {
        _ if user.is_admin => Ok(None),
        [] => Ok(None),
        [only] => Ok(Some(only.team_id.clone())),
        several => Err(LoginError::WhichTeam {
            teams: several.iter().map(|team| team.name.clone()).collect(),
        }),
    }
}

async fn login(fleet: &Fleet, call: Call, input: Login) -> Result<LoggedIn, LoginError> {
    let Login {
        name,
        password,
        team,
    } = input;
    let Proven { user, epoch } = prove(fleet, &call, "auth.login", &name, password).await?;
    let now = clock::now();
    let mut tx = fleet.store.begin().await?;
    let teams = members::of_user(&mut tx, &user.id).await?;
    let team_id = choose_team(&mut tx, &user, &teams, team).await?;
    let claims = UserToken {
        user: user.id.clone(),
        team: team_id.clone(),
        epoch,
    };
    let token = fleet.tokens.issue_user(&claims, now).map_err(internal)?;
    let actor = Actor {
        subject: user.id.to_string(),
        ..Actor::of(&call, now)
    };
    let object = team_id.as_ref().map_or("-", TeamId::as_str);
    audit::record(&mut tx, &actor, "auth.login", object).await?;
    store::commit(tx).await?;
    Ok(LoggedIn {
        token,
        expires_at: now + USER_TOKEN_LIFE,
        user,
        team_id,
        teams,
    })
}

/// Logs the user out everywhere: all tokens that they have are refused from now on, on other
/// replicas within 5 s. Their API keys stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Logout {}

write_errors! {
    /// Why nobody was logged out.
    enum LogoutError {
        /// It is no user who calls.
        NoUser = NOT_FOUND, "these credentials are no user's; log in first";
    }
}

async fn logout(fleet: &Fleet, call: Call, _: Logout) -> Result<(), LogoutError> {
    let user = calling_user(&call).ok_or(LogoutError::NoUser)?;
    let actor = Actor::of(&call, clock::now());
    let mut tx = fleet.store.begin().await?;
    users::end_tokens(&mut tx, user).await?;
    audit::record(&mut tx, &actor, "auth.logout", user).await?;
    store::commit(tx).await?;
    fleet.known_users.forget();
    Ok(())
}

/// Shows who has logged in, for whom they work, and what they may do.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WhoAmI {}

/// Who has logged in.
#[derive(Debug, Serialize, JsonSchema)]
struct Me {
    /// The user.
    user: User,
    /// The team for which they work; absent: the platform, or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    team_id: Option<TeamId>,
    /// The teams that they are in.
    teams: Vec<Membership>,
    /// What they may do; `admin` is everything.
    scopes: Vec<String>,
}

read_errors! {
    /// Why nothing can be said of the caller.
    enum MeError {
        /// It is no user who calls.
        NoUser = NOT_FOUND, "these credentials are no user's; log in first";
    }
}

async fn me(fleet: &Fleet, call: Call, _: WhoAmI) -> Result<Me, MeError> {
    let id = calling_user(&call).ok_or(MeError::NoUser)?;
    let mut db = fleet.store.read().await?;
    let found = users::find(&mut db, id.as_str()).await?;
    let user = found.ok_or(MeError::NoUser)?;
    let teams = members::of_user(&mut db, id).await?;
    let team_id = match Reach::of(&call) {
        Reach::Team(team) => Some(team),
        Reach::Everything | Reach::Nothing => None,
    };
    let scopes = match call.identity().map(Identity::grants) {
        Some(Grants::All) => vec!["admin".to_owned()],
        Some(Grants::Only(scopes)) => scopes.iter().map(Scope::to_string).collect(),
        None => Vec::new(),
    };
    Ok(Me {
        user,
        team_id,
        teams,
        scopes,
    })
}

/// Changes one's own password, and ends all of one's tokens: log in again afterwards. API keys stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChangePassword {
    /// The present password.
    current: Password,
    /// The new one; at least 12 characters.
    new: NewPassword,
}

write_errors! {
    /// Why no password was changed.
    enum ChangePasswordError {
        /// That is not the present one. The token is good: this is no 401.
        Wrong = FORBIDDEN, "that is not your present password; nothing was changed";
        /// It was tried too often.
        TooOften { retry_after_secs: u64 } = RATE_LIMITED,
            "there were too many attempts; try again in {retry_after_secs} s";
        /// Others are logging in.
        Busy = BUSY, "too many logins at once; try again in a moment";
        /// It is no user who calls.
        NoUser = NOT_FOUND, "these credentials are no user's; log in first";
    }
}

impl From<NotProven> for ChangePasswordError {
    fn from(error: NotProven) -> Self {
        match error {
            NotProven::Wrong => Self::Wrong,
            NotProven::TooOften(wait) => Self::TooOften {
                retry_after_secs: whole_secs(wait),
            },
            NotProven::Unhashed(Unhashed::Busy) => Self::Busy,
            NotProven::Unhashed(failed) => Self::Internal(internal(failed)),
            NotProven::Store(error) => error.into(),
        }
    }
}

async fn change_password(
    fleet: &Fleet,
    call: Call,
    input: ChangePassword,
) -> Result<(), ChangePasswordError> {
    let id = calling_user(&call).ok_or(ChangePasswordError::NoUser)?;
    let mut db = fleet.store.read().await?;
    let found = users::find(&mut db, id.as_str()).await?;
    drop(db);
    let name = found.ok_or(ChangePasswordError::NoUser)?.name;
    let action = "user.change-password";
    let proven = prove(fleet, &call, action, name.as_str(), input.current).await?;
    let password = fleet.passwords.hash(input.new.0).await;
    let password = password.map_err(NotProven::Unhashed)?;
    let now = clock::now();
    let mut tx = fleet.store.begin().await?;
    // Somebody may have changed it meanwhile, and then this is not the present password any more.
    let present = users::secret(&mut tx, id).await?;
    if present.is_none_or(|present| present.epoch != proven.epoch) {
        return Err(ChangePasswordError::Wrong);
    }
    users::set_password(&mut tx, id, &password, now).await?;
    audit::record(&mut tx, &Actor::of(&call, now), action, id).await?;
    store::commit(tx).await?;
    fleet.known_users.forget();
    Ok(())
}
