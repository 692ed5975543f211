//! How often a login may be tried: so many at once, and then one every so often, for each name and
//! for each address. A rule without clock or socket: whoever asks says what time it is.
//!
//! Names count whether or not somebody has them, so that a refusal tells nothing. An attempt that
//! succeeds is given back. What is remembered is bounded: when there is no room for another name or
//! address, all newcomers share one allowance until old ones have refilled.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// For one name: a handful of slips, then ten a minute.
const BY_NAME: Rule = Rule {
    at_once: 10,
    one_every: Duration::from_secs(6),
};
/// For one address, behind which may be a whole office.
const BY_ADDRESS: Rule = Rule {
    at_once: 30,
    one_every: Duration::from_secs(2),
};
/// For lines about refusals in the audit trail, which strangers must not be able to fill.
const REFUSALS_NOTED: Rule = Rule {
    at_once: 120,
    one_every: Duration::from_secs(1),
};
/// How many names, and how many addresses, are remembered.
const REMEMBERED: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Rule {
    at_once: u32,
    one_every: Duration,
}

impl Rule {
    fn window(self) -> Duration {
        self.one_every * self.at_once
    }
}

/// An allowance, as the time at which it will be full again (the generic cell rate algorithm).
#[derive(Debug, Clone, Copy)]
struct Allowance(Instant);

impl Allowance {
    fn full(now: Instant) -> Self {
        Self(now)
    }

    /// Takes one out, or says how long to wait for one.
    fn take(&mut self, rule: Rule, now: Instant) -> Result<(), Duration> {
        let full_at = self.0.max(now) + rule.one_every;
        let ahead = full_at - now;
        match ahead.checked_sub(rule.window()) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.0 = full_at;
                Ok(())
            }
        }
    }

    fn give_back(&mut self, rule: Rule) {
        if let Some(earlier) = self.0.checked_sub(rule.one_every) {
            self.0 = earlier;
        }
    }
}

struct Ledger<K> {
    rule: Rule,
    room: usize,
    each: HashMap<K, Allowance>,
    newcomers: Option<Allowance>,
}

impl<K: Eq + Hash> Ledger<K> {
    fn new(rule: Rule, room: usize) -> Self {
        Self {
            rule,
            room,
            each: HashMap::new(),
            newcomers: None,
        }
    }

    fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        let rule = self.rule;
        if let Some(known) = self.each.get_mut(&key) {
            return known.take(rule, now);
        }
        if self.each.len() >= self.room {
            self.each.retain(|_, allowance| allowance.0 > now);
        }
        if self.each.len() >= self.room {
            let shared = self.newcomers.get_or_insert(Allowance::full(now));
            return shared.take(rule, now);
        }
        let mut allowance = Allowance::full(now);
        allowance.take(rule, now)?;
        self.each.insert(key, allowance);
        Ok(())
    }

    fn give_back(&mut self, key: &K) {
        if let Some(known) = self.each.get_mut(key) {
            known.give_back(self.rule);
        }
    }
}

/// The attempts of late.
pub(crate) struct Attempts(Mutex<Books>);

struct Books {
    names: Ledger<String>,
    addresses: Ledger<Option<IpAddr>>,
    noted: Option<Allowance>,
}

/// Too many; how long to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany(pub(crate) Duration);

impl Attempts {
    pub(crate) fn new() -> Self {
        Self::with_room(REMEMBERED)
    }

    fn with_room(room: usize) -> Self {
        Self(Mutex::new(Books {
            names: Ledger::new(BY_NAME, room),
            addresses: Ledger::new(BY_ADDRESS, room),
            noted: None,
        }))
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an attempt, if it may be made.
    pub(crate) fn take(
        &self,
        name: &str,
        from: Option<IpAddr>,
        now: Instant,
    ) -> Result<(), TooMany> {
        let mut books = self.books();
        // The address first: whoever has used that up cannot use up anybody's name as well.
        books
            .addresses
            .take(from.map(network), now)
            .map_err(TooMany)?;
        books.names.take(name.to_owned(), now).map_err(TooMany)
    }

    /// Whether a refusal gets a line in the audit trail now.
    pub(crate) fn may_note(&self, now: Instant) -> bool {
        let mut books = self.books();
        let allowance = books.noted.get_or_insert(Allowance::full(now));
        allowance.take(REFUSALS_NOTED, now).is_ok()
    }

    /// Takes back what [`take`](Self::take) counted: it was no guess.
    pub(crate) fn give_back(&self, name: &str, from: Option<IpAddr>) {
        let mut books = self.books();
        books.addresses.give_back(&from.map(network));
        books.names.give_back(&name.to_owned());
    }
}

/// Whoever has one IPv6 address has a /64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    /// How many of a hundred attempts are let through.
    fn through(tries: impl FnMut(u32) -> Result<(), TooMany>) -> usize {
        (0..100).map(tries).filter(Result::is_ok).count()
    }

    #[test]
    fn a_name_may_be_tried_ten_times_and_then_every_six_seconds() {
        let (attempts, now) = (Attempts::new(), Instant::now());
        let try_at = |n: u32, now| attempts.take("ada", address(&format!("10.0.0.{n}")), now);
        assert_eq!(through(|n| try_at(n, now)), 10);
        let wait = try_at(101, now).expect_err("too many");
        assert_eq!(wait, TooMany(Duration::from_secs(6)));
        assert_eq!(through(|n| try_at(n, now + wait.0)), 1);
        assert_eq!(through(|n| try_at(n, now + Duration::from_secs(3600))), 10);
        // Others are let in meanwhile.
        attempts
            .take("eve", address("10.0.1.1"), now)
            .expect("another name");
    }

    #[test]
    fn an_address_may_try_thirty_names_and_then_every_two_seconds() {
        let (attempts, now) = (Attempts::new(), Instant::now());
        let try_as = |n: u32, now| attempts.take(&format!("name-{n}"), address("10.0.0.1"), now);
        assert_eq!(through(|n| try_as(n, now)), 30);
        assert_eq!(through(|n| try_as(n, now + Duration::from_secs(2))), 1);
        attempts
            .take("ada", address("10.0.0.2"), now)
            .expect("another address");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_a_mapped_one_is_ipv4() {
        let (attempts, now) = (Attempts::new(), Instant::now());
        let from = |n: u32| address(&format!("2001:db8:0:1::{n:x}"));
        let tried = through(|n| attempts.take(&format!("name-{n}"), from(n), now));
        assert_eq!(tried, 30);
        attempts
            .take("ada", address("2001:db8:0:2::1"), now)
            .expect("another network");
        assert_eq!(
            network(address("::ffff:10.0.0.1").expect("one")).to_string(),
            "10.0.0.1"
        );
    }

    #[test]
    fn an_attempt_that_was_no_guess_does_not_count() {
        let (attempts, now) = (Attempts::new(), Instant::now());
        let from = address("10.0.0.1");
        let tried = through(|_| {
            attempts.take("ada", from, now)?;
            attempts.give_back("ada", from);
            Ok(())
        });
        assert_eq!(tried, 100);
    }

    #[test]
    fn whoever_invents_names_gets_no_more_memory_and_no_more_attempts() {
        let (attempts, now) = (Attempts::with_room(50), Instant::now());
        let from = |n: u32| address(&format!("10.0.{}.{}", n / 256, n % 256));
        let tried = (0..1000).map(|n| attempts.take(&format!("name-{n}"), from(n), now));
        // One for each that is remembered, and the newcomers' common allowance.
        assert_eq!(tried.filter(Result::is_ok).count(), 50 + 10);
        let books = attempts.books();
        assert!(books.names.each.len() <= 50 && books.addresses.each.len() <= 50);
        drop(books);
        let later = now + Duration::from_secs(3600);
        assert_eq!(
            through(|n| attempts.take(&format!("new-{n}"), from(n), later)),
            50 + 10
        );
    }
}
