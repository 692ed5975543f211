//! When to renew an identity: at half of its life, not all at once.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// The moment from which a certificate should be renewed: half of its life, moved by up to a
/// tenth of that half so that a fleet that started together does not renew together.
///
/// `issued_at` is the moment at which it came, or its `notBefore` where that is not known.
/// (Issuers back-date `notBefore` by some seconds, which matters for very short lives only.)
/// `jitter` is in -1.0..=1.0 (drawn by the caller, once per certificate); what lies outside is
/// taken as the nearest end, NaN as 0. Never earlier than `now`: an overdue renewal is due now.
#[must_use]
pub fn renewal_due(
    issued_at: Timestamp,
    not_after: Timestamp,
    now: Timestamp,
    jitter: f64,
) -> Timestamp {
    let jitter = if jitter.is_nan() {
        0.0
    } else {
        jitter.clamp(-1.0, 1.0)
    };
    let half = not_after
        .duration_since(issued_at)
        .max(SignedDuration::ZERO)
        / 2;
    let due = issued_at + half + half.mul_f64(0.1 * jitter);
    due.max(now)
}

/// Waits until the wall clock shows `moment`.
///
/// It looks at the clock every half minute: a timer measures running time, and a machine that
/// slept, or whose clock was set, must renew by what the clock says when it wakes.
pub async fn wait_until(moment: Timestamp) {
    const LOOK: Duration = Duration::from_secs(30);
    loop {
        let left = moment.duration_since(Timestamp::now());
        match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => tokio::time::sleep(left.min(LOOK)).await,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn an_hour_long_certificate_is_renewed_after_27_to_33_minutes() {
        let due = |jitter| renewal_due(at(0), at(3600), at(0), jitter);
        assert_eq!(due(-1.0), at(27 * 60));
        assert_eq!(due(0.0), at(30 * 60));
        assert_eq!(due(1.0), at(33 * 60));
    }

    proptest! {
        #[test]
        fn renewal_is_never_in_the_past_and_leaves_time_before_expiry(
            start in 0_i64..4_000_000_000,
            life in 1_i64..400_000_000,
            age in 0.0_f64..2.0,
            jitter in prop_oneof![-2.0_f64..2.0, Just(f64::NAN), Just(f64::INFINITY)],
        ) {
            let (not_before, not_after) = (at(start), at(start + life));
            let now = not_before + SignedDuration::from_secs(life).mul_f64(age);
            let due = renewal_due(not_before, not_after, now, jitter);
            prop_assert!(due >= now);
            if age < 0.45 {
                let left = not_after.duration_since(due).as_secs_f64();
                prop_assert!(left >= 0.449 * life as f64);
                prop_assert!(left <= 0.551 * life as f64);
            }
            if age >= 0.55 {
                prop_assert_eq!(due, now);
            }
        }

        #[test]
        fn a_certificate_that_ends_before_it_begins_is_due_at_once(
            start in 0_i64..4_000_000_000, gap in 0_i64..1_000_000,
        ) {
            let due = renewal_due(at(start), at(start - gap), at(start), 1.0);
            prop_assert_eq!(due, at(start));
        }
    }
}
