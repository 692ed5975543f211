//! Envelopes: what a frame says.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::error::ErrorObject;
use crate::id::fresh;

/// The length of an id, in bytes.
const MAX_ID_BYTES: usize = 128;

/// Names a call on its connection. Whoever calls makes it: 1 to 128 bytes. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(Arc<str>);

impl CallId {
    /// Takes over an id, when it has a proper length.
    pub fn new(id: impl Into<Arc<str>>) -> Option<Self> {
        let id = id.into();
        (1..=MAX_ID_BYTES).contains(&id.len()).then_some(Self(id))
    }

    /// A new one, which nobody else has.
    pub fn generate() -> Self {
        let mut text = Uuid::encode_buffer();
        Self(Arc::from(&*fresh().simple().encode_lower(&mut text)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The bearer token that a call brings. It does not print itself.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthToken(String);

impl AuthToken {
    /// A token.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AuthToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthToken(..)")
    }
}

/// A message about one call.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    /// Which call.
    pub id: CallId,
    /// What about it.
    pub message: Message,
}

/// What is said of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// `call.requested`: the caller calls.
    Requested {
        /// The operation's path, `/hosts/create`.
        operation: String,
        /// Its input.
        input: Value,
        /// Who calls, when that is not who opened the connection.
        auth_token: Option<AuthToken>,
    },
    /// `call.responded`: an output. The only one, unless the operation is a subscription.
    Responded {
        /// The output.
        output: Value,
    },
    /// `call.completed`: a subscription has no more outputs.
    Completed,
    /// `call.aborted`: the caller does not wait any more, or whoever was called goes away.
    Aborted,
    /// `call.error`: the call failed.
    Error(ErrorObject),
}

/// Why bytes are no envelope. It never repeats them: they may hold a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// They are no JSON object with a type, an id and a payload.
    #[error("a frame is no envelope (line {line}, column {column})")]
    Form {
        /// Where it stops being one.
        line: usize,
        /// Where in that line.
        column: usize,
    },
    /// The id is empty or too long.
    #[error("the id of a call has 1 to {MAX_ID_BYTES} bytes")]
    Id,
    /// There is no such type of message.
    #[error("there is no such type of message")]
    Type,
    /// The payload does not fit the type.
    #[error("the payload of a {0} does not fit it")]
    Payload(&'static str),
}

#[derive(Deserialize)]
struct Wire {
    r#type: String,
    id: String,
    #[serde(default)]
    payload: Map<String, Value>,
}

#[derive(Serialize)]
struct WireRef<'e, P> {
    r#type: &'static str,
    id: &'e str,
    payload: P,
}

const REQUESTED: &str = "call.requested";
const RESPONDED: &str = "call.responded";
const COMPLETED: &str = "call.completed";
const ABORTED: &str = "call.aborted";
const ERROR: &str = "call.error";

impl Envelope {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| EnvelopeError::Form {
            line: error.line(),
            column: error.column(),
        })?;
        Ok(Self {
            id: CallId::new(wire.id).ok_or(EnvelopeError::Id)?,
            message: Message::read(&wire.r#type, wire.payload)?,
        })
    }

    pub(super) fn write(&self, into: &mut Vec<u8>) {
        let id = self.id.as_str();
        let written = match &self.message {
            Message::Requested {
                operation,
                input,
                auth_token,
            } => {
                let payload = Requested {
                    operation_id: operation,
                    input,
                    auth_token: auth_token.as_ref().map(AuthToken::expose),
                };
                wire(into, REQUESTED, id, payload)
            }
            Message::Responded { output } => wire(into, RESPONDED, id, Responded { output }),
            Message::Completed => wire(into, COMPLETED, id, json!({})),
            Message::Aborted => wire(into, ABORTED, id, json!({})),
            Message::Error(error) => wire(into, ERROR, id, error),
        };
        // Values and texts always have a form in JSON, and a vector takes whatever is written.
        debug_assert!(written.is_ok());
    }
}

fn wire(
    into: &mut Vec<u8>,
    r#type: &'static str,
    id: &str,
    payload: impl Serialize,
) -> serde_json::Result<()> {
    serde_json::to_writer(
        into,
        &WireRef {
            r#type,
            id,
            payload,
        },
    )
}

#[derive(Serialize)]
struct Requested<'m> {
    #[serde(rename = "operationId")]
    operation_id: &'m str,
    input: &'m Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'m str>,
}

#[derive(Serialize)]
struct Responded<'m> {
    output: &'m Value,
}

impl Message {
    fn read(kind: &str, mut payload: Map<String, Value>) -> Result<Self, EnvelopeError> {
        match kind {
            REQUESTED => {
                let Some(Value::String(operation)) = payload.remove("operationId") else {
                    return Err(EnvelopeError::Payload(REQUESTED));
                };
                let auth_token = match payload.remove("auth_token") {
                    None | Some(Value::Null) => None,
                    Some(Value::String(token)) => Some(AuthToken(token)),
                    Some(_) => return Err(EnvelopeError::Payload(REQUESTED)),
                };
                let nothing = || Value::Object(Map::new());
                Ok(Self::Requested {
                    operation,
                    input: payload.remove("input").unwrap_or_else(nothing),
                    auth_token,
                })
            }
            RESPONDED => {
                let output = payload.remove("output");
                let output = output.ok_or(EnvelopeError::Payload(RESPONDED))?;
                Ok(Self::Responded { output })
            }
            COMPLETED => Ok(Self::Completed),
            ABORTED => Ok(Self::Aborted),
            ERROR => serde_json::from_value(Value::Object(payload))
                .map(Self::Error)
                .map_err(|_| EnvelopeError::Payload(ERROR)),
            _ => Err(EnvelopeError::Type),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(message: Message) -> Value {
        let mut bytes = Vec::new();
        let id = CallId::new("7f").expect("an id");
        Envelope { id, message }.write(&mut bytes);
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[test]
    fn envelopes_have_the_form_of_the_contract() {
        let requested = Message::Requested {
            operation: "/fs/read-file".to_owned(),
            input: json!({"path": "/etc/hosts"}),
            auth_token: Some(AuthToken::new("s3cret")),
        };
        assert!(!format!("{requested:?}").contains("s3cret"));
        assert_eq!(
            written(requested),
            json!({"type": "call.requested", "id": "7f", "payload": {
                "operationId": "/fs/read-file", "input": {"path": "/etc/hosts"},
                "auth_token": "s3cret",
            }})
        );
        assert_eq!(
            written(Message::Completed),
            json!({"type": "call.completed", "id": "7f", "payload": {}})
        );
        let error = ErrorObject {
            code: "TIMEOUT".to_owned(),
            message: "late".to_owned(),
            retryable: true,
            details: None,
        };
        assert_eq!(
            written(Message::Error(error)),
            json!({"type": "call.error", "id": "7f", "payload": {
                "code": "TIMEOUT", "message": "late", "retryable": true,
            }})
        );
    }

    #[test]
    fn what_is_no_envelope_is_refused_and_not_repeated() {
        let long = "x".repeat(MAX_ID_BYTES + 1);
        let bad = [
            "s3cret".to_owned(),
            "{}".to_owned(),
            "[]".to_owned(),
            r#"{"type":"call.s3cret","id":"1","payload":{}}"#.to_owned(),
            r#"{"type":"call.completed","id":"","payload":{}}"#.to_owned(),
            format!(r#"{{"type":"call.completed","id":"{long}"}}"#),
            r#"{"type":"call.completed","id":7}"#.to_owned(),
            r#"{"type":"call.requested","id":"1","payload":{"input":"s3cret"}}"#.to_owned(),
            r#"{"type":"call.requested","id":"1","payload":{"operationId":"/a/b","auth_token":1}}"#
                .to_owned(),
            r#"{"type":"call.responded","id":"1","payload":{}}"#.to_owned(),
            r#"{"type":"call.error","id":"1","payload":{"code":"s3cret"}}"#.to_owned(),
            "[".repeat(100_000),
        ];
        for text in bad {
            let refused = Envelope::read(text.as_bytes()).expect_err("no envelope");
            assert!(!refused.to_string().contains("s3cret"), "{refused}");
        }
        Envelope::read(b"{\"type\":\"call.completed\",\"id\":\"\xff\"}").expect_err("no UTF-8");
    }
}
