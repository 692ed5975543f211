//! How long to wait after the n-th failure in a row: twice as long each time, up to a cap, and
//! never the same for two hosts, so that a control plane that comes back is not trampled.

use std::time::Duration;

/// Capped exponential backoff with jitter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    first: Duration,
    cap: Duration,
}

impl Backoff {
    /// Waits about `first` after the first failure and at most `cap` after any.
    pub(crate) const fn new(first: Duration, cap: Duration) -> Self {
        let first = if first.as_nanos() < cap.as_nanos() {
            first
        } else {
            cap
        };
        Self { first, cap }
    }

    /// The wait after `failures` failures in a row (1 or more): between half of the step and the
    /// whole step, as `draw` in -1.0..=1.0 has it.
    pub(crate) fn delay(self, failures: u32, draw: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let step = self.first.saturating_mul(1 << doublings).min(self.cap);
        let share = 0.75 + 0.25 * draw.clamp(-1.0, 1.0);
        step.mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_steps_double_up_to_the_cap() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let steps = (1..=7).map(|n| backoff.delay(n, 1.0).as_secs());
        assert_eq!(steps.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 30, 30]);
    }

    proptest! {
        #[test]
        fn a_delay_is_never_under_half_the_first_step_nor_over_the_cap(
            first_ms in 1_u64..100_000,
            cap_ms in 1_u64..10_000_000,
            failures in 0_u32..,
            draw in -2.0_f64..2.0,
        ) {
            let (first, cap) = (Duration::from_millis(first_ms), Duration::from_millis(cap_ms));
            let delay = Backoff::new(first, cap).delay(failures, draw);
            prop_assert!(delay >= first.min(cap).mul_f64(0.499));
            prop_assert!(delay <= cap);
        }

        #[test]
        fn one_more_failure_never_shortens_the_wait(failures in 1_u32..100, draw in -1.0_f64..1.0) {
            let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
            prop_assert!(backoff.delay(failures + 1, draw) >= backoff.delay(failures, draw));
        }
    }
}
