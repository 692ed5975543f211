//! `entries/*`: which processes on which hosts have which identities. Hosts follow them by
//! [`workloads`](super::workloads).
//!
//! An identity is known throughout the trust domain, so only the platform says who has which.

use hostler_authority::workload_api;
use hostler_identity::{SpiffeId, TrustDomain};
use hostler_operations::{
    Call, FORBIDDEN, INVALID_INPUT, Method, NOT_FOUND, Service, StatusCode, mutation, query,
    service,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::errors::{ReadError, write_errors};
use super::page::Page;
use crate::clock;
use crate::codes::CONFLICT;
use crate::fleet::Fleet;
use crate::ids::{EntryId, HostId};
use crate::model::{Entry, Selector, Tag};
use crate::reach::Reach;
use crate::scopes::{ENTRIES_READ, ENTRIES_WRITE};
use crate::store::audit::{self, Actor};
use crate::store::{self, StoreError, entries, hosts};

/// Whose paths begin with one of these is no workload.
const RESERVED: [&str; 2] = ["host", "control-plane"];

pub(super) fn operations() -> Service<Fleet> {
    service("entries")
        .with(mutation("create", create).requires(ENTRIES_WRITE).rest(
            Method::POST,
            "/v1/entries",
            StatusCode::CREATED,
        ))
        .with(query("list", list).requires(ENTRIES_READ).rest(
            Method::GET,
            "/v1/entries",
            StatusCode::OK,
        ))
        .with(mutation("delete", delete).requires(ENTRIES_WRITE).rest(
            Method::DELETE,
            "/v1/entries/{id}",
            StatusCode::NO_CONTENT,
        ))
}

/// Gives processes an identity: those that match all of the selectors, on the hosts that are named.
/// Needs a key of the platform. Hosts hear of it at once.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreateEntry {
    /// Who a matching process is: `spiffe://DOMAIN/PATH` in this fleet's trust domain, or `/PATH`
    /// alone. Paths that begin with `/host/` or `/control-plane/` are reserved.
    #[schemars(length(min = 2, max = 2048))]
    spiffe_id: String,
    /// What a process must match, all of it. A program is not a user: whoever may run one can put
    /// code of their own into it, so an entry by path or digest should name the user as well.
    #[schemars(length(min = 1, max = 8))]
    selectors: Vec<Selector>,
    /// The one host on which it holds; the only way to name a byoc host.
    #[serde(default)]
    host: Option<HostId>,
    /// The tag of the regular hosts on which it holds; absent like host: every regular host.
    #[serde(default)]
    tag: Option<Tag>,
    /// By what a process that has several identities tells them apart; at most 1024 bytes.
    #[serde(default)]
    #[schemars(length(min = 1, max = 1024))]
    hint: Option<String>,
    /// For how long its X.509-SVIDs are valid, in seconds; at most (and if absent) as long as the
    /// authority's usually are.
    #[serde(default)]
    #[schemars(range(min = 10, max = 86_400))]
    ttl_secs: Option<u32>,
}

write_errors! {
    /// Why no entry was created.
    enum CreateEntryError {
        /// Only the platform says who is who.
        NotThePlatform = FORBIDDEN, "only a key of the platform may create entries";
        /// The SPIFFE ID cannot be a workload's of this trust domain.
        BadId { reason: String } = INVALID_INPUT, "spiffe_id: {reason}";
        /// The hint cannot be used.
        BadHint { reason: String } = INVALID_INPUT, "hint: {reason}";
        /// It would hold in two ways.
        HostAndTag = INVALID_INPUT, "an entry is for one host or for a tag; leave one of them out";
        /// There is no such host.
        NoSuchHost { host: HostId } = NOT_FOUND,
            "there is no host {host}; hosts/list shows those there are";
        /// There is an entry that says the same.
        SameEntry = CONFLICT,
            "there is an entry with this SPIFFE ID, these selectors and these hosts already; \
             delete it to change its hint or its ttl";
    }
}

/// The ID of a workload of this trust domain, or what is wrong with it.
fn workload_id(text: &str, own: &TrustDomain) -> Result<SpiffeId, String> {
    let id = if text.starts_with('/') {
        SpiffeId::new(format!("spiffe://{own}{text}"))
    } else {
        SpiffeId::new(text)
    };
    let id = id.map_err(|error| format!("{text:?} is no SPIFFE ID: {error}"))?;
    if !id.is_member_of(own) {
        return Err(format!("{id} is not of this fleet's trust domain, {own}"));
    }
    match id.path().split('/').nth(1) {
        None | Some("") => Err(format!("{id} names the trust domain; add a path")),
        Some(first) if RESERVED.contains(&first) => Err(format!(
            "paths that begin with /{first} are those of the fleet's own machines"
        )),
        Some(_) => Ok(id),
    }
}

async fn create(fleet: &Fleet, call: Call, input: CreateEntry) -> Result<Entry, CreateEntryError> {
    if !Reach::of(&call).is_platform() {
        return Err(CreateEntryError::NotThePlatform);
    }
    let id = workload_id(&input.spiffe_id, fleet.authority.trust_domain())
        .map_err(|reason| CreateEntryError::BadId { reason })?;
    if input.host.is_some() && input.tag.is_some() {
        return Err(CreateEntryError::HostAndTag);
    }
    let mut selectors = input.selectors;
    selectors.sort_unstable();
    selectors.dedup();
    check_as_hosts_will(&id, &selectors, input.hint.as_deref())?;
    let now = clock::now();
    let actor = Actor::of(&call, now);
    let entry = Entry {
        id: EntryId::generate(),
        spiffe_id: id.to_string(),
        selectors,
        host: input.host,
        tag: input.tag,
        hint: input.hint,
        ttl_secs: input.ttl_secs,
        created_by: actor.subject.clone(),
        created_at: now,
    };
    let mut tx = fleet.store.begin().await?;
    if let Some(host) = &entry.host
        && hosts::get(&mut tx, host).await?.is_none()
    {
        return Err(CreateEntryError::NoSuchHost { host: host.clone() });
    }
    match entries::insert(&mut tx, &entry).await {
        Err(StoreError::Duplicate) => return Err(CreateEntryError::SameEntry),
        inserted => inserted?,
    }
    let object = format!("{} {}", entry.id, entry.spiffe_id);
    audit::record(&mut tx, &actor, "entry.create", object).await?;
    store::commit(tx).await?;
    fleet.workloads_changed();
    Ok(entry)
}

/// What is stored must be what every host can use.
fn check_as_hosts_will(
    id: &SpiffeId,
    selectors: &[Selector],
    hint: Option<&str>,
) -> Result<(), CreateEntryError> {
    let refused = |error: workload_api::EntryError| match error {
        workload_api::EntryError::LongHint => CreateEntryError::BadHint {
            reason: error.to_string(),
        },
        other => CreateEntryError::BadId {
            reason: other.to_string(),
        },
    };
    let selectors = selectors.iter().map(Selector::parsed);
    let entry = workload_api::Entry::new(id.clone(), selectors).map_err(refused)?;
    entry
        .with_hint(hint.unwrap_or_default())
        .map_err(refused)
        .map(drop)
}

/// Lists entries, in the order of their creation. Only a key of the platform sees any.
#[derive(Debug, Deserialize, JsonSchema)]
struct ListEntries {
    /// Only those of this SPIFFE ID.
    #[serde(default)]
    #[schemars(length(max = 2048))]
    spiffe_id: Option<String>,
    /// Only those that name this host.
    #[serde(default)]
    host: Option<HostId>,
    #[serde(flatten)]
    page: Page,
}

async fn list(fleet: &Fleet, call: Call, input: ListEntries) -> Result<Vec<Entry>, ReadError> {
    if !Reach::of(&call).is_platform() {
        return Ok(Vec::new());
    }
    let filter = entries::Filter {
        spiffe_id: input.spiffe_id,
        host: input.host,
        after: input.page.after().to_owned(),
        limit: input.page.fetch(),
    };
    let mut db = fleet.store.read().await?;
    let found = entries::list(&mut db, &filter).await?;
    Ok(input.page.cut(&call, found, |entry| entry.id.as_str()))
}

/// Takes an identity back from the processes of an entry. Hosts hear of it at once; what was issued
/// is good until it expires.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DeleteEntry {
    /// The entry's id.
    id: EntryId,
}

write_errors! {
    /// Why no entry was deleted.
    enum DeleteEntryError {
        /// There is no such entry, or not for this caller.
        NoSuchEntry { id: EntryId } = NOT_FOUND,
            "there is no entry {id}; entries/list shows those there are";
    }
}

async fn delete(fleet: &Fleet, call: Call, input: DeleteEntry) -> Result<(), DeleteEntryError> {
    let no_such_entry = || DeleteEntryError::NoSuchEntry {
        id: input.id.clone(),
    };
    if !Reach::of(&call).is_platform() {
        return Err(no_such_entry());
    }
    let mut tx = fleet.store.begin().await?;
    if !entries::delete(&mut tx, &input.id).await? {
        return Err(no_such_entry());
    }
    let actor = Actor::of(&call, clock::now());
    audit::record(&mut tx, &actor, "entry.delete", &input.id).await?;
    store::commit(tx).await?;
    fleet.workloads_changed();
    Ok(())
}
