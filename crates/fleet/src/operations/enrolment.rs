//! `hosts/token`, `register`, `renew`: how a pending host becomes a machine that proves who it is,
//! and stays one. How it says that it is there is in [`heartbeat`](super::heartbeat).
//!
//! Registration is one transaction. Using the token up, bringing the host online and signing its
//! certificate happen together or not at all; whoever kills the server in between finds the token
//! unused or the host enrolled, never both and never neither.

use hostler_authority::SignError;
use hostler_operations::{
    Call, FORBIDDEN, INVALID_INPUT, Method, NOT_FOUND, Service, StatusCode, internal, mutation,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::errors::write_errors;
use super::hosts::{HostWithToken, visible};
use crate::clock;
use crate::codes::{INVALID_STATE, UNAUTHORIZED};
use crate::enrolment::{Cidr, REGISTRATION_TOKEN_LIFE, TokenBinding};
use crate::fault;
use crate::fleet::Fleet;
use crate::ids::HostId;
use crate::model::{Host, HostAddress, HostStatus};
use crate::reach::calling_host;
use crate::redis_link::Claim;
use crate::scopes::{HOST_SELF, HOSTS_WRITE};
use crate::secrets::{self, RegistrationToken};
use crate::store::audit::{self, Actor};
use crate::store::registration::{self, Facts};
use crate::store::{self, Db, StoreError, hosts};

pub(super) fn operations(hosts: Service<Fleet>) -> Service<Fleet> {
    hosts
        .with(mutation("token", token).requires(HOSTS_WRITE).rest(
            Method::POST,
            "/v1/hosts/{id}/token",
            StatusCode::CREATED,
        ))
        .with(mutation("register", register).open().rest(
            Method::POST,
            "/v1/hosts/register",
            StatusCode::CREATED,
        ))
        .with(mutation("renew", renew).requires(HOST_SELF).rest(
            Method::POST,
            "/v1/hosts/{id}/svid",
            StatusCode::OK,
        ))
}

/// Makes a token in the place of all that the host had.
pub(super) async fn issue_token(
    db: &mut Db,
    actor: &Actor,
    host: &HostId,
    binding: &TokenBinding,
) -> Result<RegistrationToken, StoreError> {
    let token = RegistrationToken::generate();
    let expires_at = actor.now + REGISTRATION_TOKEN_LIFE;
    registration::replace(db, host, &token, binding, actor.now, expires_at).await?;
    audit::record(db, actor, "registration-token.issue", host).await?;
    Ok(token)
}

/// Issues a new registration token for a pending host. The old ones die.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct IssueToken {
    /// The host's id.
    id: HostId,
    /// The addresses from which the token may be used; absent: any.
    #[serde(default)]
    token_cidr: Option<Cidr>,
    /// The architecture (`x86_64`, `aarch64`) that the machine must have; absent: any.
    #[serde(default)]
    #[schemars(length(min = 1, max = 32))]
    token_arch: Option<String>,
}

write_errors! {
    /// Why no token was issued.
    enum IssueTokenError {
        /// There is no such host, or not for this caller.
        NoSuchHost { id: HostId } = NOT_FOUND,
            "there is no host {id}; hosts/list shows those there are";
        /// It is registered already.
        NotPending { status: HostStatus } = INVALID_STATE,
            "the host is {status}, and only a pending one can register; create another host for \
             another machine";
    }
}

async fn token(
    fleet: &Fleet,
    call: Call,
    input: IssueToken,
) -> Result<HostWithToken, IssueTokenError> {
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, &call, &input.id).await?;
    let host = found.ok_or(IssueTokenError::NoSuchHost { id: input.id })?;
    if host.status != HostStatus::Pending {
        return Err(IssueTokenError::NotPending {
            status: host.status,
        });
    }
    let binding = TokenBinding {
        cidr: input.token_cidr,
        arch: input.token_arch,
    };
    let actor = Actor::of(&call, clock::now());
    let registration_token = issue_token(&mut tx, &actor, &host.id, &binding).await?;
    store::commit(tx).await?;
    Ok(HostWithToken {
        host,
        registration_token,
    })
}

/// Registers this machine as a host. The registration token is the proof; it is used up.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Register {
    /// The registration token.
    token: RegistrationToken,
    /// Where the control plane reaches the machine's door, `IP:PORT`; absent for a machine that
    /// nobody can dial, which then keeps a connection of its own to the machines' door.
    #[serde(default)]
    address: Option<HostAddress>,
    /// Its architecture (`x86_64`, `aarch64`).
    #[serde(default)]
    #[schemars(length(min = 1, max = 32))]
    arch: Option<String>,
    /// Its processor cores.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65536))]
    cpu_cores: Option<u32>,
    /// Its memory in MiB.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_099_511_627_776_u64))]
    memory_mb: Option<u64>,
    /// Its disk for VMs in GiB.
    #[serde(default)]
    #[schemars(range(max = 1_099_511_627_776_u64))]
    disk_gb: Option<u64>,
    /// A certificate request (PKCS#10, PEM) for a key of the machine's own; without one the
    /// machine gets only its host token.
    #[serde(default)]
    #[schemars(length(max = 16384))]
    csr: Option<String>,
}

/// What a machine needs to be the host that it has become.
#[derive(Debug, Serialize, JsonSchema)]
struct Registered {
    /// The host.
    host: Host,
    /// The host token (JWT, one year), for the header `X-Host-Token`.
    #[serde(serialize_with = "secrets::reveal")]
    #[schemars(with = "String")]
    token: SecretString,
    /// The host's certificate chain (PEM, leaf first), when it sent a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    svid: Option<String>,
    /// The roots of the trust domain (PEM), by which the host recognises the control plane.
    bundle: String,
    /// Where the machines' door of the control plane is.
    machines_url: String,
}

write_errors! {
    /// Why a machine was not registered.
    enum RegisterError {
        /// The token is wrong, used, expired, or not for this machine.
        Unauthorized { reason: String } = UNAUTHORIZED,
            "{reason}; ask for a new token (hosts/token)";
        /// The certificate request cannot be signed. The token is still good.
        BadCsr { reason: String } = INVALID_INPUT,
            "{reason}; send another request, the token is still good";
    }
}

fn unauthorized(reason: impl ToString) -> RegisterError {
    RegisterError::Unauthorized {
        reason: reason.to_string(),
    }
}

fn not_good() -> RegisterError {
    unauthorized("the registration token is not good: unknown, used or expired")
}

async fn register(fleet: &Fleet, call: Call, input: Register) -> Result<Registered, RegisterError> {
    let hash = input.token.hash();
    if fleet.redis.claim_token(&hash).await == Claim::Used {
        return Err(not_good());
    }
    let registered = register_by_books(fleet, &call, input).await;
    match &registered {
        Ok(_) => fleet.redis.token_is_used(&hash).await,
        Err(_) => fleet.redis.give_token_up(&hash).await,
    }
    registered
}

async fn register_by_books(
    fleet: &Fleet,
    call: &Call,
    input: Register,
) -> Result<Registered, RegisterError> {
    let now = clock::now();
    let mut db = fleet.store.read().await?;
    if !registration::is_known(&mut db, &input.token).await? {
        return Err(not_good());
    }
    drop(db);
    let mut tx = fleet.store.begin().await?;
    let used = registration::consume(&mut tx, &input.token, now)
        .await?
        .ok_or_else(not_good)?;
    let (id, from) = (used.host, call.remote_addr().map(|remote| remote.ip()));
    used.binding
        .check(from, input.arch.as_deref())
        .map_err(unauthorized)?;
    let facts = Facts {
        address: input.address.as_ref(),
        arch: input.arch.as_deref(),
        cpu_cores: input.cpu_cores,
        memory_mb: input.memory_mb,
        disk_gb: input.disk_gb,
    };
    if !registration::bring_online(&mut tx, &id, &facts, now).await? {
        return Err(not_good());
    }
    let svid = match &input.csr {
        Some(csr) => Some(sign(fleet, &id, csr, now).map_err(|refused| match refused {
            SignRefused::Csr(reason) => RegisterError::BadCsr { reason },
            SignRefused::Internal(cause) => RegisterError::Internal(cause),
        })?),
        None => None,
    };
    let token = fleet.tokens.issue_host(&id, now).map_err(internal)?;
    let actor = Actor {
        subject: format!("registration-token:{id}"),
        ..Actor::of(call, now)
    };
    audit::record(&mut tx, &actor, "host.register", &id).await?;
    let host = hosts::get(&mut tx, &id).await?.ok_or_else(not_good)?;
    fault::point("register.before-commit");
    fleet.roll.enter(&id);
    store::commit(tx).await?;
    fault::point("register.after-commit");
    let address = input.address.as_ref().map(HostAddress::as_str);
    tracing::info!(host = %id, address, "a host has registered");
    Ok(Registered {
        host,
        token,
        svid,
        bundle: fleet.authority.bundle_pem(),
        machines_url: fleet.machines_url.clone(),
    })
}

enum SignRefused {
    /// The request is at fault.
    Csr(String),
    Internal(hostler_operations::Internal),
}

/// Signs a host's certificate. Whatever its request says, it is the certificate of this host.
fn sign(fleet: &Fleet, id: &HostId, csr: &str, now: Timestamp) -> Result<String, SignRefused> {
    let spiffe_id = fleet
        .connector
        .spiffe_id(id)
        .map_err(|e| SignRefused::Internal(internal(e)))?;
    match fleet.authority.sign_csr(csr, &spiffe_id, now) {
        Ok(issued) => Ok(issued.chain_pem),
        Err(refused @ SignError::Csr(_)) => Err(SignRefused::Csr(refused.to_string())),
        Err(broken) => Err(SignRefused::Internal(internal(broken))),
    }
}

/// Renews the calling host's certificate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Renew {
    /// The host's id.
    id: HostId,
    /// A certificate request (PKCS#10, PEM) for a key of the machine's own.
    #[schemars(length(max = 16384))]
    csr: String,
}

/// A new certificate, the roots as they are now, and a host token that is good for another year.
#[derive(Debug, Serialize, JsonSchema)]
struct Renewed {
    /// The host's certificate chain (PEM, leaf first).
    svid: String,
    /// The host token (JWT, one year), in place of the one before, which stays good for its time.
    #[serde(serialize_with = "secrets::reveal")]
    #[schemars(with = "String")]
    token: SecretString,
    /// The roots of the trust domain (PEM).
    bundle: String,
}

write_errors! {
    /// Why a host was not heard.
    pub(super) enum HostSelfError {
        /// The caller is not this host.
        Mismatch = FORBIDDEN, "host ID mismatch: a host may speak only about itself";
        /// The host was deleted.
        Gone { id: HostId } = NOT_FOUND,
            "there is no host {id} any more; forget its credentials, and register anew";
        /// The certificate request cannot be signed.
        BadCsr { reason: String } = INVALID_INPUT, "{reason}; send another request";
    }
}

/// The calling host, if it is the one of this id and still exists.
pub(super) async fn caller(db: &mut Db, call: &Call, id: &HostId) -> Result<Host, HostSelfError> {
    if calling_host(call) != Some(id) {
        return Err(HostSelfError::Mismatch);
    }
    let host = hosts::get(db, id)
        .await?
        .filter(|host| host.status != HostStatus::Pending);
    host.ok_or_else(|| HostSelfError::Gone { id: id.clone() })
}

async fn renew(fleet: &Fleet, call: Call, input: Renew) -> Result<Renewed, HostSelfError> {
    let mut db = fleet.store.read().await?;
    let host = caller(&mut db, &call, &input.id).await?;
    let now = clock::now();
    let token = fleet.tokens.issue_host(&host.id, now).map_err(internal)?;
    let signed = sign(fleet, &host.id, &input.csr, now);
    let svid = signed.map_err(|refused| match refused {
        SignRefused::Csr(reason) => HostSelfError::BadCsr { reason },
        SignRefused::Internal(cause) => HostSelfError::Internal(cause),
    })?;
    Ok(Renewed {
        svid,
        token,
        bundle: fleet.authority.bundle_pem(),
    })
}
