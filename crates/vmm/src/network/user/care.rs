//! What the rules need over time: to be taken over by the next daemon, to be looked after while
//! others change the host, and to tell what is left of them.

use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;

use super::rules::{self, LAST};
use super::{UserMode, means, over_udp};
use crate::leaks::{Leak, LeakKind};
use crate::model::{PortForward, VmId};
use crate::network::error::NetworkError;
use crate::network::nft;

/// How often it is looked whether the rules are still there and needed, and the name servers are still
/// the same.
const ROUND: Duration = Duration::from_secs(15);

impl UserMode {
    /// Takes over what an earlier daemon has left. `residents` are the VMs in user mode that run;
    /// it is asked under a lock, so no VM can end unnoticed meanwhile. `unknown` says that there
    /// may be more.
    pub(crate) async fn adopt(
        &self,
        residents: impl FnOnce() -> BTreeMap<VmId, Vec<PortForward>>,
        unknown: bool,
    ) -> Result<(), NetworkError> {
        if let Err(error) = self.sweep_others().await {
            tracing::warn!(%error, "rules of daemons that are gone were not looked for");
        }
        let mut wall = self.wall.lock().await;
        let residents = residents().into_iter();
        wall.guests = residents
            .map(|(vm, forwards)| (vm, over_udp(&forwards)))
            .collect();
        wall.unknown = unknown;
        if wall.is_needed() {
            return self.build(&mut wall).await;
        }
        match self.found().await? {
            Some(_) => nft::carry_out(&rules::removal(&self.table)).await,
            None => Ok(()),
        }
    }

    /// The rules, when they are there and no VM runs.
    pub(crate) async fn strays(&self) -> Result<Vec<Leak>, NetworkError> {
        let wall = self.wall.lock().await;
        if wall.is_needed() || wall.up || self.found().await?.is_none() {
            return Ok(Vec::new());
        }
        let stray = Leak {
            kind: LeakKind::Rule,
            what: format!("table inet {}", self.table),
            reason: "it is for VMs in user mode and none runs; restart the daemon, which removes \
                     it"
            .to_owned(),
            vm_id: None,
        };
        Ok(vec![stray])
    }

    /// What is in our table now; `None` when there is none.
    async fn found(&self) -> Result<Option<String>, NetworkError> {
        match nft::tables_inet().await?.contains(&self.table) {
            true => nft::table_inet(&self.table).await.map(Some),
            false => Ok(None),
        }
    }

    /// Mends what others have done to the rules, or to the host's name servers.
    async fn mend(&self) -> Result<(), NetworkError> {
        let mut wall = self.wall.lock().await;
        if !wall.is_needed() {
            if wall.up {
                nft::carry_out(&rules::removal(&self.table)).await?;
                wall.up = false;
            }
            return Ok(());
        }
        let begun = format!("meta skuid {} goto guest", self.user);
        let found = self.found().await?.unwrap_or_default();
        if !found.contains(&begun) || !found.contains(LAST) {
            tracing::warn!("somebody removed the rules for VMs in user mode; they are made anew");
        } else if means::name_servers() == wall.name_servers {
            return Ok(());
        }
        self.build(&mut wall).await
    }
}

pub(super) async fn look_after(mode: Weak<UserMode>) {
    loop {
        tokio::time::sleep(ROUND).await;
        let Some(mode) = mode.upgrade() else {
            return;
        };
        if let Err(error) = mode.mend().await {
            tracing::warn!(%error, "the rules for VMs in user mode could not be looked after");
        }
    }
}
