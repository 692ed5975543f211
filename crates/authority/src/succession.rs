//! How roots succeed one another: a core without a clock, files or keys of its own. The keys of
//! JWT-SVIDs succeed one another in just the same way; what is said of a root holds for them.
//!
//! A new root is **published half a life before** it is needed and **signs only from the last
//! sixth** of its predecessor's life, so that by then every member has fetched a bundle that
//! holds it; the predecessor stays in the bundle until its own end, because certificates that it
//! signed are still about. Members renew at half of an SVID's life, an hour at most: a bundle has
//! days to travel.

use jiff::{SignedDuration, Timestamp};

/// A root that can sign: a certificate with its key, or a JWT key with its public half.
pub(crate) trait Root: Clone {
    type Certificate: Dated;

    fn certificate(&self) -> &Self::Certificate;
}

/// What the succession needs to know of a root's certificate.
pub(crate) trait Dated: Clone {
    fn not_before(&self) -> Timestamp;
    fn not_after(&self) -> Timestamp;
}

/// The roots of one trust domain, by their role.
#[derive(Clone)]
pub(crate) struct Succession<R: Root> {
    /// Signs.
    pub(crate) active: R,
    /// Is published already and will sign next.
    pub(crate) next: Option<R>,
    /// Have signed, and are trusted until they end. Their keys are gone.
    pub(crate) retired: Vec<R::Certificate>,
    /// Counts the changes of the published set (`spiffe_sequence`).
    pub(crate) sequence: u64,
}

impl<R: Root> Succession<R> {
    pub(crate) fn begin(first: R) -> Self {
        Self {
            active: first,
            next: None,
            retired: Vec::new(),
            sequence: 1,
        }
    }

    /// The roots to trust: the active one first.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &R::Certificate> {
        let signing = [&self.active].into_iter().chain(&self.next);
        signing.map(Root::certificate).chain(&self.retired)
    }

    /// Moves on to what holds at `now`, making a new root with `make` when one is due. Answers
    /// whether anything has changed; on an error nothing has.
    pub(crate) fn advance<E>(
        &mut self,
        now: Timestamp,
        make: impl FnOnce() -> Result<R, E>,
    ) -> Result<bool, E> {
        let mut changed = false;
        // A root that was published and slept through its whole life is of no use any more.
        let usable = self
            .next
            .as_ref()
            .is_some_and(|next| next.certificate().not_after() > now);
        if !usable && now >= self.publish_next_at() {
            self.next = Some(make()?);
            self.sequence += 1;
            changed = true;
        }
        if now >= self.sign_with_next_at()
            && let Some(next) = self.next.take()
        {
            let last = std::mem::replace(&mut self.active, next);
            self.retired.push(last.certificate().clone());
            changed = true;
        }
        let before = self.retired.len();
        self.retired.retain(|root| root.not_after() > now);
        if self.retired.len() != before {
            self.sequence += 1;
            changed = true;
        }
        Ok(changed)
    }

    fn publish_next_at(&self) -> Timestamp {
        self.active.certificate().not_before() + self.life() / 2
    }

    fn sign_with_next_at(&self) -> Timestamp {
        self.active.certificate().not_after() - self.life() / 6
    }

    fn life(&self) -> SignedDuration {
        let active = self.active.certificate();
        active.not_after().duration_since(active.not_before())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[derive(Debug, Clone, PartialEq)]
    struct Life(Timestamp, Timestamp);

    impl Root for Life {
        type Certificate = Self;

        fn certificate(&self) -> &Self {
            self
        }
    }

    impl Dated for Life {
        fn not_before(&self) -> Timestamp {
            self.0
        }
        fn not_after(&self) -> Timestamp {
            self.1
        }
    }

    fn day(day: i64) -> Timestamp {
        Timestamp::from_second(day * DAY).unwrap()
    }

    fn thirty_days_from(start: i64) -> Life {
        Life(day(start), day(start + 30))
    }

    /// Advances to `today`; a new root would begin then.
    fn advance(succession: &mut Succession<Life>, today: i64) -> bool {
        succession
            .advance::<()>(day(today), || Ok(thirty_days_from(today)))
            .unwrap()
    }

    #[test]
    fn a_young_root_stands_alone() {
        let mut succession = Succession::begin(thirty_days_from(0));
        assert!(!advance(&mut succession, 14));
        assert_eq!(succession.roots().count(), 1);
        assert_eq!(succession.sequence, 1);
    }

    #[test]
    fn the_next_root_is_published_before_it_signs() {
        let mut succession = Succession::begin(thirty_days_from(0));
        assert!(advance(&mut succession, 15));
        assert_eq!(succession.active, thirty_days_from(0));
        assert_eq!(succession.next, Some(thirty_days_from(15)));
        assert_eq!(succession.sequence, 2);
        assert!(
            !advance(&mut succession, 24),
            "nothing happens until the last sixth"
        );
        assert!(advance(&mut succession, 25));
        assert_eq!(succession.active, thirty_days_from(15));
        assert_eq!(succession.sequence, 2, "the published set is the same");
    }

    #[test]
    fn a_retired_root_is_trusted_until_its_end() {
        let mut succession = Succession::begin(thirty_days_from(0));
        advance(&mut succession, 15);
        advance(&mut succession, 25);
        assert_eq!(succession.retired, [thirty_days_from(0)]);
        assert!(!advance(&mut succession, 29));
        assert!(advance(&mut succession, 30));
        assert!(!succession.roots().any(|root| *root == thirty_days_from(0)));
    }

    #[test]
    fn an_authority_that_slept_past_its_root_begins_anew_at_once() {
        let mut succession = Succession::begin(thirty_days_from(0));
        assert!(advance(&mut succession, 99));
        assert_eq!(succession.active, thirty_days_from(99));
        assert_eq!(succession.roots().count(), 1, "the expired root is gone");
    }

    #[test]
    fn a_published_root_that_expired_unused_is_replaced() {
        let mut succession = Succession::begin(thirty_days_from(0));
        advance(&mut succession, 15);
        assert!(advance(&mut succession, 99));
        assert!(succession.active.not_after() > day(99));
    }

    #[test]
    fn a_failure_to_make_a_root_changes_nothing() {
        let mut succession = Succession::begin(thirty_days_from(0));
        assert_eq!(
            succession.advance(day(20), || Err("no entropy")),
            Err("no entropy")
        );
        assert_eq!((succession.roots().count(), succession.sequence), (1, 1));
    }
}
