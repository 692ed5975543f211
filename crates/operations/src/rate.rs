//! How often somebody may do something: so many at once, and then one every so often (the generic
//! cell rate algorithm, ITU-T I.371).
//!
//! Rules without clock or socket: whoever asks says what time it is. What is remembered is bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// So many at once, and then one every so often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    at_once: u32,
    one_every: Duration,
}

impl Rate {
    /// `at_once` together, and then one every `one_every`.
    #[must_use]
    pub const fn new(at_once: u32, one_every: Duration) -> Self {
        Self { at_once, one_every }
    }

    /// So many a second, and ten times as many at once.
    #[must_use]
    pub const fn per_second(number: std::num::NonZeroU32) -> Self {
        let one_every = Duration::from_nanos(1_000_000_000 / number.get() as u64);
        Self::new(number.get().saturating_mul(10), one_every)
    }

    fn window(self) -> Duration {
        self.one_every.saturating_mul(self.at_once)
    }
}

/// What somebody has left, as the time at which it will be full again.
#[derive(Clone, Copy, Debug)]
pub struct Allowance(Instant);

impl Allowance {
    /// Nothing was taken yet.
    #[must_use]
    pub fn full(now: Instant) -> Self {
        Self(now)
    }

    /// Takes one out.
    ///
    /// # Errors
    /// How long to wait for one, when there is none.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let full_at = self.0.max(now) + rate.one_every;
        let ahead = full_at - now;
        match ahead.checked_sub(rate.window()) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => {
                self.0 = full_at;
                Ok(())
            }
        }
    }

    fn give_back(&mut self, rate: Rate) {
        if let Some(earlier) = self.0.checked_sub(rate.one_every) {
            self.0 = earlier;
        }
    }
}

/// The allowances of many. When there is no room for another, all newcomers share one until old
/// ones have refilled.
#[derive(Debug)]
pub struct Ledger<K> {
    rate: Rate,
    room: usize,
    each: HashMap<K, Allowance>,
    newcomers: Option<Allowance>,
    /// Before this nobody's allowance is full, so looking for one is in vain.
    swept: Option<Instant>,
}

impl<K: Eq + Hash> Ledger<K> {
    /// Nobody has taken anything; at most `room` are remembered.
    #[must_use]
    pub fn new(rate: Rate, room: usize) -> Self {
        Self {
            rate,
            room,
            each: HashMap::new(),
            newcomers: None,
            swept: None,
        }
    }

    /// Takes one from what this one has.
    ///
    /// # Errors
    /// How long to wait for one, when there is none.
    pub fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        let rate = self.rate;
        if let Some(known) = self.each.get_mut(&key) {
            return known.take(rate, now);
        }
        if self.each.len() >= self.room && self.swept.is_none_or(|until| until <= now) {
            self.each.retain(|_, allowance| allowance.0 > now);
            self.swept = self.each.values().map(|allowance| allowance.0).min();
        }
        if self.each.len() >= self.room {
            let shared = self.newcomers.get_or_insert(Allowance::full(now));
            return shared.take(rate, now);
        }
        let mut allowance = Allowance::full(now);
        allowance.take(rate, now)?;
        self.each.insert(key, allowance);
        Ok(())
    }

    /// Takes back what [`take`](Self::take) counted.
    pub fn give_back(&mut self, key: &K) {
        if let Some(known) = self.each.get_mut(key) {
            known.give_back(self.rate);
        }
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.each.len()
    }

    /// Whether nobody is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.each.is_empty()
    }
}

/// Whom an address stands for: whoever has one of IPv6 has a /64 of them.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 => v4,
    }
}
