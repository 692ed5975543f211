//! The time, as the fleet keeps it.

use jiff::{Timestamp, Unit};

/// The time to the millisecond, which is what the books hold: a thing that was just made reads the
/// same as when it is looked up.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    // Rounding fails only at the far end of time, where the exact time is as good.
    now.round(Unit::Millisecond).unwrap_or(now)
}
