//! Whether a VM that ended is started again, and when: a core without clocks or processes.
//!
//! How a VM ended and what its owner wants decide once, at its end, and the decision is written
//! down with the VM ([`Restarts`]), so that it holds even if the daemon dies before it is carried
//! out. Each restart in a row waits twice as long as the one before, up to a minute; a VM that ran
//! for ten minutes begins a new row.

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::lifecycle::Idle;

/// The first restart in a row waits so long, and none longer than the second.
const FIRST: SignedDuration = SignedDuration::from_secs(1);
const LONGEST: SignedDuration = SignedDuration::from_secs(60);

/// A VM that ran so long was well: what happens to it now has nothing to do with what was before.
const WELL_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// When a VM that ended without being asked to is started again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    Never,
    /// When it failed: its process crashed or was killed, its guest ended before it was up, or it
    /// ended while nobody watched.
    OnFailure,
    /// Whenever it ends, unless somebody stopped it.
    Always,
}

/// What a VM's owner wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RestartRule {
    pub(crate) policy: RestartPolicy,
    /// How many restarts in a row.
    pub(crate) limit: u32,
}

/// Restarts in a row, unless said.
pub(crate) const DEFAULT_LIMIT: u32 = 10;

impl Default for RestartRule {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::Never,
            limit: DEFAULT_LIMIT,
        }
    }
}

/// How it stands with a VM's restarts.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Restarts {
    /// Restarts since somebody started it, or since it was last well.
    pub(crate) in_a_row: u32,
    /// When it is to be started again.
    pub(crate) due: Option<Timestamp>,
}

/// How a VM came to lie idle, for its restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Somebody asked for it.
    Request,
    /// Its guest shut down.
    GuestShutdown,
    /// It failed, or ended unwatched.
    Failure,
}

impl Cause {
    pub(crate) fn of(idle: &Idle, unwatched: bool) -> Self {
        match idle {
            Idle::Stopped {
                by_request: true, ..
            } => Self::Request,
            Idle::Failed { .. } => Self::Failure,
            Idle::Stopped { .. } if unwatched => Self::Failure,
            Idle::Created | Idle::Stopped { .. } => Self::GuestShutdown,
        }
    }
}

/// What becomes of a VM that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays as it is.
    Stay,
    /// It is started again at that time.
    Again(Timestamp),
    /// It was started again as often as it may.
    GiveUp,
}

impl Restarts {
    /// A VM ended that had run since `started_at`.
    pub(crate) fn ended(
        &mut self,
        rule: RestartRule,
        cause: Cause,
        started_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Verdict {
        if started_at.is_some_and(|since| now.duration_since(since) >= WELL_AFTER) {
            self.in_a_row = 0;
        }
        let wanted = match (rule.policy, cause) {
            (_, Cause::Request) | (RestartPolicy::Never, _) => false,
            (RestartPolicy::OnFailure, cause) => cause == Cause::Failure,
            (RestartPolicy::Always, _) => true,
        };
        self.due = None;
        if !wanted {
            return Verdict::Stay;
        }
        if self.in_a_row >= rule.limit {
            return Verdict::GiveUp;
        }
        let due = now + delay(self.in_a_row);
        self.due = Some(due);
        Verdict::Again(due)
    }

    /// It is being started again by itself.
    pub(crate) fn begun(&mut self) {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.due = None;
    }

    /// Somebody started or stopped it: nothing is left of what was.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }
}

fn delay(in_a_row: u32) -> SignedDuration {
    // Beyond 2^6 it is over the cap anyway.
    (FIRST * (1 << in_a_row.min(6))).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn rule(policy: RestartPolicy) -> RestartRule {
        RestartRule { policy, limit: 3 }
    }

    const POLICIES: [RestartPolicy; 3] = [
        RestartPolicy::Never,
        RestartPolicy::OnFailure,
        RestartPolicy::Always,
    ];

    #[test]
    fn who_was_stopped_stays_stopped_and_who_failed_comes_back_if_it_should() {
        let verdict = |policy, cause| {
            let verdict = Restarts::default().ended(rule(policy), cause, None, at(0));
            matches!(verdict, Verdict::Again(_))
        };
        let table = [
            (Cause::Request, [false, false, false]),
            (Cause::GuestShutdown, [false, false, true]),
            (Cause::Failure, [false, true, true]),
        ];
        for (cause, expected) in table {
            assert_eq!(
                POLICIES.map(|policy| verdict(policy, cause)),
                expected,
                "{cause:?}"
            );
        }
    }

    #[test]
    fn each_restart_in_a_row_waits_longer_until_the_limit_is_reached() {
        let mut restarts = Restarts::default();
        let mut end = || {
            let verdict = restarts.ended(
                rule(RestartPolicy::OnFailure),
                Cause::Failure,
                Some(at(0)),
                at(0),
            );
            restarts.begun();
            verdict
        };
        let verdicts = [end(), end(), end(), end()];
        let again = |second| Verdict::Again(at(second));
        assert_eq!(verdicts, [again(1), again(2), again(4), Verdict::GiveUp]);
    }

    #[test]
    fn a_vm_that_was_well_begins_a_new_row() {
        let mut restarts = Restarts {
            in_a_row: 3,
            due: None,
        };
        let rule = rule(RestartPolicy::Always);
        let verdict = restarts.ended(rule, Cause::Failure, Some(at(0)), at(600));
        assert_eq!((verdict, restarts.in_a_row), (Verdict::Again(at(601)), 0));
    }

    proptest! {
        #[test]
        fn a_wait_is_between_a_second_and_a_minute(in_a_row: u32) {
            let delay = delay(in_a_row);
            prop_assert!(delay >= FIRST && delay <= LONGEST);
        }
    }
}
