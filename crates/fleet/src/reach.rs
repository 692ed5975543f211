//! How far a caller's sight goes. What a caller does not see is answered as what does not exist, so
//! that teams cannot even count each other's things.

use hostler_operations::{Call, Identity};

use crate::ids::{HostId, TeamId, UserId};
use crate::model::{Host, HostType};

/// On whose behalf a caller acts; attached to every [`Identity`] that the fleet gives out.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Principal {
    /// Those who run the platform: they see everything.
    Platform,
    /// One team: it sees its own VMs, keys and hosts.
    Team(TeamId),
    /// An enrolled host, about itself.
    Host(HostId),
    /// A user who has logged in, or a program with one of their keys.
    User(Seat),
}

/// A user at work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// Who it is.
    pub user: UserId,
    /// For whom they work now.
    pub sight: Sight,
}

/// What a user sees, for as long as they work for somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// As an admin of the platform: everything.
    Platform,
    /// As somebody of a team: the team's things.
    Team(TeamId),
    /// As nobody in particular: themselves.
    Nothing,
}

/// What the caller of an operation sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    Everything,
    Team(TeamId),
    Nothing,
}

/// The caller asks for what is outside their reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OutOfReach;

impl Reach {
    pub(crate) fn of(call: &Call) -> Self {
        match call.identity().and_then(Identity::principal) {
            Some(Principal::Platform) => Self::Everything,
            Some(Principal::Team(team)) => Self::Team(team.clone()),
            Some(Principal::User(seat)) => match &seat.sight {
                Sight::Platform => Self::Everything,
                Sight::Team(team) => Self::Team(team.clone()),
                Sight::Nothing => Self::Nothing,
            },
            Some(Principal::Host(_)) | None => Self::Nothing,
        }
    }

    pub(crate) fn is_platform(&self) -> bool {
        *self == Self::Everything
    }

    /// Whether things of this team (absent: of the platform) are seen.
    pub(crate) fn sees_team(&self, owner: Option<&TeamId>) -> bool {
        match self {
            Self::Everything => true,
            Self::Team(team) => owner == Some(team),
            Self::Nothing => false,
        }
    }

    /// Teams see the hosts that they brought; the platform's own are the platform's affair.
    pub(crate) fn sees_host(&self, host: &Host) -> bool {
        self.is_platform() || (host.kind == HostType::Byoc && self.sees_team(host.team_id.as_ref()))
    }

    /// The team on whose things an operation is to work: the one that is asked for, else the
    /// caller's own, else (for the platform) none in particular.
    pub(crate) fn team(&self, asked: Option<TeamId>) -> Result<Option<TeamId>, OutOfReach> {
        match (self, asked) {
            (Self::Everything, asked) => Ok(asked),
            (Self::Team(own), None) => Ok(Some(own.clone())),
            (Self::Team(own), Some(asked)) if *own == asked => Ok(Some(asked)),
            (Self::Team(_), Some(_)) | (Self::Nothing, _) => Err(OutOfReach),
        }
    }
}

/// The host that calls about itself.
pub(crate) fn calling_host(call: &Call) -> Option<&HostId> {
    match call.identity()?.principal()? {
        Principal::Host(id) => Some(id),
        _ => None,
    }
}

/// The user who calls, or whose key it is.
pub(crate) fn calling_user(call: &Call) -> Option<&UserId> {
    match call.identity()?.principal()? {
        Principal::User(seat) => Some(&seat.user),
        _ => None,
    }
}
