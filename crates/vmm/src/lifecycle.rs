//! The life of a VM, as a core without processes, files or clocks.
//!
//! ```text
//!               start                launched
//!   Idle ────────────────▶ Starting ──────────▶ Live ◀───────────┐ paused, resumed,
//!   (created, stopped, ◀────────────┐            │  └────────────┘ saving, guest ready, stopping
//!    failed)   ▲        launch failed            │
//!              └─────────────────────────────────┘ process ended
//! ```
//!
//! A [`Live`] VM has a process and an idle one cannot have any: the types leave no room for it.
//! Who drives this core asks it what a command means now ([`Phase::start`], [`Phase::stop`],
//! [`Phase::pause`], [`Phase::resume`]) and tells it what happened, with the time when it happened.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::VmState;
use crate::process::Process;

/// Where a VM is in its life, and what belongs to that.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// No process.
    Idle(Idle),
    /// A process is being made; should that fail, the VM is again what it was.
    Starting { since: Timestamp, was: Idle },
    /// A process exists.
    Live(Live),
}

/// How a VM without a process came to have none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Idle {
    /// It never had one.
    Created,
    /// It was stopped by request, or its guest shut down.
    Stopped { at: Timestamp, by_request: bool },
    /// It ended without anybody asking.
    Failed { at: Timestamp, reason: String },
}

/// A VM with a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Live {
    pub(crate) process: Process,
    pub(crate) started_at: Timestamp,
    pub(crate) ready_at: Option<Timestamp>,
    pub(crate) mode: Mode,
}

/// What a live VM is doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    Running,
    /// Its processors stand still.
    Paused {
        /// What stopped them; absent when somebody asked for it.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Its processors stand still for as long as a snapshot of it is taken.
    Saving,
    /// It was asked to end.
    Stopping,
    /// The process is there and does not answer.
    Unresponsive {
        reason: String,
        /// Its processors were to stand still, as somebody had asked.
        #[serde(default)]
        paused: bool,
    },
}

/// How a VM's processors are, as its process says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    Running,
    /// They stand still because the process was told so.
    Halted,
    /// They have never run, because their memory is still being loaded.
    Loading,
    /// They stand still because something is wrong.
    Stuck {
        reason: String,
    },
}

/// How a process came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The guest shut itself down.
    GuestShutdown,
    /// The guest rebooted, which ends a microVM.
    GuestReset,
    /// It was gone when the daemon came back.
    Unwatched,
    /// It disappeared under the daemon's eyes.
    Unexpected { reason: String },
}

/// What a request to start means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StartStep {
    /// Make a process.
    Launch,
    /// Let the processors run again.
    Resume,
    /// Nothing to do.
    AlreadyRunning,
}

/// What a request to pause means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PauseStep {
    /// Let the processors stand still.
    Halt,
    /// They do already.
    AlreadyPaused,
    /// There are none that could, or they cannot be told.
    Impossible,
}

/// What a request to resume means now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ResumeStep {
    /// Let the processors run again.
    Resume,
    /// They do already.
    AlreadyRunning,
    /// There are none that could, or they cannot be told.
    Impossible,
}

/// What a request to stop means now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StopStep {
    /// End this process.
    End(Process),
    /// Nothing to do.
    AlreadyStopped,
}

const SAVING: &str = "a snapshot of it is being taken";
const NEVER_UP: &str = "the guest ended before it was up; its console log says why";

impl Phase {
    /// The life of a new VM.
    pub(crate) const NEW: Self = Self::Idle(Idle::Created);

    pub(crate) fn state(&self) -> VmState {
        match self {
            Self::Idle(Idle::Created) => VmState::Created,
            Self::Idle(Idle::Stopped { .. }) => VmState::Stopped,
            Self::Idle(Idle::Failed { .. }) => VmState::Error,
            Self::Starting { .. } => VmState::Starting,
            Self::Live(live) => match live.mode {
                Mode::Running => VmState::Running,
                Mode::Paused { .. } | Mode::Saving => VmState::Paused,
                Mode::Stopping => VmState::Stopping,
                Mode::Unresponsive { .. } => VmState::Error,
            },
        }
    }

    pub(crate) fn reason(&self) -> Option<&str> {
        match self {
            Self::Idle(Idle::Failed { reason, .. })
            | Self::Live(Live {
                mode:
                    Mode::Paused {
                        reason: Some(reason),
                    }
                    | Mode::Unresponsive { reason, .. },
                ..
            }) => Some(reason),
            Self::Live(Live {
                mode: Mode::Saving, ..
            }) => Some(SAVING),
            _ => None,
        }
    }

    pub(crate) fn live(&self) -> Option<&Live> {
        match self {
            Self::Live(live) => Some(live),
            Self::Idle(_) | Self::Starting { .. } => None,
        }
    }

    /// Whether the daemon should start an `auto_start` VM that it finds like this: it should,
    /// unless the VM runs or somebody stopped it.
    pub(crate) fn wants_auto_start(&self) -> bool {
        match self {
            Self::Idle(Idle::Stopped { by_request, .. }) => !by_request,
            Self::Idle(Idle::Created | Idle::Failed { .. }) => true,
            Self::Starting { .. } | Self::Live(_) => false,
        }
    }

    /// A request to start. Moves an idle VM to `Starting`.
    pub(crate) fn start(&mut self, now: Timestamp) -> StartStep {
        match self {
            Self::Idle(was) => {
                *self = Self::Starting {
                    since: now,
                    was: was.clone(),
                };
                StartStep::Launch
            }
            Self::Live(Live {
                mode: Mode::Paused { .. },
                ..
            }) => StartStep::Resume,
            Self::Live(_) | Self::Starting { .. } => StartStep::AlreadyRunning,
        }
    }

    /// The process was made.
    pub(crate) fn launched(&mut self, process: Process, now: Timestamp) {
        debug_assert!(matches!(self, Self::Starting { .. }));
        *self = Self::Live(Live {
            process,
            started_at: now,
            ready_at: None,
            mode: Mode::Running,
        });
    }

    /// The process could not be made: as if nobody had asked.
    pub(crate) fn launch_failed(&mut self) {
        if let Self::Starting { was, .. } = self {
            *self = Self::Idle(was.clone());
        }
    }

    /// A request to stop. Moves a live VM to `Stopping`.
    pub(crate) fn stop(&mut self, now: Timestamp) -> StopStep {
        match self {
            Self::Live(live) => {
                live.mode = Mode::Stopping;
                StopStep::End(live.process.clone())
            }
            // Whoever stops a VM that lies there in error has seen the error.
            Self::Idle(
                idle @ (Idle::Failed { .. }
                | Idle::Stopped {
                    by_request: false, ..
                }),
            ) => {
                *idle = Idle::Stopped {
                    at: now,
                    by_request: true,
                };
                StopStep::AlreadyStopped
            }
            Self::Idle(_) | Self::Starting { .. } => StopStep::AlreadyStopped,
        }
    }

    /// A request to pause.
    pub(crate) fn pause(&self) -> PauseStep {
        match self.live().map(|live| &live.mode) {
            Some(Mode::Running) => PauseStep::Halt,
            Some(Mode::Paused { .. }) => PauseStep::AlreadyPaused,
            _ => PauseStep::Impossible,
        }
    }

    /// A request to resume.
    pub(crate) fn resume(&self) -> ResumeStep {
        match self.live().map(|live| &live.mode) {
            Some(Mode::Paused { .. }) => ResumeStep::Resume,
            Some(Mode::Running) => ResumeStep::AlreadyRunning,
            _ => ResumeStep::Impossible,
        }
    }

    /// The guest answered. Only its first answer counts; true when this was it.
    pub(crate) fn ready(&mut self, now: Timestamp) -> bool {
        match self {
            Self::Live(live) if live.ready_at.is_none() => {
                live.ready_at = Some(now);
                true
            }
            _ => false,
        }
    }

    /// The processors stand still, as somebody asked.
    pub(crate) fn paused(&mut self) -> bool {
        self.change_mode(Mode::Paused { reason: None })
    }

    /// Something made the processors stand still. A VM that is on its way out stays on its way out.
    pub(crate) fn stuck(&mut self, reason: String) -> bool {
        self.change_mode(Mode::Paused {
            reason: Some(reason),
        })
    }

    /// The processors stand still for a snapshot.
    pub(crate) fn saving(&mut self) -> bool {
        self.change_mode(Mode::Saving)
    }

    /// The processors run again, as somebody asked.
    pub(crate) fn resumed(&mut self) -> bool {
        self.change_mode(Mode::Running)
    }

    /// The process says that its processors run again. That may be old news when it arrives, so it
    /// only ends a standstill that the process had announced too.
    pub(crate) fn unstuck(&mut self) -> bool {
        match self {
            Self::Live(Live {
                mode: Mode::Paused { reason: Some(_) },
                ..
            }) => self.change_mode(Mode::Running),
            _ => false,
        }
    }

    /// A new daemon has found the process alive, and it does not answer. Whatever the earlier daemon
    /// was about to do with it was never done, but for one thing: a process that was asked to end may be
    /// ending now, so it stays on its way out until it answers.
    pub(crate) fn unresponsive(&mut self, reason: String) {
        let paused = self.was_paused();
        self.change_mode(Mode::Unresponsive { reason, paused });
    }

    /// A new daemon has found the process alive, and its processors like this. What the earlier
    /// daemon did not live to finish (a stop, a pause, a snapshot) was never answered, so it counts
    /// as never asked. Says whether the processors have to be set going.
    pub(crate) fn adopted(&mut self, found: Condition) -> bool {
        let was_paused = self.was_paused();
        let Self::Live(live) = self else { return false };
        let (mode, set_going) = match found {
            Condition::Stuck { reason } => (
                Mode::Paused {
                    reason: Some(reason),
                },
                false,
            ),
            Condition::Halted if was_paused => (Mode::Paused { reason: None }, false),
            Condition::Halted | Condition::Loading => (Mode::Running, true),
            Condition::Running => (Mode::Running, false),
        };
        live.mode = mode;
        set_going
    }

    /// Whether its processors are to stand still, as somebody asked.
    fn was_paused(&self) -> bool {
        matches!(
            self.live().map(|live| &live.mode),
            Some(Mode::Paused { reason: None } | Mode::Unresponsive { paused: true, .. })
        )
    }

    fn change_mode(&mut self, mode: Mode) -> bool {
        match self {
            Self::Live(live) if live.mode != Mode::Stopping && live.mode != mode => {
                live.mode = mode;
                true
            }
            _ => false,
        }
    }

    /// A VM without a process cannot get one.
    pub(crate) fn failed(&mut self, reason: String, now: Timestamp) {
        if let Self::Idle(idle) = self {
            *idle = Idle::Failed { at: now, reason };
        }
    }

    /// The process is gone. What that means depends on whether somebody had asked for it.
    pub(crate) fn ended(&mut self, ending: Ending, now: Timestamp) {
        let Self::Live(live) = self else { return };
        let was_ready = live.ready_at.is_some();
        *self = Self::Idle(match ending {
            _ if live.mode == Mode::Stopping => Idle::Stopped {
                at: now,
                by_request: true,
            },
            // A guest that ends itself before it was up has found no root disk, or no init.
            Ending::GuestShutdown | Ending::GuestReset if !was_ready => Idle::Failed {
                at: now,
                reason: NEVER_UP.to_owned(),
            },
            Ending::GuestShutdown | Ending::GuestReset | Ending::Unwatched => Idle::Stopped {
                at: now,
                by_request: false,
            },
            Ending::Unexpected { reason } => Idle::Failed { at: now, reason },
        });
    }
}

#[cfg(test)]
mod tests;
