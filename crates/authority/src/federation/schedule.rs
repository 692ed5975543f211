//! When to ask a bundle endpoint, and what of its answers to take: a core without a clock.

use std::time::Duration;

use hostler_identity::BundleDocument;

/// Without a hint (Trust Domain and Bundle §4.1.2 leaves it to us).
const USUALLY: Duration = Duration::from_secs(5 * 60);
/// Whatever the hint says: no more often, and no more seldom.
const LEAST: Duration = Duration::from_secs(5);
const MOST: Duration = Duration::from_secs(24 * 60 * 60);
/// After the first failure; doubled with each further one, up to the regular interval.
const RETRY: Duration = Duration::from_secs(5);

/// How often to ask.
#[derive(Debug)]
pub(super) struct Pace {
    regular: Duration,
    failures: u32,
}

/// What an answer is, beside the last one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    New,
    Same,
    /// From before: a cache or a replica that lags behind (§4.1.1).
    Older {
        known: u64,
        found: u64,
    },
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            regular: USUALLY,
            failures: 0,
        }
    }
}

impl Pace {
    pub(super) fn succeeded(&mut self, hint: Option<Duration>) {
        self.regular = hint.unwrap_or(USUALLY).clamp(LEAST, MOST);
        self.failures = 0;
    }

    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// How long to wait now. `jitter` in -1.0..=1.0 moves it by up to a tenth, so that a fleet
    /// does not ask together.
    pub(super) fn wait(&self, jitter: f64) -> Duration {
        let wait = match self.failures {
            0 => self.regular,
            failures => {
                let factor = 2_u32.saturating_pow(failures - 1);
                RETRY.saturating_mul(factor).min(self.regular)
            }
        };
        wait.mul_f64(1.0 + 0.1 * jitter.clamp(-1.0, 1.0))
    }
}

/// An answer that is older than what is known is not taken: it may lack a root that signs by now,
/// or hold one that was taken out. Without sequence numbers the last answer counts.
pub(super) fn compare(known: Option<&BundleDocument>, found: &BundleDocument) -> News {
    let Some(known) = known else {
        return News::New;
    };
    match (known.sequence, found.sequence) {
        (Some(known), Some(found)) if found < known => News::Older { known, found },
        _ if (&known.roots, &known.jwt) == (&found.roots, &found.jwt)
            && known.sequence == found.sequence =>
        {
            News::Same
        }
        _ => News::New,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn document(sequence: Option<u64>, root: u8) -> BundleDocument {
        BundleDocument {
            roots: vec![vec![root].into()],
            sequence,
            ..BundleDocument::default()
        }
    }

    #[test]
    fn the_hint_sets_the_pace_within_limits() {
        let paced = |hint| {
            let mut pace = Pace::default();
            pace.succeeded(hint);
            pace.wait(0.0)
        };
        assert_eq!(paced(Some(secs(3600))), secs(3600));
        assert_eq!(paced(None), secs(300));
        assert_eq!(paced(Some(secs(0))), secs(5));
        assert_eq!(paced(Some(Duration::MAX)), secs(86_400));
    }

    #[test]
    fn failures_are_tried_again_soon_then_more_and_more_seldom() {
        let mut pace = Pace::default();
        pace.succeeded(Some(secs(60)));
        let mut waits = Vec::new();
        for _ in 0..6 {
            pace.failed();
            waits.push(pace.wait(0.0).as_secs());
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        (0..100).for_each(|_| pace.failed());
        assert_eq!(pace.wait(0.0), secs(60));
        pace.succeeded(Some(secs(60)));
        assert_eq!(pace.wait(0.0), secs(60));
    }

    #[test]
    fn a_wait_is_moved_by_a_tenth_at_the_most() {
        let pace = Pace::default();
        assert_eq!(pace.wait(-1.0), secs(270));
        assert_eq!(pace.wait(1.0), secs(330));
        assert_eq!(pace.wait(7.0), secs(330));
    }

    #[test]
    fn an_older_bundle_is_known_by_its_sequence() {
        let known = document(Some(5), 1);
        let compared = |found| compare(Some(&known), &found);
        assert_eq!(compare(None, &known), News::New);
        assert_eq!(compared(known.clone()), News::Same);
        assert_eq!(compared(document(Some(6), 2)), News::New);
        let older = News::Older { known: 5, found: 4 };
        assert_eq!(compared(document(Some(4), 2)), older);
        assert_eq!(compared(document(None, 2)), News::New);
        assert_eq!(
            compare(Some(&document(None, 1)), &document(None, 1)),
            News::Same
        );
    }
}
