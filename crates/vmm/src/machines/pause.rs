//! Pausing and resuming.

use super::power;
use crate::errors::PauseError;
use crate::lifecycle::{PauseStep, ResumeStep};
use crate::model::Vm;
use crate::slot::Slot;

/// Pauses a VM whose turn the caller has.
pub(super) async fn pause(slot: &Slot) -> Result<Vm, PauseError> {
    match slot.record().phase.pause() {
        PauseStep::AlreadyPaused => return Ok(slot.view()),
        PauseStep::Impossible => return Err(not_running(slot)),
        PauseStep::Halt => {}
    }
    let Some(link) = slot.attachment().and_then(|attachment| attachment.link) else {
        return Err(not_running(slot));
    };
    link.pause().await?;
    match slot.commit(|record| record.phase.paused()).await {
        Ok(true) => Ok(slot.view()),
        // It has ended in this moment.
        Ok(false) => Err(not_running(slot)),
        Err(error) => {
            // The next daemon would set it going: what is not written down was not done.
            if let Err(error) = link.resume().await {
                tracing::warn!(%error, "a pause that was given up is still there");
            }
            Err(error.into())
        }
    }
}

/// Resumes a VM whose turn the caller has.
pub(super) async fn resume(slot: &Slot) -> Result<Vm, PauseError> {
    match slot.record().phase.resume() {
        ResumeStep::AlreadyRunning => return Ok(slot.view()),
        ResumeStep::Impossible => return Err(not_running(slot)),
        ResumeStep::Resume => {}
    }
    power::resume_processors(slot).await?;
    Ok(slot.view())
}

fn not_running(slot: &Slot) -> PauseError {
    let record = slot.record();
    PauseError::NotRunning {
        name: record.spec.name,
        state: record.phase.state(),
    }
}
