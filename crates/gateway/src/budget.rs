//! Memory that many who read at once share.

use tokio::sync::{Semaphore, SemaphorePermit};

/// So many bytes for all of them together.
pub(crate) struct Budget(Semaphore);

/// The others have it all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

/// What one of them has taken, until it is dropped.
pub(crate) struct Share<'b> {
    budget: &'b Budget,
    held: Option<SemaphorePermit<'b>>,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS)))
    }

    /// A share with nothing in it yet.
    pub(crate) fn share(&self) -> Share<'_> {
        Share {
            budget: self,
            held: None,
        }
    }
}

impl Share<'_> {
    /// Takes so many bytes more. It does not wait: whoever waits holds what the others wait for.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let bytes = u32::try_from(bytes).map_err(|_| Exhausted)?;
        let permit = self.budget.0.try_acquire_many(bytes);
        let permit = permit.map_err(|_| Exhausted)?;
        match &mut self.held {
            Some(held) => held.merge(permit),
            None => self.held = Some(permit),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_that_is_dropped_is_there_for_others() {
        let budget = Budget::new(100);
        let (mut one, mut other) = (budget.share(), budget.share());
        assert_eq!(one.grow(40), Ok(()));
        assert_eq!(one.grow(40), Ok(()));
        assert_eq!(other.grow(21), Err(Exhausted));
        assert_eq!(other.grow(20), Ok(()));
        drop(one);
        assert_eq!(other.grow(80), Ok(()));
        assert_eq!(other.grow(1), Err(Exhausted));
    }
}
