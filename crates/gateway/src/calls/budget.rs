//! The memory that frames take, of all conversations together: while they come, as what they become,
//! and until their calls have ended.
//!
//! Whoever has not said who they are has a part of their own, so that no stranger keeps anybody else
//! from calling.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Up to this much, in bytes, a frame is small. Small ones are free: as many as there are calls and
/// streams at one time cost little.
const SMALL: usize = 16 << 10;

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct FrameBudget {
    known: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
}

impl FrameBudget {
    /// So many bytes, half of them for strangers.
    pub(crate) fn new(total_bytes: usize) -> Self {
        let half = || {
            Arc::new(Semaphore::new(
                (total_bytes / 2).min(Semaphore::MAX_PERMITS),
            ))
        };
        Self {
            known: half(),
            strangers: half(),
        }
    }
}

/// There is no memory for a frame now.
#[derive(Debug, thiserror::Error)]
#[error("too many large frames at one time")]
pub(super) struct Busy;

/// What one stream has reserved.
pub(super) struct Held {
    budget: FrameBudget,
    permit: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(super) fn of(budget: &FrameBudget) -> Self {
        Self {
            budget: budget.clone(),
            permit: None,
        }
    }

    /// Makes sure that so many bytes are reserved, unless they are few.
    pub(super) fn cover(&mut self, bytes: usize, is_known: bool) -> Result<(), Busy> {
        let held = self.permit.as_ref();
        let held_bytes = held.map_or(0, OwnedSemaphorePermit::num_permits);
        if bytes <= SMALL.max(held_bytes) {
            return Ok(());
        }
        // What is there grows from where it is: somebody may have become known since.
        let from = match held {
            Some(permit) => permit.semaphore(),
            None if is_known => &self.budget.known,
            None => &self.budget.strangers,
        };
        // No frame is larger than a number of 32 bits says.
        let more = u32::try_from(bytes - held_bytes).map_err(|_| Busy)?;
        let more = Arc::clone(from).try_acquire_many_owned(more);
        let more = more.map_err(|_| Busy)?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }

    /// What goes along with a frame of so many bytes, until nobody needs it any more.
    pub(super) fn part(&mut self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permit = self.permit.as_mut()?;
        match permit.split(bytes) {
            Some(part) if bytes > SMALL => Some(part),
            Some(_given_back) => None,
            None => self.permit.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_take_nothing_from_those_who_are_known() {
        let budget = FrameBudget::new(2 << 20);
        let mut stranger = Held::of(&budget);
        stranger.cover(1 << 20, false).expect("all that is there");
        assert!(Held::of(&budget).cover(SMALL + 1, false).is_err());
        let mut known = Held::of(&budget);
        known.cover(1 << 20, true).expect("it is for them");

        // Whoever says who they are in the middle of a frame has it counted where it began.
        assert!(stranger.cover((1 << 20) + 1, true).is_err());
        drop(stranger.part(1 << 20));
        let mut another = Held::of(&budget);
        another.cover(1 << 20, false).expect("it was given back");
    }

    #[test]
    fn what_is_small_is_free() {
        let budget = FrameBudget::new(0);
        let mut held = Held::of(&budget);
        held.cover(SMALL, false).expect("it is free");
        assert!(held.part(SMALL).is_none());
        assert!(held.cover(SMALL + 1, true).is_err());
    }
}
