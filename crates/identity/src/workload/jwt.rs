//! A token from the Workload API, for where no mutual TLS reaches.

use jiff::Timestamp;
use secrecy::SecretString;
use spiffe::{JwtSvid, WorkloadApiClient};

use super::choice::{SvidChoice, SvidName};
use super::error::{self, WorkloadApiFailure};

/// A JWT-SVID of this process, as the Workload API gave it. Whoever has the token is this process
/// to its audience, so it is shown to nobody else.
///
/// It was not verified here: the Workload API vouches for it, and its audience will look closer
/// (as [`JwtSvid::validate`](crate::JwtSvid::validate) does).
#[derive(Debug)]
#[non_exhaustive]
pub struct WorkloadJwt {
    /// Whose it is.
    pub name: SvidName,
    /// Whom it is for.
    pub audience: Vec<String>,
    /// Until when it is valid.
    pub expires_at: Timestamp,
    /// JWS in compact form.
    pub token: SecretString,
}

impl WorkloadJwt {
    /// Asks the Workload API at `endpoint` for a token to present to `audience`, at least one. It
    /// answers within ten seconds, or this fails.
    pub async fn fetch(
        endpoint: &str,
        audience: &[String],
        choice: &SvidChoice,
    ) -> Result<Self, WorkloadApiFailure> {
        super::in_time(endpoint, fetch(endpoint, audience, choice)).await
    }
}

async fn fetch(
    endpoint: &str,
    audience: &[String],
    choice: &SvidChoice,
) -> Result<WorkloadJwt, WorkloadApiFailure> {
    let endpoint = super::checked(endpoint)?;
    let failed = |source| error::of_first_answer(&endpoint, source);
    let client = WorkloadApiClient::connect_to(&endpoint)
        .await
        .map_err(failed)?;
    let id = match choice {
        SvidChoice::Id(id) => Some(id),
        SvidChoice::Default | SvidChoice::Hint(_) => None,
    };
    let given = client.fetch_all_jwt_svids(audience, id).await;
    let mut given = given.map_err(failed)?;
    let name = |svid: &JwtSvid| SvidName::new(svid.spiffe_id(), svid.hint());
    let names: Vec<_> = given.iter().map(name).collect();
    match choice.among(&names) {
        Some(position) => Ok(wrapped(&given.swap_remove(position))),
        None => Err(WorkloadApiFailure::NotGiven {
            endpoint,
            wanted: choice.clone(),
            given: names,
        }),
    }
}

fn wrapped(svid: &JwtSvid) -> WorkloadJwt {
    let seconds = svid.expiry().unix_timestamp();
    WorkloadJwt {
        name: SvidName::new(svid.spiffe_id(), svid.hint()),
        audience: svid.audience().to_vec(),
        expires_at: Timestamp::from_second(seconds).unwrap_or(Timestamp::MIN),
        token: svid.token().into(),
    }
}
