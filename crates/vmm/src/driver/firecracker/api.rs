//! Firecracker's API: HTTP/1.1 over a Unix socket, one request after the other.
//!
//! A request has a connection of its own, so that nothing of one can disturb the next. What comes
//! back is bounded in size and in time, and understood by [`understand`], which does no I/O.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::dialogue::{self, Broken};
use crate::driver::LinkError;

/// How long Firecracker may take for what it does in milliseconds, unless the host is stuck.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// The longest answer that is read. A whole configuration has a few kilobytes.
const MAX_ANSWER: usize = 256 * 1024;

/// How much of an answer that makes no sense is shown.
const SHOWN: usize = 200;

/// Something to ask of Firecracker.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Ask {
    /// For people: the method and the path without what differs between VMs.
    pub(super) command: &'static str,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Option<Value>,
}

impl Ask {
    pub(super) fn get(command: &'static str, path: &str) -> Self {
        Self {
            command,
            method: Method::GET,
            path: path.to_owned(),
            body: None,
        }
    }

    pub(super) fn put(command: &'static str, path: &str, body: Value) -> Self {
        Self {
            command,
            method: Method::PUT,
            path: path.to_owned(),
            body: Some(body),
        }
    }

    pub(super) fn patch(command: &'static str, path: &str, body: Value) -> Self {
        Self {
            method: Method::PATCH,
            ..Self::put(command, path, body)
        }
    }
}

/// The API of one Firecracker.
#[derive(Debug, Clone)]
pub(super) struct Api {
    socket: PathBuf,
}

impl Api {
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) async fn ask(&self, ask: Ask) -> Result<Value, LinkError> {
        self.ask_within(ANSWER, ask).await
    }

    pub(super) async fn ask_within(&self, limit: Duration, ask: Ask) -> Result<Value, LinkError> {
        let command = ask.command;
        let answered = timeout(limit, self.exchange(ask)).await;
        let (status, body) = answered.unwrap_or_else(|_| {
            Err(Broken::Silent {
                path: self.socket.clone(),
                limit,
            }
            .into())
        })?;
        understand(command, status, &body)
    }

    /// Sends a request and reads the whole answer.
    async fn exchange(&self, ask: Ask) -> Result<(StatusCode, Bytes), LinkError> {
        let command = ask.command;
        let stream = dialogue::connect(&self.socket)
            .await
            .map_err(|source| self.broken(source))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.failed(command, &error))?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let body = ask.body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(ask.method)
            .uri(ask.path)
            .header(HOST, "localhost")
            .header(ACCEPT, "application/json")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(io::Error::other(error)))?;
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| self.failed(command, &error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => self.failed(command, &error),
            Err(error) if error.is::<LengthLimitError>() => LinkError::Unknown {
                command,
                answer: format!("more than {MAX_ANSWER} bytes"),
            },
            Err(error) => self.broken(io::Error::other(error)),
        })?;
        Ok((status, body.to_bytes()))
    }

    fn broken(&self, source: io::Error) -> LinkError {
        Broken::Socket {
            path: self.socket.clone(),
            source,
        }
        .into()
    }

    fn failed(&self, command: &'static str, error: &hyper::Error) -> LinkError {
        if error.is_parse() || error.is_parse_too_large() {
            return LinkError::Unknown {
                command,
                answer: error.to_string(),
            };
        }
        Broken::Closed {
            path: self.socket.clone(),
        }
        .into()
    }
}

/// What an answer means. Success without anything to say is 204, and `null` here; whatever was
/// refused has a `fault_message`.
pub(crate) fn understand(
    command: &'static str,
    status: StatusCode,
    body: &[u8],
) -> Result<Value, LinkError> {
    let unknown = || {
        let text = String::from_utf8_lossy(body);
        let shown: String = text.chars().take(SHOWN).collect();
        LinkError::Unknown {
            command,
            answer: format!("{status}: {shown}"),
        }
    };
    let json = || serde_json::from_slice::<Value>(body).ok();
    match status {
        StatusCode::NO_CONTENT => Ok(Value::Null),
        StatusCode::OK => json().ok_or_else(unknown),
        status if status.is_client_error() || status.is_server_error() => {
            let said =
                json().and_then(|body| Some(body.get("fault_message")?.as_str()?.to_owned()));
            let message = said.ok_or_else(unknown)?;
            Err(LinkError::Refused { command, message })
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    #[test]
    fn a_fault_reaches_the_caller_in_its_own_words() {
        let body = br#"{"fault_message": "Cannot start microvm without kernel configuration."}"#;
        let error = understand("PUT /actions", StatusCode::BAD_REQUEST, body).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the VM's process refused PUT /actions: Cannot start microvm without kernel \
             configuration."
        );
    }

    #[test]
    fn success_is_204_or_json() {
        let heard = |status, body: &str| understand("GET /", status, body.as_bytes());
        assert_eq!(heard(StatusCode::NO_CONTENT, "").unwrap(), Value::Null);
        assert_eq!(
            heard(StatusCode::OK, r#"{"a":1}"#).unwrap(),
            json!({ "a": 1 })
        );
        for (status, body) in [
            (StatusCode::OK, "not json"),
            (StatusCode::BAD_REQUEST, "<html>"),
            (StatusCode::BAD_REQUEST, "{}"),
            (StatusCode::MOVED_PERMANENTLY, "{}"),
        ] {
            let error = heard(status, body).unwrap_err();
            assert!(
                matches!(error, LinkError::Unknown { .. }),
                "{status} {body}: {error}"
            );
        }
    }

    /// Asks a far side that answers with these bytes, again and again if `endless`.
    async fn ask_one_that_says(answer: &[u8], endless: bool) -> LinkError {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api");
        let listener = UnixListener::bind(&socket).unwrap();
        let far = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            while stream.write_all(answer).await.is_ok() && endless {}
        };
        let api = Api::new(&socket);
        let ask = api.ask(Ask::get("GET /", "/"));
        let (answer, ()) = tokio::join!(ask, far);
        answer.unwrap_err()
    }

    #[tokio::test]
    async fn garbage_silence_and_floods_are_errors_that_say_so() {
        let error = ask_one_that_says(b"\x00\x01 garbage\r\n\r\n", false).await;
        assert!(matches!(error, LinkError::Unknown { .. }), "{error}");
        let error = ask_one_that_says(b"", false).await;
        assert!(
            matches!(error, LinkError::Broken(Broken::Closed { .. })),
            "{error}"
        );
        let cut_off = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{";
        let error = ask_one_that_says(cut_off, false).await;
        assert!(
            matches!(error, LinkError::Broken(Broken::Closed { .. })),
            "{error}"
        );
        let error = ask_one_that_says(b"HTTP/1.1 200 OK\r\nX: y\r\nX: y\r\nX: y\r\n", true).await;
        assert!(
            matches!(error, LinkError::Unknown { .. } | LinkError::Broken(_)),
            "{error}"
        );
        let chunked = b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n";
        let flood = [&chunked[..], &[b'x'; MAX_ANSWER + 1][..]].concat();
        let error = ask_one_that_says(&flood, false).await;
        assert!(error.to_string().contains("more than"), "{error}");
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange_to_be_refused(status in 100u16..600, body: Vec<u8>) {
            let status = StatusCode::from_u16(status).unwrap();
            let _ = understand("GET /", status, &body);
        }
    }
}
