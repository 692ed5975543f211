//! The guest, as it answers for itself: through our program in there ([`protocol`]), over a socket
//! that every driver offers.
//!
//! A question may be asked before the guest is up: it waits until somebody hears it, in the socket
//! or before one. So the first answer to a greeting is the moment when the guest is ready.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::dialogue::{Broken, Dialogue, Heard, Language};
use crate::driver::GuestEndpoint;

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

/// How long to wait before speaking again to a guest that hung up.
const RETRY: Duration = Duration::from_millis(20);

/// The conversation with a guest.
pub(crate) struct Guest {
    endpoint: GuestEndpoint,
    /// None until the first word, where a guest has to listen before one gets through.
    dialogue: Mutex<Option<Arc<Dialogue<GuestLanguage>>>>,
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
    pub(crate) async fn connect(endpoint: &GuestEndpoint) -> Result<Self, Broken> {
        let dialogue = match endpoint {
            GuestEndpoint::Socket(path) => Some(Arc::new(Dialogue::begin(path).await?)),
            GuestEndpoint::Vsock { .. } => None,
        };
        Ok(Self {
            endpoint: endpoint.clone(),
            dialogue: Mutex::new(dialogue),
        })
    }

    /// The conversation, begun (again) if it has to be.
    async fn dialogue(&self) -> Result<Arc<Dialogue<GuestLanguage>>, Broken> {
        let mut current = self.dialogue.lock().await;
        let reopen = self.endpoint.can_be_reopened();
        if let Some(dialogue) = current.as_ref().filter(|it| !reopen || !it.is_over()) {
            return Ok(dialogue.clone());
        }
        let stream = self.endpoint.open_patiently().await?;
        let dialogue = Arc::new(Dialogue::over(stream, self.endpoint.path()));
        Ok(current.insert(dialogue).clone())
    }

    /// Asks a question whose answer may take any time. A guest that hangs up first, as one does
    /// that is only coming up or was just restored, is asked again.
    async fn ask(&self, question: impl Fn(u64) -> String) -> Result<Reply, Broken> {
        loop {
            let dialogue = self.dialogue().await?;
            match dialogue.ask_patiently(&question).await {
                Err(Broken::Closed { .. } | Broken::Socket { .. })
                    if self.endpoint.can_be_reopened() =>
                {
                    sleep(RETRY).await;
                }
                outcome => return outcome,
            }
        }
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
        match self.ask(greeting).await? {
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
        match self.ask(request).await? {
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
