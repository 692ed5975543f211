//! Which identities have been signed for the processes of which host since this server started.
//!
//! The audit trail shall say which host was given which identity, and not, every half hour, that it
//! was renewed: a trail that nobody can read keeps nothing. So the first signature is a line, and
//! the others are in the authority's log.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use hostler_identity::SpiffeId;

use crate::ids::HostId;

#[derive(Debug, Default)]
pub(crate) struct SignedFor(Mutex<HashSet<(HostId, SpiffeId)>>);

impl SignedFor {
    pub(crate) fn is_new(&self, host: &HostId, id: &SpiffeId) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !known.contains(&(host.clone(), id.clone()))
    }

    /// What is in the trail now.
    pub(crate) fn remember(&self, host: &HostId, id: &SpiffeId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((host.clone(), id.clone()));
    }
}
