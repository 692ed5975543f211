//! Lives of agents, in a time of their own.

use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;

const INTERVAL: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

/// An agent with a certificate of an hour, in a time of its own.
struct Life {
    pulse: Pulse,
    now: Now,
}

impl Life {
    fn begin() -> Self {
        let now = Now {
            steady: Instant::now(),
            wall: Timestamp::from_second(1_800_000_000).unwrap(),
        };
        let pulse = Pulse::new(INTERVAL, hour_from(now.wall), now, 0.0);
        Self { pulse, now }
    }

    fn next(&self) -> Next {
        self.pulse.next(self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now.steady += time;
        self.now.wall += time;
    }

    /// Lets time pass to the next thing to do.
    fn wait(&mut self) -> Next {
        for _ in 0..10_000 {
            match self.next() {
                Next::Wait(time) => self.pass(time),
                step => return step,
            }
        }
        panic!("nothing to do for ever: {:?}", self.pulse);
    }

    fn beat(&mut self, outcome: Result<(), Failure>) {
        assert_eq!(self.wait(), Next::Heartbeat);
        match outcome {
            Ok(()) => self.pulse.heartbeat_accepted(self.now, 0.0),
            Err(failure) => self.pulse.heartbeat_failed(failure, self.now, 0.0),
        }
    }

    fn renew(&mut self, proof: Proof, outcome: Result<(), Failure>) {
        assert_eq!(self.wait(), Next::Renew(proof));
        match outcome {
            Ok(()) => self.pulse.renewed(hour_from(self.now.wall), self.now, 0.0),
            Err(failure) => self.pulse.renewal_failed(proof, failure, self.now, 0.0),
        }
    }
}

fn hour_from(wall: Timestamp) -> Validity {
    Validity {
        not_before: wall,
        not_after: wall + HOUR,
    }
}

#[test]
fn heartbeats_keep_their_interval_and_renewal_comes_at_half_life() {
    let mut life = Life::begin();
    let born = life.now;
    life.beat(Ok(()));
    for _ in 0..59 {
        life.beat(Ok(()));
    }
    let lived = life.now.steady - born.steady;
    assert_eq!(lived, INTERVAL * 59);
    life.renew(Proof::Svid, Ok(()));
    assert_eq!(life.now.steady - born.steady, HOUR / 2);
    life.beat(Ok(()));
    assert!(life.pulse.takes_work());
}

#[test]
fn the_first_retry_comes_soon_and_later_ones_at_the_pace_of_heartbeats() {
    let mut life = Life::begin();
    life.beat(Err(Failure::Unreachable));
    let Next::Wait(first) = life.next() else {
        panic!("it retries without a pause")
    };
    assert!(first <= Duration::from_secs(1), "{first:?}");
    for _ in 0..10 {
        life.beat(Err(Failure::Unreachable));
    }
    let Next::Wait(later) = life.next() else {
        panic!("it retries without a pause")
    };
    assert!(later > INTERVAL / 2 && later <= INTERVAL, "{later:?}");
    assert!(
        life.pulse.takes_work(),
        "an absent control plane stops no work"
    );
}

#[test]
fn a_refused_heartbeat_renews_and_refused_again_stops_the_work() {
    let mut life = Life::begin();
    life.beat(Err(Failure::Refused));
    assert!(life.pulse.takes_work());
    life.renew(Proof::Svid, Ok(()));
    life.beat(Err(Failure::Refused));
    assert!(!life.pulse.takes_work());
    life.beat(Err(Failure::Refused));
    assert!(!life.pulse.takes_work());
    life.beat(Ok(()));
    assert!(
        life.pulse.takes_work(),
        "an accepted heartbeat sets it right"
    );
}

#[test]
fn a_refused_certificate_is_renewed_by_the_host_token() {
    let mut life = Life::begin();
    life.beat(Err(Failure::Refused));
    life.renew(Proof::Svid, Err(Failure::Refused));
    life.renew(Proof::HostToken, Ok(()));
    life.beat(Ok(()));
    assert!(life.pulse.takes_work());
}

#[test]
fn refused_with_both_proofs_the_work_stops_and_both_are_tried_on() {
    let mut life = Life::begin();
    life.beat(Err(Failure::Refused));
    life.renew(Proof::Svid, Err(Failure::Refused));
    life.renew(Proof::HostToken, Err(Failure::Refused));
    assert!(!life.pulse.takes_work());
    life.renew(Proof::Svid, Ok(()));
    life.beat(Ok(()));
    assert!(life.pulse.takes_work());
}

#[test]
fn a_lapsed_certificate_is_renewed_by_the_host_token_before_any_heartbeat() {
    let mut life = Life::begin();
    life.pass(HOUR * 2);
    life.renew(Proof::HostToken, Err(Failure::Unreachable));
    assert!(life.pulse.takes_work());
    life.renew(Proof::HostToken, Ok(()));
    life.beat(Ok(()));
}

#[test]
fn a_clock_set_back_does_not_silence_the_heartbeats() {
    let mut life = Life::begin();
    life.beat(Ok(()));
    life.now.wall -= SignedDuration::from_hours(24);
    let before = life.now.steady;
    life.beat(Ok(()));
    assert_eq!(life.now.steady - before, INTERVAL);
}

#[test]
fn a_doubt_is_settled_by_a_heartbeat_at_once() {
    let mut life = Life::begin();
    life.beat(Ok(()));
    assert!(matches!(life.next(), Next::Wait(_)));
    life.pulse.heartbeat_now(life.now);
    assert_eq!(life.next(), Next::Heartbeat);
}

#[test]
fn a_certificate_of_a_root_that_was_given_up_is_renewed_within_a_tenth_of_the_interval() {
    for draw in [-1.0, 0.0, 1.0, 9.0] {
        let mut life = Life::begin();
        life.beat(Ok(()));
        life.pulse.renew_soon(life.now, draw);
        let begun = life.now.steady;
        assert_eq!(life.wait(), Next::Renew(Proof::Svid));
        assert!(life.now.steady - begun <= INTERVAL / 10, "{draw}");
        life.renew(Proof::Svid, Ok(()));
        let Next::Wait(time) = life.next() else {
            panic!("once is enough");
        };
        assert!(time > Duration::from_secs(1));
    }
}

proptest! {
    #[test]
    fn whatever_happens_it_never_spins_and_never_beats_with_a_lapsed_certificate(
        events in prop::collection::vec((0_u8..3, 0_u64..3000, -1.0_f64..1.0), 1..200),
        life_secs in 0_u64..7200,
    ) {
        let mut life = Life::begin();
        let mut expires = life.now.wall + HOUR;
        let mut moment = (life.now.steady, 0);
        for (outcome, idle, draw) in events {
            life.pass(Duration::from_secs(idle / 10 * u64::from(idle % 10 == 0)));
            let step = life.wait();
            let steps = if moment.0 == life.now.steady { moment.1 + 1 } else { 1 };
            moment = (life.now.steady, steps);
            // At most: both renewals, a heartbeat, and once more for the doubt it raised.
            prop_assert!(steps <= 6, "{:?}", life.pulse);
            let failure = if outcome == 1 { Failure::Refused } else { Failure::Unreachable };
            match (step, outcome) {
                (Next::Heartbeat, _) if life.now.wall >= expires => {
                    prop_assert!(false, "a heartbeat with a lapsed certificate");
                }
                (Next::Heartbeat, 0) => life.pulse.heartbeat_accepted(life.now, draw),
                (Next::Heartbeat, _) => {
                    life.pulse.heartbeat_failed(failure, life.now, draw);
                }
                (Next::Renew(_), 0) => {
                    expires = life.now.wall + Duration::from_secs(life_secs);
                    let svid = Validity { not_before: life.now.wall, not_after: expires };
                    life.pulse.renewed(svid, life.now, draw);
                }
                (Next::Renew(proof), _) => {
                    life.pulse.renewal_failed(proof, failure, life.now, draw);
                }
                (Next::Wait(_), _) => unreachable!("`wait` has waited"),
            }
            if outcome == 0 && step == Next::Heartbeat {
                prop_assert!(life.pulse.takes_work());
            }
        }
    }
}

#[test]
fn a_life_shorter_than_the_interval_is_renewed_at_its_half_too() {
    let mut life = Life::begin();
    let backdate = Duration::from_secs(30);
    for _ in 0..5 {
        let (wall, lasts) = (life.now.wall, Duration::from_secs(10));
        let svid = Validity {
            not_before: wall - backdate,
            not_after: wall + lasts,
        };
        life.pulse.renewed(svid, life.now, 0.0);
        loop {
            match life.wait() {
                Next::Heartbeat => life.pulse.heartbeat_accepted(life.now, 0.0),
                step => break assert_eq!(step, Next::Renew(Proof::Svid)),
            }
        }
        assert_eq!(
            life.now.wall.duration_since(wall),
            SignedDuration::from_secs(5)
        );
    }
}
