//! JSON-RPC 2.0, as much of it as the protocol uses: one message a POST, no batches.

use std::fmt;

use axum::response::Response;
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::revision::{self, Era};
use crate::answer;

/// An id is sent back and kept while its call runs, so it has a length, in bytes.
const MAX_ID: usize = 256;

/// The id of a request: a string or a whole number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Id(Value);

impl Id {
    fn read(value: Value) -> Option<Self> {
        let sane = match &value {
            Value::String(text) => text.len() <= MAX_ID,
            Value::Number(number) => number.is_i64() || number.is_u64(),
            _ => false,
        };
        sane.then_some(Self(value))
    }
}

impl fmt::Display for Id {
    /// As JSON, so that the text `"1"` is not the number `1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A message of a client.
#[derive(Debug)]
pub(super) enum Message {
    Request {
        id: Id,
        method: String,
        params: Map<String, Value>,
    },
    Notification {
        method: String,
        params: Map<String, Value>,
    },
}

impl Message {
    pub(super) fn read(content: Value) -> Result<Self, RpcError> {
        let Value::Object(mut content) = content else {
            return Err(RpcError::invalid_request(
                "send one message, as a JSON object",
            ));
        };
        if content.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return Err(RpcError::invalid_request("jsonrpc must be \"2.0\""));
        }
        let Some(Value::String(method)) = content.remove("method") else {
            return Err(RpcError::invalid_request(
                "method must be a string; nothing was asked here that a response could answer",
            ));
        };
        let params = match content.remove("params") {
            None => Map::new(),
            Some(Value::Object(params)) => params,
            Some(_) => return Err(RpcError::invalid_request("params must be an object")),
        };
        match content.remove("id") {
            None => Ok(Self::Notification { method, params }),
            Some(id) => match Id::read(id) {
                Some(id) => Ok(Self::Request { id, method, params }),
                None => Err(RpcError::invalid_request(
                    "id must be a whole number or a string of at most 256 bytes",
                )),
            },
        }
    }

    pub(super) fn id(&self) -> Option<&Id> {
        match self {
            Self::Request { id, .. } => Some(id),
            Self::Notification { .. } => None,
        }
    }

    pub(super) fn method(&self) -> &str {
        let (Self::Request { method, .. } | Self::Notification { method, .. }) = self;
        method
    }

    pub(super) fn params(&self) -> &Map<String, Value> {
        let (Self::Request { params, .. } | Self::Notification { params, .. }) = self;
        params
    }
}

/// A request that was answered. The stateless revision says what kind of result it is and who
/// answers, each time.
pub(super) fn result(
    era: Era,
    id: &Id,
    mut result: Map<String, Value>,
    server: Option<Value>,
) -> Value {
    if era == Era::Stateless {
        result.insert("resultType".to_owned(), "complete".into());
    }
    if let Some(server) = server {
        let meta = json!({ "io.modelcontextprotocol/serverInfo": server });
        result.insert("_meta".to_owned(), meta);
    }
    json!({ "jsonrpc": "2.0", "id": id.0, "result": result })
}

/// A request that the protocol itself refuses. A tool that fails is a result.
#[derive(Debug)]
pub(super) struct RpcError {
    status: StatusCode,
    code: i32,
    message: String,
    data: Option<Value>,
}

impl RpcError {
    fn new(status: StatusCode, code: i32, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            data: None,
        }
    }

    pub(super) fn not_json(why: impl fmt::Display) -> Self {
        let message = format!("the body is not JSON: {why}");
        Self::new(StatusCode::BAD_REQUEST, -32700, message)
    }

    fn invalid_request(message: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, -32600, message)
    }

    /// The stateless revision tells a gateway on the way too.
    pub(super) fn no_such_method(method: &str, era: Era) -> Self {
        let status = match era {
            Era::Stateless => StatusCode::NOT_FOUND,
            Era::Sessions => StatusCode::OK,
        };
        let method: String = method.chars().take(100).collect();
        Self::new(status, -32601, format!("there is no method {method:?}"))
    }

    pub(super) fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(StatusCode::OK, -32602, message)
    }

    pub(super) fn missing_meta(message: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, -32602, message)
    }

    pub(super) fn header_mismatch(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, -32020, message)
    }

    pub(super) fn unsupported_version(requested: &str) -> Self {
        let requested: String = requested.chars().take(100).collect();
        let data = json!({ "supported": revision::SUPPORTED, "requested": requested });
        let message = "this protocol version is not spoken here";
        Self {
            data: Some(data),
            ..Self::new(StatusCode::BAD_REQUEST, -32022, message)
        }
    }

    pub(super) fn cancelled() -> Self {
        Self::new(StatusCode::OK, -32603, "cancelled")
    }

    pub(super) fn into_value(self, id: Option<&Id>) -> Value {
        let mut error = json!({ "code": self.code, "message": self.message });
        if let Some(data) = self.data {
            error["data"] = data;
        }
        let mut value = json!({ "jsonrpc": "2.0", "error": error });
        if let Some(id) = id {
            value["id"] = id.0.clone();
        }
        value
    }

    pub(super) fn into_response(self, id: Option<&Id>) -> Response {
        let status = self.status;
        answer::json(status, &self.into_value(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_with_an_id_is_a_request_and_one_without_is_none() {
        let read = |value| Message::read(value).expect("a message");
        let request = read(json!({"jsonrpc": "2.0", "id": 7, "method": "ping"}));
        assert_eq!(request.id().map(Id::to_string).as_deref(), Some("7"));
        let notification = read(json!({"jsonrpc": "2.0", "method": "notifications/x"}));
        assert!(notification.id().is_none());
        assert_eq!(notification.method(), "notifications/x");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let long = "x".repeat(MAX_ID + 1);
        for bad in [
            json!([{"jsonrpc": "2.0", "id": 1, "method": "ping"}]),
            json!("ping"),
            json!({"id": 1, "method": "ping"}),
            json!({"jsonrpc": "1.0", "id": 1, "method": "ping"}),
            json!({"jsonrpc": "2.0", "id": null, "method": "ping"}),
            json!({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}),
            json!({"jsonrpc": "2.0", "id": long, "method": "ping"}),
            json!({"jsonrpc": "2.0", "id": 1, "method": 1}),
            json!({"jsonrpc": "2.0", "id": 1, "result": {}}),
            json!({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": [1]}),
        ] {
            let refused = Message::read(bad.clone()).expect_err("refused");
            assert_eq!(refused.code, -32600, "{bad}");
        }
    }
}
