//! What a user's token or key is worth now: it may do no more than the user may at this moment.

use hostler_operations::{Grants, Identity, Scope};
use jiff::{Timestamp, ToSpan};
use secrecy::SecretString;

use super::IdentifyError;
use crate::fleet::Fleet;
use crate::ids::{TeamId, UserId};
use crate::model::{ApiKeyInfo, Membership, Role};
use crate::reach::{Principal, Seat, Sight};
use crate::scopes::{self, USER_SELF};
use crate::store::{StoreError, keys, members, teams, users};

const HOUR_MILLIS: i64 = 3_600_000;

/// Who a user is, and where.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    is_admin: bool,
    epoch: i64,
    teams: Vec<Membership>,
}

impl Fleet {
    /// The user of this token.
    pub(super) async fn token_holder(
        &self,
        bearer: &SecretString,
        now: Timestamp,
    ) -> Result<Identity, IdentifyError> {
        let token = self.tokens.verify_user(bearer, now).map_err(|reason| {
            tracing::debug!(%reason, "a bearer token was refused");
            IdentifyError::Refused
        })?;
        let standing = self.standing(&token.user).await?;
        if standing.epoch != token.epoch {
            return Err(IdentifyError::Refused);
        }
        let (sight, grants) = match self.at_work(&standing, token.team).await? {
            Some((sight, grants)) => (sight, with(grants, USER_SELF)),
            None => return Err(IdentifyError::Refused),
        };
        let user = token.user;
        let identity = Identity::new(user.as_str(), grants);
        Ok(identity.with_principal(Principal::User(Seat { user, sight })))
    }

    /// What a key of this user is worth: what both it and they may do.
    pub(super) async fn user_key(
        &self,
        key: &ApiKeyInfo,
        user: &UserId,
    ) -> Result<Identity, IdentifyError> {
        let standing = self.standing(user).await?;
        let seat = self.at_work(&standing, key.team_id.clone()).await?;
        let Some((sight, grants)) = seat.filter(|(sight, _)| *sight != Sight::Nothing) else {
            return Err(IdentifyError::Refused);
        };
        let grants = scopes::common(scopes::grants(&key.scopes), grants);
        let user = user.clone();
        let identity = Identity::new(key.id.as_str(), grants);
        Ok(identity.with_principal(Principal::User(Seat { user, sight })))
    }

    /// What the user sees and may do for this team, or for none in particular. `None` when they
    /// are not of that team, or there is none.
    async fn at_work(
        &self,
        standing: &Standing,
        team: Option<TeamId>,
    ) -> Result<Option<(Sight, Grants)>, StoreError> {
        let Some(team) = team else {
            return Ok(Some(match standing.is_admin {
                true => (Sight::Platform, Grants::All),
                false => (Sight::Nothing, Grants::from_iter([])),
            }));
        };
        let role = match standing.teams.iter().find(|of| of.team_id == team) {
            _ if standing.is_admin => {
                let mut db = self.store.read().await?;
                teams::get(&mut db, &team).await?.map(|_| Role::Owner)
            }
            Some(membership) => Some(membership.role),
            None => None,
        };
        Ok(role.map(|role| (Sight::Team(team), scopes::grants(scopes::of_role(role)))))
    }

    async fn standing(&self, user: &UserId) -> Result<Standing, IdentifyError> {
        if let Some(standing) = self.known_users.get(user.as_str()) {
            return Ok(standing);
        }
        let era = self.known_users.era();
        let mut db = self.store.read().await?;
        let found = users::find(&mut db, user.as_str()).await?;
        let found = found.filter(|found| found.id == *user);
        let secret = users::secret(&mut db, user).await?;
        let (Some(found), Some(secret)) = (found, secret) else {
            return Err(IdentifyError::Refused);
        };
        let standing = Standing {
            is_admin: found.is_admin,
            epoch: secret.epoch,
            teams: members::of_user(&mut db, user).await?,
        };
        self.known_users
            .remember(era, user.to_string(), standing.clone());
        Ok(standing)
    }

    /// Notes that a key is used, once in an hour at most. That this fails is no reason to refuse
    /// the request.
    pub(super) async fn key_is_used(&self, key: &mut ApiKeyInfo, now: Timestamp) {
        let hour = now - now.as_millisecond().rem_euclid(HOUR_MILLIS).milliseconds();
        let expired = key.expires_at.is_some_and(|end| end <= now);
        if expired || key.last_used_at.is_some_and(|last| last >= hour) {
            return;
        }
        let noted = async {
            let mut db = self.store.note().await?;
            keys::used(&mut db, &key.id, hour).await
        };
        match noted.await {
            Ok(()) => key.last_used_at = Some(hour),
            Err(error) => tracing::debug!(%error, key = %key.id, "cannot note that it is used"),
        }
    }
}

fn with(grants: Grants, scope: Scope) -> Grants {
    match grants {
        Grants::All => Grants::All,
        Grants::Only(mut scopes) => {
            scopes.insert(scope);
            Grants::Only(scopes)
        }
    }
}
