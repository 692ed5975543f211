//! What the core promises.

use std::path::PathBuf;

use super::*;
use crate::process::Birth;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn process() -> Process {
    Process {
        birth: Birth::of(1).unwrap(),
        control_socket: PathBuf::from("/c"),
        guest: crate::driver::GuestEndpoint::Socket(PathBuf::from("/g")),
    }
}

fn running() -> Phase {
    let mut phase = Phase::NEW;
    assert_eq!(phase.start(at(1)), StartStep::Launch);
    phase.launched(process(), at(2));
    phase
}

#[test]
fn a_start_of_a_running_vm_changes_nothing() {
    let mut phase = running();
    let before = phase.clone();
    assert_eq!(phase.start(at(9)), StartStep::AlreadyRunning);
    assert_eq!(phase, before);
}

#[test]
fn a_stop_of_a_stopped_vm_changes_nothing() {
    let mut phase = running();
    assert_eq!(phase.stop(at(3)), StopStep::End(process()));
    phase.ended(Ending::GuestShutdown, at(4));
    let before = phase.clone();
    assert_eq!(phase.stop(at(5)), StopStep::AlreadyStopped);
    assert_eq!(phase, before);
    assert_eq!(phase.state(), VmState::Stopped);
}

#[test]
fn a_failed_launch_leaves_the_vm_as_it_was() {
    let mut phase = Phase::NEW;
    phase.start(at(1));
    assert_eq!(phase.state(), VmState::Starting);
    phase.launch_failed();
    assert_eq!(phase, Phase::NEW);
}

#[test]
fn a_process_that_dies_unasked_is_an_error_with_a_reason() {
    let mut phase = running();
    phase.ended(
        Ending::Unexpected {
            reason: "killed".into(),
        },
        at(3),
    );
    assert_eq!(
        (phase.state(), phase.reason()),
        (VmState::Error, Some("killed"))
    );
}

#[test]
fn a_guest_that_ends_itself_was_stopped_if_it_had_been_up_and_is_an_error_otherwise() {
    for ending in [Ending::GuestShutdown, Ending::GuestReset] {
        let mut phase = running();
        phase.ended(ending.clone(), at(3));
        assert_eq!(
            (phase.state(), phase.reason()),
            (VmState::Error, Some(NEVER_UP))
        );
        let mut phase = running();
        phase.ready(at(3));
        phase.ended(ending, at(4));
        assert_eq!(
            phase,
            Phase::Idle(Idle::Stopped {
                at: at(4),
                by_request: false
            })
        );
    }
}

#[test]
fn a_process_that_dies_while_stopping_was_stopped_by_request() {
    let mut phase = running();
    phase.stop(at(3));
    phase.ended(
        Ending::Unexpected {
            reason: "killed".into(),
        },
        at(4),
    );
    assert_eq!(
        phase,
        Phase::Idle(Idle::Stopped {
            at: at(4),
            by_request: true
        })
    );
}

#[test]
fn only_the_guests_first_answer_counts() {
    let mut phase = running();
    assert!(phase.ready(at(3)));
    assert!(!phase.ready(at(4)));
    assert_eq!(phase.live().unwrap().ready_at, Some(at(3)));
}

#[test]
fn a_vm_that_stands_still_for_whatever_reason_goes_on_with_a_start_or_a_resume() {
    for stop in [
        |phase: &mut Phase| phase.stuck("disk full".into()),
        |phase: &mut Phase| phase.paused(),
    ] {
        let mut phase = running();
        assert_eq!(phase.resume(), ResumeStep::AlreadyRunning);
        assert!(stop(&mut phase));
        assert_eq!(phase.state(), VmState::Paused);
        assert_eq!(phase.pause(), PauseStep::AlreadyPaused);
        assert_eq!(phase.resume(), ResumeStep::Resume);
        assert_eq!(phase.start(at(3)), StartStep::Resume);
        assert!(phase.resumed());
        assert_eq!(phase.state(), VmState::Running);
    }
}

#[test]
fn only_a_vm_whose_processors_can_be_told_is_paused_or_resumed() {
    let mut starting = Phase::NEW;
    starting.start(at(1));
    let mut stopping = running();
    stopping.stop(at(3));
    let mut silent = running();
    silent.unresponsive("x".into());
    for phase in [Phase::NEW, starting, stopping, silent] {
        assert_eq!(phase.pause(), PauseStep::Impossible, "{phase:?}");
        assert_eq!(phase.resume(), ResumeStep::Impossible, "{phase:?}");
    }
}

#[test]
fn old_news_do_not_end_a_pause_that_was_asked_for() {
    let mut phase = running();
    phase.paused();
    assert!(!phase.unstuck());
    assert_eq!((phase.state(), phase.reason()), (VmState::Paused, None));
    phase.stuck("disk full".into());
    assert_eq!(phase.reason(), Some("disk full"));
    assert!(phase.unstuck());
    assert_eq!(phase.state(), VmState::Running);
}

#[test]
fn a_pause_outlives_its_daemon_and_an_interrupted_snapshot_does_not() {
    let mut phase = running();
    phase.paused();
    assert!(!phase.adopted(Condition::Halted));
    assert_eq!(phase.state(), VmState::Paused);

    phase.saving();
    assert_eq!(
        (phase.state(), phase.reason()),
        (VmState::Paused, Some(SAVING))
    );
    assert!(phase.adopted(Condition::Halted), "it stands still for ever");
    assert_eq!(phase.state(), VmState::Running);
    // A pause or a restore that was not written down any more.
    assert!(phase.adopted(Condition::Halted));
    // A resume that was not.
    phase.paused();
    assert!(!phase.adopted(Condition::Running));
    assert_eq!(phase.state(), VmState::Running);
    // And what has gone wrong meanwhile is wrong.
    let reason = "disk full".to_owned();
    assert!(!phase.adopted(Condition::Stuck { reason }));
    assert_eq!(phase.reason(), Some("disk full"));
}

#[test]
fn nothing_turns_a_stopping_vm_back() {
    let mut phase = running();
    phase.stop(at(3));
    assert!(!phase.paused());
    assert!(!phase.stuck("x".into()));
    assert!(!phase.saving());
    assert!(!phase.resumed());
    assert_eq!(phase.state(), VmState::Stopping);
}

#[test]
fn a_process_that_does_not_answer_the_next_daemon_is_in_error_and_a_pause_is_remembered() {
    for mode in [Mode::Saving, Mode::Paused { reason: None }] {
        let goes_on = mode != Mode::Paused { reason: None };
        let mut phase = running();
        let Phase::Live(live) = &mut phase else {
            panic!("it runs")
        };
        live.mode = mode;
        phase.unresponsive("silent".into());
        assert_eq!(
            (phase.state(), phase.reason()),
            (VmState::Error, Some("silent"))
        );
        assert_eq!(phase.adopted(Condition::Halted), goes_on);
    }
}

#[test]
fn a_process_that_was_ending_when_its_daemon_died_has_ended_as_it_was_asked_to() {
    let stopping = || {
        let mut phase = running();
        phase.stop(at(3));
        phase.unresponsive("silent".into());
        assert_eq!(phase.state(), VmState::Stopping);
        phase
    };
    let mut ended = stopping();
    let reason = "killed".into();
    ended.ended(Ending::Unexpected { reason }, at(4));
    assert_eq!((ended.state(), ended.reason()), (VmState::Stopped, None));
    let mut lives = stopping();
    lives.adopted(Condition::Running);
    assert_eq!(lives.state(), VmState::Running);
}

#[test]
fn a_stop_that_died_with_its_daemon_is_forgotten() {
    let mut phase = running();
    phase.stop(at(3));
    assert!(!phase.adopted(Condition::Running));
    assert_eq!(phase.state(), VmState::Running);
    phase.ready(at(4));
    phase.ended(Ending::GuestShutdown, at(5));
    assert_eq!(phase.state(), VmState::Stopped);
}

#[test]
fn a_vm_that_somebody_stopped_does_not_start_by_itself() {
    let mut phase = running();
    assert!(!phase.wants_auto_start());
    phase.ended(Ending::Unwatched, at(3));
    assert!(phase.wants_auto_start());
    phase.stop(at(4));
    assert!(!phase.wants_auto_start());
}

#[test]
fn every_phase_survives_a_round_trip_through_json() {
    let mut starting = Phase::NEW;
    starting.start(at(1));
    let mut failed = running();
    failed.ended(Ending::Unexpected { reason: "x".into() }, at(3));
    let (mut paused, mut stuck) = (running(), running());
    paused.paused();
    stuck.stuck("disk full".into());
    for phase in [Phase::NEW, starting, running(), failed, paused, stuck] {
        let json = serde_json::to_string(&phase).unwrap();
        assert_eq!(serde_json::from_str::<Phase>(&json).unwrap(), phase);
    }
}
