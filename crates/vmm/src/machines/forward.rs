//! Forwarding a port into a VM, running or not.

use std::sync::Arc;

use super::Inner;
use crate::config::NetworkChoice;
use crate::driver::Link;
use crate::errors::{PortForwardError, Unsupported};
use crate::model::{PortForward, Vm, VmId};
use crate::network::Networks;
use crate::record::Record;
use crate::slot::Slot;

/// Adds a forward to a VM whose turn the caller has. One that is there already changes nothing.
pub(super) async fn add(
    inner: &Inner,
    slot: &Slot,
    forward: PortForward,
) -> Result<Vm, PortForwardError> {
    let record = slot.record();
    if record.port_forwards.contains(&forward) {
        return Ok(record.view());
    }
    if let Ok(driver) = inner.driver_of(record.spec.driver)
        && !inner.capabilities(&*driver).port_forwards
    {
        return Err(Unsupported {
            feature: "forwarding ports".to_owned(),
            driver: driver.kind(),
        }
        .into());
    }
    let claim = inner.ports.claim(&record.spec.name, &[forward])?;
    let way = Way::of(inner, slot, &record);
    way.open(forward).await?;
    if let Err(error) = slot
        .commit(|record| record.port_forwards.push(forward))
        .await
    {
        // What is not written down must not work either: it would vanish without a word.
        way.close(forward).await;
        return Err(error.into());
    }
    claim.keep();
    Ok(slot.view())
}

/// The way on which ports lead into a VM now.
enum Way<'a> {
    /// Its own process listens; absent when there is none that answers.
    Process(Option<Arc<dyn Link>>),
    /// The rules of the bridge that it is on, if it runs.
    Bridge(&'a Networks, VmId),
}

impl<'a> Way<'a> {
    fn of(inner: &'a Inner, slot: &Slot, record: &Record) -> Self {
        match record.spec.network {
            NetworkChoice::User => {
                Self::Process(slot.attachment().and_then(|attachment| attachment.link))
            }
            NetworkChoice::Bridge => Self::Bridge(&inner.networks, record.spec.id),
        }
    }

    async fn open(&self, forward: PortForward) -> Result<(), PortForwardError> {
        match self {
            Self::Process(Some(link)) => link.add_forward(&forward).await?,
            Self::Process(None) => {}
            Self::Bridge(networks, vm) => networks.add_forward(*vm, forward).await?,
        }
        Ok(())
    }

    /// Takes a forward back that could not be kept.
    async fn close(&self, forward: PortForward) {
        let closed: Result<(), String> = match self {
            Self::Process(Some(link)) => {
                let removed = link.remove_forward(&forward).await;
                removed.map_err(|error| error.to_string())
            }
            Self::Process(None) => Ok(()),
            Self::Bridge(networks, vm) => {
                let removed = networks.remove_forward(*vm, forward).await;
                removed.map_err(|error| error.to_string())
            }
        };
        if let Err(error) = closed {
            tracing::warn!(%error, "a port forward that was given up is still there");
        }
    }
}
