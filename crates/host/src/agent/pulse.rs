//! When to send a heartbeat, when to renew the identity, when to stop taking work: the rules of
//! an agent's life, without a socket or a clock.
//!
//! The caller asks [`Pulse::next`] what to do now, does it, and reports how it went. Heartbeats
//! and retries follow the steady clock, so a corrected wall clock neither delays nor floods them;
//! renewal follows the wall clock, because that is the one certificates are dated by.
//!
//! A refused heartbeat makes the agent doubt its identity: it renews, with its certificate or else
//! with its host token, and tries again. Refused once more, it stops taking work, and keeps trying
//! at a slower pace: somebody may set things right at the control plane.

use std::time::{Duration, Instant};

use hostler_identity::renewal_due;
use jiff::Timestamp;

use super::backoff::Backoff;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) steady: Instant,
    pub(crate) wall: Timestamp,
}

impl Now {
    /// This moment.
    pub(crate) fn read() -> Self {
        Self {
            steady: Instant::now(),
            wall: Timestamp::now(),
        }
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing for this long; then ask again.
    Wait(Duration),
    /// Send a heartbeat.
    Heartbeat,
    /// Renew the identity, proving who we are this way.
    Renew(Proof),
}

/// How a renewal proves who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// By the present certificate, on the machines' door.
    Svid,
    /// By the host token, on the people's door: for when the certificate has lapsed or is not
    /// accepted any more.
    HostToken,
}

/// How an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No answer, or one that says nothing about us.
    Unreachable,
    /// The other end does not accept who we are, or we do not accept who it is.
    Refused,
}

/// From when until when a certificate is valid.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// What the control plane thinks of us, as far as we know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nothing speaks against us.
    Good,
    /// A heartbeat was refused; a renewal may mend it.
    Doubted,
    /// Renewed after a doubt; the next heartbeat tells.
    OnTrial,
    /// Refused although renewed, or not renewable.
    Refused,
}

/// An attempt that is repeated: from when on, and how often it has failed in a row.
#[derive(Debug, Clone, Copy)]
struct Attempt {
    at: Instant,
    failures: u32,
}

impl Attempt {
    fn fail(&mut self, backoff: Backoff, now: Now, draw: f64) {
        self.failures = self.failures.saturating_add(1);
        self.at = now.steady + backoff.delay(self.failures, draw);
    }

    fn succeed(&mut self, next: Instant) {
        *self = Self {
            at: next,
            failures: 0,
        };
    }
}

/// The state of an agent's life. Each `draw` is a random number in -1.0..=1.0.
#[derive(Debug)]
pub(crate) struct Pulse {
    interval: Duration,
    backoff: Backoff,
    standing: Standing,
    heartbeat: Attempt,
    renewal: Attempt,
    renewal_due: Timestamp,
    not_after: Timestamp,
    svid_refused: bool,
}

impl Pulse {
    /// Begins with a heartbeat at once, or a renewal when it is due.
    pub(crate) fn new(interval: Duration, svid: Validity, now: Now, draw: f64) -> Self {
        let at_once = Attempt {
            at: now.steady,
            failures: 0,
        };
        Self {
            interval,
            // With the usual 30 s: about 1 s after the first failure, 30 s after many.
            backoff: Backoff::new(interval / 30, interval),
            standing: Standing::Good,
            heartbeat: at_once,
            renewal: at_once,
            renewal_due: renewal_due(svid.not_before, svid.not_after, now.wall, draw),
            not_after: svid.not_after,
            svid_refused: false,
        }
    }

    /// Whether new work may be accepted.
    pub(crate) fn takes_work(&self) -> bool {
        self.standing != Standing::Refused
    }

    /// Heartbeats that failed in a row.
    pub(crate) fn heartbeat_failures(&self) -> u32 {
        self.heartbeat.failures
    }

    /// Renewals that failed in a row.
    pub(crate) fn renewal_failures(&self) -> u32 {
        self.renewal.failures
    }

    /// What to do now.
    pub(crate) fn next(&self, now: Now) -> Next {
        let lapsed = now.wall >= self.not_after;
        let renew = self.standing == Standing::Doubted
            || self.renewal.failures > 0
            || now.wall >= self.renewal_due;
        if renew && now.steady >= self.renewal.at {
            return Next::Renew(if lapsed || self.svid_refused {
                Proof::HostToken
            } else {
                Proof::Svid
            });
        }
        // Without a valid certificate there is nothing to send a heartbeat with.
        let may_beat = !lapsed && self.standing != Standing::Doubted;
        if may_beat && now.steady >= self.heartbeat.at {
            return Next::Heartbeat;
        }
        let until_renewal = if renew {
            self.renewal.at.saturating_duration_since(now.steady)
        } else {
            let wait = self.renewal_due.duration_since(now.wall);
            Duration::try_from(wait).unwrap_or_default()
        };
        let until_heartbeat = if may_beat {
            self.heartbeat.at.saturating_duration_since(now.steady)
        } else {
            self.interval
        };
        // At most an interval, because the wall clock may be set meanwhile.
        Next::Wait(until_renewal.min(until_heartbeat).min(self.interval))
    }

    /// A heartbeat was accepted: the next one comes after the interval ±10 %.
    pub(crate) fn heartbeat_accepted(&mut self, now: Now, draw: f64) {
        self.standing = Standing::Good;
        let pause = self.interval.mul_f64(1.0 + 0.1 * draw.clamp(-1.0, 1.0));
        self.heartbeat.succeed(now.steady + pause);
    }

    /// A heartbeat was not accepted.
    pub(crate) fn heartbeat_failed(&mut self, failure: Failure, now: Now, draw: f64) {
        self.heartbeat.fail(self.backoff, now, draw);
        if failure == Failure::Refused {
            self.standing = match self.standing {
                Standing::Good | Standing::Doubted => {
                    self.renewal.succeed(now.steady);
                    Standing::Doubted
                }
                Standing::OnTrial | Standing::Refused => Standing::Refused,
            };
        }
    }

    /// The identity was renewed.
    pub(crate) fn renewed(&mut self, svid: Validity, now: Now, draw: f64) {
        // Not again at once, even if by our clock the new certificate is old already.
        let left = Duration::try_from(svid.not_after.duration_since(now.wall)).unwrap_or_default();
        let pause = if left.is_zero() {
            self.interval
        } else {
            self.interval.min(left / 4)
        };
        self.renewal.succeed(now.steady + pause);
        // It was issued just now; its `notBefore` lies back for the sake of slow clocks.
        self.renewal_due = renewal_due(now.wall, svid.not_after, now.wall, draw);
        self.not_after = svid.not_after;
        self.svid_refused = false;
        if self.standing != Standing::Good {
            self.heartbeat.at = now.steady;
        }
        if self.standing == Standing::Doubted {
            self.standing = Standing::OnTrial;
        }
    }

    /// Something makes the agent doubt that it is still accepted: a heartbeat tells.
    pub(crate) fn heartbeat_now(&mut self, now: Now) {
        self.heartbeat.at = now.steady;
    }

    /// The certificate is to be given up although it is young. A fleet does that within a tenth of
    /// the interval, not all at once.
    pub(crate) fn renew_soon(&mut self, now: Now, draw: f64) {
        let spread = self.interval.mul_f64(0.05 * (1.0 + draw.clamp(-1.0, 1.0)));
        self.renewal.at = now.steady + spread;
        self.renewal_due = now.wall;
    }

    /// The renewal with this proof failed.
    pub(crate) fn renewal_failed(&mut self, proof: Proof, failure: Failure, now: Now, draw: f64) {
        match (failure, proof) {
            (Failure::Refused, Proof::Svid) => {
                // There is a second proof: try it at once.
                self.svid_refused = true;
                self.renewal.at = now.steady;
                return;
            }
            (Failure::Refused, Proof::HostToken) => {
                self.svid_refused = false;
                if self.standing == Standing::Doubted || now.wall >= self.not_after {
                    self.standing = Standing::Refused;
                }
            }
            (Failure::Unreachable, _) => {}
        }
        self.renewal.fail(self.backoff, now, draw);
    }
}

#[cfg(test)]
mod tests;
