//! How roots succeed one another: a core without a clock, files or keys of its own. The keys of
//! JWT-SVIDs succeed one another in just the same way; what is said of a root holds for them.
//!
//! A new root is **published half a life before** it is needed and **signs only from the last
//! sixth** of its predecessor's life, so that by then every member has fetched a bundle that
//! holds it; the predecessor stays in the bundle until its own end, because certificates that it
//! signed are still about. Members renew at half of an SVID's life, an hour at most: a bundle has
//! days to travel.
//!
//! A succession can be **forced**, because a key may have become known: a new root is published at
//! once, signs after an overlap that its caller chooses, and the roots before it are trusted only
//! for as long as something that they signed can still be valid.

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
    /// When the next one signs, if that is sooner than usual.
    pub(crate) sign_early_at: Option<Timestamp>,
    /// When all retired ones are trusted no more, if that is sooner than their ends.
    pub(crate) drop_retired_at: Option<Timestamp>,
}

impl<R: Root> Succession<R> {
    pub(crate) fn begin(first: R) -> Self {
        Self {
            active: first,
            next: None,
            retired: Vec::new(),
            sequence: 1,
            sign_early_at: None,
            drop_retired_at: None,
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
            self.sign_early_at = None;
            changed = true;
        }
        let before = self.retired.len();
        if self.drop_retired_at.is_some_and(|at| at <= now) {
            self.drop_retired_at = None;
            self.retired.clear();
            changed = true;
        }
        self.retired.retain(|root| root.not_after() > now);
        if self.retired.len() != before {
            self.sequence += 1;
            changed = true;
        }
        Ok(changed)
    }

    /// Publishes a new root at once, which signs from `sign_at` on; `linger` after that nothing
    /// that older roots signed can be valid any more, and they are trusted no longer. On an error
    /// nothing has changed.
    pub(crate) fn force<E>(
        &mut self,
        sign_at: Timestamp,
        linger: SignedDuration,
        make: impl FnOnce() -> Result<R, E>,
    ) -> Result<(), E> {
        // One that was published already lies beside the key that is to go, and goes with it.
        self.next = Some(make()?);
        self.sequence += 1;
        self.sign_early_at = Some(sign_at);
        self.drop_retired_at = Some(sign_at + linger);
        Ok(())
    }

    /// When [`advance`](Self::advance) has something to do next.
    pub(crate) fn due(&self) -> Timestamp {
        let next = match self.next {
            Some(_) => self.sign_with_next_at(),
            None => self.publish_next_at(),
        };
        let ends = self.retired.iter().map(Dated::not_after);
        ends.chain(self.drop_retired_at).fold(next, Timestamp::min)
    }

    fn publish_next_at(&self) -> Timestamp {
        self.active.certificate().not_before() + self.life() / 2
    }

    fn sign_with_next_at(&self) -> Timestamp {
        let usual = self.active.certificate().not_after() - self.life() / 6;
        self.sign_early_at.map_or(usual, |early| early.min(usual))
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

    fn force(succession: &mut Succession<Life>, today: i64, overlap: i64) {
        succession
            .force::<()>(day(today + overlap), SignedDuration::from_hours(48), || {
                Ok(thirty_days_from(today))
            })
            .unwrap();
    }

    #[test]
    fn a_forced_root_is_published_at_once_and_signs_after_the_overlap() {
        let mut succession = Succession::begin(thirty_days_from(0));
        force(&mut succession, 3, 1);
        assert_eq!(succession.roots().count(), 2);
        assert_eq!((succession.sequence, succession.due()), (2, day(4)));
        assert!(!advance(&mut succession, 3));
        assert!(advance(&mut succession, 4));
        assert_eq!(succession.active, thirty_days_from(3));
        assert_eq!(succession.retired, [thirty_days_from(0)]);
    }

    #[test]
    fn after_a_forced_succession_the_old_root_goes_with_the_last_thing_that_it_signed() {
        let mut succession = Succession::begin(thirty_days_from(0));
        force(&mut succession, 3, 1);
        advance(&mut succession, 4);
        assert_eq!(succession.due(), day(6));
        assert!(!advance(&mut succession, 5));
        assert!(advance(&mut succession, 6));
        assert_eq!((succession.retired.len(), succession.sequence), (0, 3));
        assert_eq!(succession.due(), day(3 + 15), "it goes on as usual");
        advance(&mut succession, 18);
        assert!(!advance(&mut succession, 20), "the next one is not forced");
    }

    #[test]
    fn a_root_that_waited_for_its_turn_goes_when_a_succession_is_forced() {
        let mut succession = Succession::begin(thirty_days_from(0));
        advance(&mut succession, 15);
        force(&mut succession, 16, 1);
        assert!(!succession.roots().any(|root| *root == thirty_days_from(15)));
        advance(&mut succession, 17);
        assert_eq!(succession.active, thirty_days_from(16));
    }

    #[test]
    fn an_overlap_never_keeps_a_root_signing_beyond_its_usual_time() {
        let mut succession = Succession::begin(thirty_days_from(0));
        force(&mut succession, 24, 10);
        assert!(advance(&mut succession, 25));
        assert_eq!(succession.active, thirty_days_from(24));
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
