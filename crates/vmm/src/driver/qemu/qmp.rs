//! QMP, QEMU's monitor: commands and events, one JSON object per line (QEMU's `qmp-spec`).

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::dialogue::{Broken, Dialogue, Heard, Language};
use crate::driver::LinkError;

/// How long QEMU may take for a command. It answers in milliseconds, unless the host is stuck.
const ANSWER: Duration = Duration::from_secs(10);

pub(crate) struct QmpLanguage;

/// A command's result, or QEMU's description of why not.
pub(crate) type Answer = Result<Value, String>;

/// Something that QEMU tells by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QmpEvent {
    pub(crate) event: String,
    pub(crate) data: Value,
}

impl Language for QmpLanguage {
    type Answer = Answer;
    type News = QmpEvent;

    fn understand(line: &str) -> Option<Heard<Answer, QmpEvent>> {
        // Messages are objects; a derived reader would take lists of the same values too.
        let Value::Object(mut said) = serde_json::from_str(line).ok()? else {
            return None;
        };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        if let Some(id) = said.get("id").and_then(Value::as_u64) {
            if let Some(value) = said.remove("return") {
                let answer = Ok(value);
                return Some(Heard::Answer { id, answer });
            }
            if let Some(reason) = said.get("error").and_then(|error| text(error.get("desc")?)) {
                let answer = Err(reason);
                return Some(Heard::Answer { id, answer });
            }
        }
        let event = said.get("event").and_then(text)?;
        let data = said.remove("data").unwrap_or_default();
        Some(Heard::News(QmpEvent { event, data }))
    }
}

/// The conversation with one QEMU. QEMU speaks with one client at a time; others wait in silence.
pub(crate) struct Qmp {
    dialogue: Dialogue<QmpLanguage>,
}

impl Qmp {
    /// Connects and agrees on the version, so that commands are accepted.
    pub(crate) async fn connect(socket: &Path, limit: Duration) -> Result<Self, LinkError> {
        let qmp = Self {
            dialogue: Dialogue::begin(socket).await?,
        };
        qmp.execute_within(limit, "qmp_capabilities", Value::Null)
            .await?;
        Ok(qmp)
    }

    pub(crate) async fn execute(
        &self,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, LinkError> {
        self.execute_within(ANSWER, command, arguments).await
    }

    /// Hands QEMU an open file, for commands that name one: to them it is `fd:NAME`.
    pub(crate) async fn give_file(
        &self,
        name: &'static str,
        file: BorrowedFd<'_>,
    ) -> Result<(), LinkError> {
        const COMMAND: &str = "getfd";
        let question = |id: u64| {
            let arguments = json!({ "fdname": name });
            json!({ "execute": COMMAND, "arguments": arguments, "id": id }).to_string()
        };
        let answer = self.dialogue.ask_with_file(ANSWER, file, question).await?;
        answer.map(drop).map_err(|message| LinkError::Refused {
            command: COMMAND,
            message,
        })
    }

    async fn execute_within(
        &self,
        limit: Duration,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, LinkError> {
        let question = |id: u64| match arguments {
            Value::Null => json!({ "execute": command, "id": id }).to_string(),
            arguments => {
                json!({ "execute": command, "arguments": arguments, "id": id }).to_string()
            }
        };
        let answer = self.dialogue.ask(limit, question).await?;
        answer.map_err(|message| LinkError::Refused { command, message })
    }

    /// Runs a command of the human monitor. Its answer is text, and failures are text too.
    pub(crate) async fn human(&self, line: &str) -> Result<String, LinkError> {
        const COMMAND: &str = "human-monitor-command";
        match self
            .execute(COMMAND, json!({ "command-line": line }))
            .await?
        {
            Value::String(text) => Ok(text),
            other => Err(LinkError::Unknown {
                command: COMMAND,
                answer: other.to_string(),
            }),
        }
    }

    /// The next event; `None` once the conversation has ended.
    pub(crate) async fn event(&self) -> Option<QmpEvent> {
        self.dialogue.news().await
    }
}

/// Errors of the socket are errors of the link.
impl From<Broken> for crate::driver::LaunchError {
    fn from(broken: Broken) -> Self {
        Self::Link(broken.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn greetings_answers_errors_and_events_are_told_apart() {
        let heard = QmpLanguage::understand;
        assert_eq!(
            heard(r#"{"QMP": {"version": {}, "capabilities": []}}"#),
            None
        );
        assert_eq!(
            heard(r#"{"return": {}, "id": 3}"#),
            Some(Heard::Answer {
                id: 3,
                answer: Ok(json!({}))
            })
        );
        assert_eq!(
            heard(r#"{"id": 4, "error": {"class": "GenericError", "desc": "no"}}"#),
            Some(Heard::Answer {
                id: 4,
                answer: Err("no".into())
            })
        );
        let event = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#;
        let expected = QmpEvent {
            event: "STOP".into(),
            data: Value::Null,
        };
        assert_eq!(heard(event), Some(Heard::News(expected)));
        for strange in [r#"["STOP"]"#, "[3, {}]", r#"{"id": 3, "error": ["no"]}"#] {
            assert_eq!(heard(strange), None, "{strange}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange_to_be_ignored(line in "\\PC*") {
            QmpLanguage::understand(&line);
        }
    }
}
