//! Comparing what a host reports with what the books say: a pure function from both to the changes.

use std::collections::HashMap;

use crate::ids::VmId;
use crate::model::VmState;

/// A VM that should be on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) id: VmId,
    pub(crate) state: VmState,
    /// Whether its host has said that it made it. Of one that is on its way only a report that has
    /// it says something: whoever made it may have died before hearing the answer.
    pub(crate) placed: bool,
    /// Whether it has not changed for so long that a report must know of it. A report that was
    /// under way while the VM was made does not.
    pub(crate) settled: bool,
}

/// What must be written down about a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) id: VmId,
    pub(crate) state: VmState,
    pub(crate) reason: Option<&'static str>,
}

/// Says what changed. VMs on the host that are in no book are not touched.
pub(crate) fn changes(known: &[Known], reported: &[(String, VmState)]) -> Vec<Change> {
    if known.is_empty() {
        return Vec::new();
    }
    let reported: HashMap<&str, VmState> = reported
        .iter()
        .map(|(name, state)| (name.as_str(), *state))
        .collect();
    let change = |vm: &Known| {
        let (state, reason) = match reported.get(vm.id.as_str()) {
            Some(state) => (*state, None),
            None if vm.placed && vm.settled => {
                (VmState::Missing, Some("its host does not have it"))
            }
            None => return None,
        };
        (state != vm.state || !vm.placed).then(|| Change {
            id: vm.id.clone(),
            state,
            reason,
        })
    };
    known.iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(id: &str, state: VmState, settled: bool) -> Known {
        Known {
            id: VmId::named(id),
            state,
            placed: true,
            settled,
        }
    }

    #[test]
    fn a_vm_on_its_way_has_arrived_once_its_host_reports_it() {
        let on_its_way = |id| Known {
            placed: false,
            ..known(id, VmState::Created, true)
        };
        let books = [on_its_way("vm-made"), on_its_way("vm-not-yet")];
        let changes = changes(&books, &[("vm-made".to_owned(), VmState::Created)]);
        assert_eq!(
            changes,
            [Change {
                id: VmId::named("vm-made"),
                state: VmState::Created,
                reason: None
            }]
        );
    }

    #[test]
    fn a_report_changes_only_what_differs() {
        use VmState::{Created, Missing, Running, Stopped};
        let books = [
            known("vm-same", Running, true),
            known("vm-stopped", Running, true),
            known("vm-back", Missing, true),
            known("vm-gone", Running, true),
            known("vm-fresh", Created, false),
            known("vm-still-gone", Missing, true),
        ];
        let report = [
            ("vm-same", Running),
            ("vm-stopped", Stopped),
            ("vm-back", Running),
            ("vm-of-somebody-else", Running),
        ];
        let report = report.map(|(name, state)| (name.to_owned(), state));
        let changes: Vec<_> = changes(&books, &report)
            .into_iter()
            .map(|change| (change.id.to_string(), change.state, change.reason.is_some()))
            .collect();
        assert_eq!(
            changes,
            [
                ("vm-stopped".to_owned(), Stopped, false),
                ("vm-back".to_owned(), Running, false),
                ("vm-gone".to_owned(), Missing, true),
            ]
        );
    }
}
