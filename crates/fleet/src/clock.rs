//! The time, as the fleet keeps it.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp, Unit};

/// A clock that is kept in time is slewed by less than this between two looks at it.
const SLEWED: SignedDuration = SignedDuration::from_secs(5);

/// The time to the millisecond, which is what the books hold: a thing that was just made reads the
/// same as when it is looked up.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    // Rounding fails only at the far end of time, where the exact time is as good.
    now.round(Unit::Millisecond).unwrap_or(now)
}

/// Notices that the clock was set, or that the machine slept, by a clock that does neither.
pub(crate) struct Steps {
    told: Timestamp,
    passing: Instant,
}

impl Steps {
    pub(crate) fn new(now: Timestamp, passing: Instant) -> Self {
        Self { told: now, passing }
    }

    /// By how much the clock was set since the last look; `None` when it merely went on.
    pub(crate) fn look(&mut self, now: Timestamp, passing: Instant) -> Option<SignedDuration> {
        let passed = passing.saturating_duration_since(self.passing);
        let told = now.duration_since(self.told);
        *self = Self::new(now, passing);
        let step = told.saturating_sub(SignedDuration::try_from(passed).ok()?);
        (step.abs() > SLEWED).then_some(step)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_is_set_is_told_from_one_that_goes() {
        let (mut now, mut passing) = (Timestamp::UNIX_EPOCH, Instant::now());
        let mut steps = Steps::new(now, passing);
        for (passed, told, step) in [
            (15, 15, None),
            (15, 19, None),
            (3600, 3600, None),
            (15, 3615, Some(3600)),
            (15, 15, None),
            (15, -3585, Some(-3600)),
            (0, 0, None),
        ] {
            now += SignedDuration::from_secs(told);
            passing += Duration::from_secs(passed);
            let expected = step.map(SignedDuration::from_secs);
            assert_eq!(steps.look(now, passing), expected, "{passed} {told}");
        }
    }
}
