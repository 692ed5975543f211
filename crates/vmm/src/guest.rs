//! The guest, as it answers for itself: through our program in there ([`protocol`]), over a socket
//! that every driver offers.
//!
//! A question may be asked before the guest is up: it waits in the socket until somebody reads it.
//! So the first answer to a greeting is the moment when the guest is ready.

use std::path::Path;
use std::time::Duration;

use crate::dialogue::{Broken, Dialogue, Heard, Language};

#[path = "../../guest/src/protocol.rs"]
pub(crate) mod protocol;

use protocol::{Line, Reply, Request};

struct GuestLanguage;

impl Language for GuestLanguage {
    type Answer = Reply;
    type News = std::convert::Infallible;

    fn understand(line: &str) -> Option<Heard<Reply, Self::News>> {
        let Line { id, body } = line.parse().ok()?;
        Some(Heard::Answer { id, answer: body })
    }
}

/// The conversation with a guest.
pub(crate) struct Guest {
    dialogue: Dialogue<GuestLanguage>,
}

/// A guest did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GuestError {
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("the guest refused: {0}")]
    Refused(String),
}

impl Guest {
    pub(crate) async fn connect(socket: &Path) -> Result<Self, Broken> {
        Ok(Self {
            dialogue: Dialogue::begin(socket).await?,
        })
    }

    /// Waits until the guest answers, however long that takes. Returns the version of the protocol
    /// that it speaks.
    pub(crate) async fn ready(&self) -> Result<u32, GuestError> {
        // The line break first ends what an earlier conversation may have left half said.
        let greeting = |id| {
            format!(
                "\n{}",
                Line {
                    id,
                    body: Request::Hello
                }
            )
        };
        match self.dialogue.ask_patiently(greeting).await? {
            Reply::Hello { version } => Ok(version),
            other => Err(refusal(other)),
        }
    }

    /// Asks the guest to end: its processes get `grace` to finish. That it has begun, not that it
    /// is done, is what a return means. A guest that is not up yet hears it once it is.
    pub(crate) async fn power_off(&self, grace: Duration) -> Result<(), GuestError> {
        let grace_ms = grace.as_millis().try_into().unwrap_or(u32::MAX);
        let request = |id| {
            Line {
                id,
                body: Request::PowerOff { grace_ms },
            }
            .to_string()
        };
        match self.dialogue.ask_patiently(request).await? {
            Reply::Done => Ok(()),
            other => Err(refusal(other)),
        }
    }
}

fn refusal(reply: Reply) -> GuestError {
    GuestError::Refused(match reply {
        Reply::Failed { reason } => reason,
        other => format!("unexpected answer {:?}", other.to_string()),
    })
}
