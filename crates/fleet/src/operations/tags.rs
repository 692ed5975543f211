//! `hosts/tags-*`: the words by which placement and people find hosts.

use hostler_operations::{
    Call, INVALID_INPUT, Method, NOT_FOUND, Service, StatusCode, mutation, query,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::errors::{ChangeHostError, ReadHostError, write_errors};
use super::hosts::visible;
use crate::clock;
use crate::fleet::Fleet;
use crate::ids::HostId;
use crate::model::Tag;
use crate::scopes::{HOSTS_READ, HOSTS_WRITE};
use crate::store::audit::{self, Actor};
use crate::store::{self, hosts};

/// How many tags a host may have.
const MOST_TAGS: usize = 64;

pub(super) fn operations(hosts: Service<Fleet>) -> Service<Fleet> {
    hosts
        .with(mutation("tags-add", add).requires(HOSTS_WRITE).rest(
            Method::POST,
            "/v1/hosts/{id}/tags",
            StatusCode::NO_CONTENT,
        ))
        .with(query("tags-list", list).requires(HOSTS_READ).rest(
            Method::GET,
            "/v1/hosts/{id}/tags",
            StatusCode::OK,
        ))
        .with(mutation("tags-remove", remove).requires(HOSTS_WRITE).rest(
            Method::DELETE,
            "/v1/hosts/{id}/tags/{tag}",
            StatusCode::NO_CONTENT,
        ))
}

/// Gives a host a tag. One that it has already changes nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AddTag {
    /// The host's id.
    id: HostId,
    /// The tag.
    tag: Tag,
}

write_errors! {
    /// Why a host was given no tag.
    enum AddTagError {
        /// There is no such host, or not for this caller.
        NoSuchHost { id: HostId } = NOT_FOUND,
            "there is no host {id}; hosts/list shows those there are";
        /// It has as many as a host may have.
        TooMany { most: usize } = INVALID_INPUT,
            "the host has {most} tags already, and no host may have more; remove one first";
    }
}

async fn add(fleet: &Fleet, call: Call, input: AddTag) -> Result<(), AddTagError> {
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, &call, &input.id).await?;
    let host = found.ok_or(AddTagError::NoSuchHost { id: input.id })?;
    if host.tags.contains(&input.tag) {
        return Ok(());
    }
    if host.tags.len() >= MOST_TAGS {
        return Err(AddTagError::TooMany { most: MOST_TAGS });
    }
    hosts::add_tag(&mut tx, &host.id, &input.tag).await?;
    let actor = Actor::of(&call, clock::now());
    audit::record(
        &mut tx,
        &actor,
        "host.tag-add",
        format!("{} {}", host.id, input.tag),
    )
    .await?;
    store::commit(tx).await?;
    fleet.workloads_changed();
    Ok(())
}

/// Lists the tags of a host, in alphabetical order.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListTags {
    /// The host's id.
    id: HostId,
}

async fn list(fleet: &Fleet, call: Call, input: ListTags) -> Result<Vec<Tag>, ReadHostError> {
    let mut db = fleet.store.read().await?;
    let found = visible(&mut db, &call, &input.id).await?;
    Ok(found
        .ok_or(ReadHostError::NoSuchHost { id: input.id })?
        .tags)
}

/// Takes a tag from a host. One that it has not changes nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemoveTag {
    /// The host's id.
    id: HostId,
    /// The tag.
    tag: String,
}

async fn remove(fleet: &Fleet, call: Call, input: RemoveTag) -> Result<(), ChangeHostError> {
    let mut tx = fleet.store.begin().await?;
    let found = visible(&mut tx, &call, &input.id).await?;
    let host = found.ok_or(ChangeHostError::NoSuchHost { id: input.id })?;
    if !host.tags.iter().any(|tag| tag.as_str() == input.tag) {
        return Ok(());
    }
    hosts::remove_tag(&mut tx, &host.id, &input.tag).await?;
    let actor = Actor::of(&call, clock::now());
    audit::record(
        &mut tx,
        &actor,
        "host.tag-remove",
        format!("{} {}", host.id, input.tag),
    )
    .await?;
    store::commit(tx).await?;
    fleet.workloads_changed();
    Ok(())
}
