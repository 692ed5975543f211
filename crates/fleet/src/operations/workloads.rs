//! What a host asks on behalf of the processes on it: `entries/sync`, `svids/sign`, `svids/mint`.
//!
//! A host signs nothing itself and speaks about itself only: it is given the entries that hold on
//! it, and SVIDs for the IDs of those entries, as long as it exists. Each signature is in the
//! authority's log with its serial number; the audit trail has the first one of each ID for a host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hostler_authority::{Bundles, SignError};
use hostler_identity::{BundleDocument, SpiffeId, TrustDomain};
use hostler_operations::{
    Call, FORBIDDEN, INVALID_INPUT, Internal, Method, NOT_FOUND, Service, StatusCode, internal,
    mutation, query, service,
};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use super::errors::read_errors;
use crate::clock;
use crate::fleet::Fleet;
use crate::ids::HostId;
use crate::model::{Entry, Host, HostStatus, Selector};
use crate::reach::calling_host;
use crate::scopes::HOST_SELF;
use crate::secrets;
use crate::store::audit::{self, Actor};
use crate::store::{self, Db, StoreError, entries, hosts};

/// How long a host waits for news before it is told that there are none.
const NEWS_WITHIN: Duration = Duration::from_secs(25);
/// A little more than a host is kept waiting.
const SYNC_TIMEOUT: Duration = Duration::from_secs(40);

pub(super) fn of_entries(entries: Service<Fleet>) -> Service<Fleet> {
    entries.with(
        query("sync", sync)
            .requires(HOST_SELF)
            .rest(Method::GET, "/v1/hosts/{id}/workloads", StatusCode::OK)
            .timeout(SYNC_TIMEOUT),
    )
}

pub(super) fn operations() -> Service<Fleet> {
    service("svids")
        .with(mutation("sign", sign).requires(HOST_SELF).rest(
            Method::POST,
            "/v1/hosts/{id}/workloads/svid",
            StatusCode::OK,
        ))
        .with(mutation("mint", mint).requires(HOST_SELF).rest(
            Method::POST,
            "/v1/hosts/{id}/workloads/jwt-svid",
            StatusCode::OK,
        ))
}

read_errors! {
    /// Why a host was not heard.
    enum WorkloadError {
        /// The caller is not this host.
        Mismatch = FORBIDDEN, "host ID mismatch: a host may speak only about itself";
        /// The host was deleted.
        Gone { id: HostId } = NOT_FOUND,
            "there is no host {id} any more; forget its credentials, and register anew";
        /// No process on this host has this ID.
        NotEntitled { spiffe_id: String } = FORBIDDEN,
            "no registration entry gives a process on this host the ID {spiffe_id}";
        /// What was asked for cannot be signed.
        Unfit { reason: String } = INVALID_INPUT, "{reason}";
    }
}

/// The calling host, if it is the one of this id and still exists.
async fn caller(db: &mut Db, call: &Call, id: &HostId) -> Result<Host, WorkloadError> {
    if calling_host(call) != Some(id) {
        return Err(WorkloadError::Mismatch);
    }
    let host = hosts::get(db, id)
        .await?
        .filter(|host| host.status != HostStatus::Pending);
    host.ok_or_else(|| WorkloadError::Gone { id: id.clone() })
}

/// Tells the calling host which identities the processes on it have, and the bundles by which they
/// recognise others. With the revision that the host has already, the answer comes when there is
/// another one, or after 25 s.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SyncEntries {
    /// The host's id.
    id: HostId,
    /// The revision that the host has; absent: none.
    #[serde(default)]
    #[schemars(length(max = 128))]
    after: Option<String>,
}

/// All that a host needs to know for the processes on it.
#[derive(Debug, Serialize, JsonSchema)]
struct Workloads {
    /// Names this state; another one has another name.
    revision: String,
    /// The entries that hold on the host.
    entries: Vec<HostEntry>,
    /// The roots of the fleet's own trust domain (PEM).
    bundle: String,
    /// The bundles of all trust domains that processes shall recognise, the own one among them, by
    /// their names: JWK sets (SPIFFE Trust Domain and Bundle, section 4).
    bundles: BTreeMap<String, Value>,
    /// Which root signs at present. When it is another one, identities are to be made anew.
    signer: String,
}

/// An entry as a host needs it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
struct HostEntry {
    /// Who a matching process is.
    spiffe_id: String,
    /// What a process must match, all of it.
    selectors: Vec<Selector>,
    /// By what a process that has several identities tells them apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl From<Entry> for HostEntry {
    fn from(entry: Entry) -> Self {
        Self {
            spiffe_id: entry.spiffe_id,
            selectors: entry.selectors,
            hint: entry.hint,
        }
    }
}

async fn sync(fleet: &Fleet, call: Call, input: SyncEntries) -> Result<Workloads, WorkloadError> {
    let mut changes = fleet.workload_changes.subscribe();
    let mut bundles = fleet.bundles.clone();
    let deadline = Instant::now() + NEWS_WITHIN;
    loop {
        // What changes from here on is waited for below.
        changes.mark_unchanged();
        let current = bundles.borrow_and_update().clone();
        let workloads = state(fleet, &call, &input.id, &current).await?;
        if input.after.as_ref() != Some(&workloads.revision) {
            return Ok(workloads);
        }
        tokio::select! {
            // Both senders live as long as the fleet.
            _ = changes.changed() => {}
            _ = bundles.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Ok(workloads),
            () = fleet.closing.cancelled() => return Ok(workloads),
        }
    }
}

async fn state(
    fleet: &Fleet,
    call: &Call,
    id: &HostId,
    bundles: &Bundles,
) -> Result<Workloads, WorkloadError> {
    let mut db = fleet.store.read().await?;
    let host = caller(&mut db, call, id).await?;
    let entries = entries::holding_on(&mut db, &host, None).await?;
    drop(db);
    let mut workloads = Workloads {
        revision: String::new(),
        entries: entries.into_iter().map(Into::into).collect(),
        bundle: fleet.authority.bundle_pem(),
        bundles: documents(bundles)?,
        signer: bundles.signer.clone(),
    };
    let text = serde_json::to_string(&workloads).map_err(internal)?;
    workloads.revision = secrets::hash(&text);
    Ok(workloads)
}

fn documents(bundles: &Bundles) -> Result<BTreeMap<String, Value>, Internal> {
    let domains = bundles.x509.iter().map(|(domain, _)| domain);
    let domains: BTreeSet<_> = domains
        .chain(bundles.jwt.iter().map(|(domain, _)| domain))
        .collect();
    let documents = domains
        .into_iter()
        .map(|domain| Ok((domain.to_string(), document(bundles, domain)?)));
    documents.collect()
}

fn document(bundles: &Bundles, domain: &TrustDomain) -> Result<Value, Internal> {
    let document = BundleDocument {
        roots: bundles.x509.get(domain).unwrap_or_default().to_vec(),
        jwt: bundles.jwt.get(domain).cloned().unwrap_or_default(),
        ..BundleDocument::default()
    };
    let json = document.to_json().map_err(internal)?;
    serde_json::from_str(&json).map_err(internal)
}

/// Signs the X.509-SVID of a process on the calling host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SignSvid {
    /// The host's id.
    id: HostId,
    /// Who the process is, by an entry that holds on the host.
    #[schemars(length(max = 2048))]
    spiffe_id: String,
    /// A certificate request (PKCS#10, PEM) for a key that was made on the host.
    #[schemars(length(max = 16384))]
    csr: String,
}

/// A certificate that was signed.
#[derive(Debug, Serialize, JsonSchema)]
struct SignedSvid {
    /// The certificate chain (PEM, leaf first).
    svid: String,
}

async fn sign(fleet: &Fleet, call: Call, input: SignSvid) -> Result<SignedSvid, WorkloadError> {
    let (id, entries) = entitled(fleet, &call, &input.id, &input.spiffe_id).await?;
    let lives = entries.iter().filter_map(|entry| entry.ttl_secs);
    let life = lives.min().map_or(SignedDuration::MAX, |secs| {
        SignedDuration::from_secs(secs.into())
    });
    let signed = fleet
        .authority
        .sign_csr_for(&input.csr, &id, life, clock::now());
    let svid = signed.map_err(refused)?.chain_pem;
    put_in_the_trail(fleet, &call, &input.id, &id).await?;
    Ok(SignedSvid { svid })
}

/// The first SVID of an ID for a host is in the trail before anybody has it; on a full disk it is in
/// the log, because a fleet whose identities run out is worse than a trail with a gap.
async fn put_in_the_trail(
    fleet: &Fleet,
    call: &Call,
    host: &HostId,
    id: &SpiffeId,
) -> Result<(), StoreError> {
    if !fleet.signed_for.is_new(host, id) {
        return Ok(());
    }
    let actor = Actor::of(call, clock::now());
    let line = async {
        let mut tx = fleet.store.begin().await?;
        audit::record(&mut tx, &actor, "svid.sign", id).await?;
        store::commit(tx).await
    };
    match line.await {
        Ok(()) => fleet.signed_for.remember(host, id),
        Err(StoreError::Full) => {
            tracing::error!(%host, %id, "signed without a line in the audit trail: the disk is full");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Issues a JWT-SVID of a process on the calling host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MintSvid {
    /// The host's id.
    id: HostId,
    /// Who the process is, by an entry that holds on the host.
    #[schemars(length(max = 2048))]
    spiffe_id: String,
    /// Who will check the token; the fewer the better.
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 2048)))]
    audience: Vec<String>,
}

/// A token that was issued.
#[derive(Debug, Serialize, JsonSchema)]
struct MintedSvid {
    /// The JWT-SVID.
    #[serde(serialize_with = "secrets::reveal")]
    #[schemars(with = "String")]
    token: SecretString,
    /// Until when it is valid.
    expires_at: Timestamp,
}

async fn mint(fleet: &Fleet, call: Call, input: MintSvid) -> Result<MintedSvid, WorkloadError> {
    let (id, _) = entitled(fleet, &call, &input.id, &input.spiffe_id).await?;
    let minted = fleet
        .authority
        .mint_jwt_svid(&id, &input.audience, None, clock::now())
        .map_err(refused)?;
    Ok(MintedSvid {
        token: minted.token,
        expires_at: minted.expires_at,
    })
}

/// The ID, if processes on the calling host have it, and the entries that say so.
async fn entitled(
    fleet: &Fleet,
    call: &Call,
    host: &HostId,
    spiffe_id: &str,
) -> Result<(SpiffeId, Vec<Entry>), WorkloadError> {
    let mut db = fleet.store.read().await?;
    let host = caller(&mut db, call, host).await?;
    let entries = entries::holding_on(&mut db, &host, Some(spiffe_id)).await?;
    if entries.is_empty() {
        return Err(WorkloadError::NotEntitled {
            spiffe_id: spiffe_id.to_owned(),
        });
    }
    let id = SpiffeId::new(spiffe_id).map_err(internal)?;
    Ok((id, entries))
}

fn refused(error: SignError) -> WorkloadError {
    match error {
        unfit @ (SignError::Csr(_) | SignError::NoAudience) => WorkloadError::Unfit {
            reason: unfit.to_string(),
        },
        broken => WorkloadError::Internal(internal(broken)),
    }
}
