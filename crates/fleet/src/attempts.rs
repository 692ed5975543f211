//! How often a login may be tried: so many at once, and then one every so often, for each name and
//! for each address. A rule without clock or socket: whoever asks says what time it is.
//!
//! Names count whether or not somebody has them, so that a refusal tells nothing. An attempt that
//! succeeds is given back. What is remembered is bounded.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hostler_operations::rate::{Allowance, Ledger, Rate, network};

/// For one name: a handful of slips, then ten a minute.
const BY_NAME: Rate = Rate::new(10, Duration::from_secs(6));
/// For one address, behind which may be a whole office.
const BY_ADDRESS: Rate = Rate::new(30, Duration::from_secs(2));
/// For lines about refusals in the audit trail, which strangers must not be able to fill.
const REFUSALS_NOTED: Rate = Rate::new(120, Duration::from_secs(1));
/// How many names, and how many addresses, are remembered.
const REMEMBERED: usize = 10_000;

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
        assert!(books.names.len() <= 50 && books.addresses.len() <= 50);
        drop(books);
        let later = now + Duration::from_secs(3600);
        assert_eq!(
            through(|n| attempts.take(&format!("new-{n}"), from(n), later)),
            50 + 10
        );
    }
}
