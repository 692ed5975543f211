//! Showing VMs. A list is what the books say; one VM is what its host says now, and what the books
//! say when the host is silent.

use std::time::Duration;

use hostler_operations::Call;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::{Asked, ask, find, observed};
use crate::fleet::Fleet;
use crate::ids::{HostId, TeamId};
use crate::model::{HostVm, Vm, VmState};
use crate::operations::errors::ReadError;
use crate::operations::page::Page;
use crate::reach::Reach;
use crate::store::vms;

/// A host that takes longer to describe a VM is reported as not answering.
pub(super) const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Lists VMs, in the order of their creation, as their hosts last described them.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct ListVms {
    /// Only those of this team.
    #[serde(default)]
    team_id: Option<TeamId>,
    /// Only those on this host.
    #[serde(default)]
    host: Option<HostId>,
    #[serde(flatten)]
    page: Page,
}

pub(super) async fn list(fleet: &Fleet, call: Call, input: ListVms) -> Result<Vec<Vm>, ReadError> {
    let Ok(team) = Reach::of(&call).team(input.team_id) else {
        return Ok(Vec::new());
    };
    let filter = vms::Filter {
        team,
        host: input.host,
        after: input.page.after().to_owned(),
        limit: input.page.fetch(),
    };
    let mut db = fleet.store.read().await?;
    let found = vms::list(&mut db, &filter).await?;
    Ok(input.page.cut(&call, found, |vm| vm.id.as_str()))
}

/// Shows a VM as its host describes it now. When the host cannot be reached, the VM is `missing`
/// and the rest is what was known last.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GetVm {
    /// The VM's name, or its id.
    name: String,
    /// Whose VM it is; for a key of the platform, which sees the VMs of all teams.
    #[serde(default)]
    team_id: Option<TeamId>,
}

pub(super) async fn get(fleet: &Fleet, call: Call, input: GetVm) -> Asked<Vm> {
    let mut db = fleet.store.read().await?;
    let (vm, host) = find(&mut db, &call, input.team_id, &input.name).await?;
    // The host may take its time; others need the connection meanwhile.
    drop(db);
    let missing = |vm: Vm, reason: String| Vm {
        state: VmState::Missing,
        state_reason: Some(reason),
        ..vm
    };
    if host.is_silent() {
        return Ok(missing(vm, format!("its host is {}", host.status)));
    }
    let about = json!({ "name": vm.id });
    match ask::<HostVm>(fleet, &call, (&vm, &host), about, LOOK_TIMEOUT).await {
        Ok(said) => Ok(observed(fleet, vm, said).await?),
        Err(failure) if failure.is_not_found() => {
            Ok(missing(vm, "its host does not have it".to_owned()))
        }
        Err(_) => Ok(missing(vm, "its host does not answer".to_owned())),
    }
}
