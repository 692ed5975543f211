//! Forwarding a port into a VM, running or not.

use super::Inner;
use crate::errors::{PortForwardError, Unsupported};
use crate::model::{PortForward, Vm};
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
    let link = slot.attachment().and_then(|attachment| attachment.link);
    if let Some(link) = &link {
        link.add_forward(&forward).await?;
    }
    if let Err(error) = slot
        .commit(|record| record.port_forwards.push(forward))
        .await
    {
        // What is not written down must not work either: it would vanish without a word.
        if let Some(link) = &link
            && let Err(error) = link.remove_forward(&forward).await
        {
            tracing::warn!(%error, "a port forward that was given up is still there");
        }
        return Err(error.into());
    }
    claim.keep();
    Ok(slot.view())
}
