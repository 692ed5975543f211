//! Which revision of the protocol a request speaks, and whether its headers say the same as its
//! body.
//!
//! Since 2026-07-28 there is no handshake: each request says its version in its `_meta`, and again
//! in headers, for those on the way who do not read bodies. Before that a client began with
//! `initialize`. Both are served side by side; each request shows which it is.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use serde_json::Value;

use super::message::{Message, RpcError};

/// The revision without sessions.
pub(super) const STATELESS: &str = "2026-07-28";

/// Every revision that is spoken here, the newest first.
pub(super) const SUPPORTED: [&str; 3] = [STATELESS, "2025-11-25", "2025-06-18"];

/// What a request without a version counts as (2025-11-25, transports). No handshake ends with it,
/// because it wants batches, but some clients put it on single messages.
const ASSUMED: &str = "2025-03-26";

const VERSION_HEADER: &str = "mcp-protocol-version";
const METHOD_HEADER: &str = "mcp-method";
const NAME_HEADER: &str = "mcp-name";
const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const META_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

/// The two ways of speaking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// Each request says everything about itself.
    Stateless,
    /// A handshake comes first.
    Sessions,
}

/// The version that a handshake ends with: the client's, when it is one that shakes hands and is
/// spoken here, else the newest such, and the client decides whether to go on.
pub(super) fn agreed(wanted: Option<&str>) -> &'static str {
    let sessions = &SUPPORTED[1..];
    let same = sessions.iter().find(|known| Some(**known) == wanted);
    same.copied().unwrap_or(sessions[0])
}

/// How this message speaks.
pub(super) fn era(headers: &HeaderMap, message: &Message) -> Result<Era, RpcError> {
    let header = only(headers, VERSION_HEADER)?;
    let meta = message.params().get("_meta");
    let named = meta.and_then(|meta| meta.get(META_VERSION)).map(|version| {
        // Something else than a text is a version that nobody speaks.
        version.as_str().unwrap_or("")
    });
    match (header, named) {
        (None, None) => return Ok(Era::Sessions),
        (Some(header), None) if header == ASSUMED || SUPPORTED[1..].contains(&header) => {
            return Ok(Era::Sessions);
        }
        // No notification of the newest revision has anything to check.
        (Some(STATELESS), None) if message.id().is_none() => return Ok(Era::Stateless),
        (Some(STATELESS), None) => {
            let message = "params._meta must hold io.modelcontextprotocol/protocolVersion";
            return Err(RpcError::missing_meta(message));
        }
        (Some(header), None) => return Err(RpcError::unsupported_version(header)),
        (None, Some(_)) => {
            let message = "send the header MCP-Protocol-Version, as in params._meta";
            return Err(RpcError::header_mismatch(message));
        }
        (Some(header), Some(named)) if header != named => {
            let message = "the header MCP-Protocol-Version and params._meta name two versions";
            return Err(RpcError::header_mismatch(message));
        }
        (Some(_), Some(STATELESS)) => {}
        (Some(_), Some(other)) => return Err(RpcError::unsupported_version(other)),
    }
    if message.id().is_some() {
        if !meta.is_some_and(|meta| meta.get(META_CAPABILITIES).is_some_and(Value::is_object)) {
            let message = "params._meta must hold io.modelcontextprotocol/clientCapabilities";
            return Err(RpcError::missing_meta(message));
        }
        repeated(headers, message)?;
    }
    Ok(Era::Stateless)
}

/// Whether the headers repeat what the body says.
fn repeated(headers: &HeaderMap, message: &Message) -> Result<(), RpcError> {
    if only(headers, METHOD_HEADER)? != Some(message.method()) {
        let message = "the header Mcp-Method must repeat the method of the body";
        return Err(RpcError::header_mismatch(message));
    }
    let named = match message.method() {
        "tools/call" | "prompts/get" => "name",
        "resources/read" => "uri",
        _ => return Ok(()),
    };
    let header = only(headers, NAME_HEADER)?.and_then(decoded);
    let body = message.params().get(named).and_then(Value::as_str);
    match header.as_deref() == body && body.is_some() {
        true => Ok(()),
        false => Err(RpcError::header_mismatch(format!(
            "the header Mcp-Name must repeat params.{named}"
        ))),
    }
}

/// The one value of a header.
fn only<'h>(headers: &'h HeaderMap, name: &'static str) -> Result<Option<&'h str>, RpcError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (value.to_str(), values.next()) {
        (Ok(value), None) => Ok(Some(value)),
        _ => Err(RpcError::header_mismatch(format!(
            "send the header {name} once, in ASCII"
        ))),
    }
}

/// A value that does not fit into a header comes as `=?base64?...?=`.
fn decoded(value: &str) -> Option<String> {
    let encoded = value
        .strip_prefix("=?base64?")
        .and_then(|rest| rest.strip_suffix("?="));
    match encoded {
        None => Some(value.to_owned()),
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spoken(headers: &[(&'static str, &str)], body: Value) -> Result<Era, Value> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().expect("a value"));
        }
        let message = Message::read(body).expect("a message");
        era(&map, &message).map_err(|error| error.into_value(None)["error"]["code"].clone())
    }

    fn call(version: &str) -> Value {
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "books_get",
            "_meta": {META_VERSION: version, META_CAPABILITIES: {}},
        }})
    }

    #[test]
    fn each_request_shows_which_revision_it_speaks() {
        let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        assert_eq!(spoken(&[], ping.clone()), Ok(Era::Sessions));
        for version in &SUPPORTED[1..] {
            assert_eq!(
                spoken(&[(VERSION_HEADER, version)], ping.clone()),
                Ok(Era::Sessions)
            );
        }
        let headers = |name| {
            [
                (VERSION_HEADER, STATELESS),
                (METHOD_HEADER, "tools/call"),
                (NAME_HEADER, name),
            ]
        };
        assert_eq!(
            spoken(&headers("books_get"), call(STATELESS)),
            Ok(Era::Stateless)
        );
        let encoded = format!("=?base64?{}?=", STANDARD.encode("books_get"));
        assert_eq!(
            spoken(&headers(&encoded), call(STATELESS)),
            Ok(Era::Stateless)
        );
        assert_eq!(
            spoken(&headers("books_delete"), call(STATELESS)),
            Err(json!(-32020))
        );
    }

    #[test]
    fn headers_that_say_something_else_than_the_body_are_refused() {
        let whole = [
            (VERSION_HEADER, STATELESS),
            (METHOD_HEADER, "tools/call"),
            (NAME_HEADER, "books_get"),
        ];
        for left_out in 0..whole.len() {
            let mut headers = whole.to_vec();
            headers.remove(left_out);
            assert_eq!(
                spoken(&headers, call(STATELESS)),
                Err(json!(-32020)),
                "{headers:?}"
            );
        }
        let twice = [whole[0], whole[0], whole[1], whole[2]];
        assert_eq!(spoken(&twice, call(STATELESS)), Err(json!(-32020)));
        assert_eq!(spoken(&whole, call("2025-11-25")), Err(json!(-32020)));
        let mut bare = call(STATELESS);
        bare["params"]["_meta"] = json!({META_VERSION: STATELESS});
        assert_eq!(spoken(&whole, bare), Err(json!(-32602)));
        let mut none = call(STATELESS);
        none["params"]["_meta"] = json!({});
        assert_eq!(spoken(&whole, none), Err(json!(-32602)));
    }

    #[test]
    fn a_version_that_is_not_spoken_is_refused() {
        let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        assert_eq!(
            spoken(&[(VERSION_HEADER, "1900-01-01")], ping),
            Err(json!(-32022))
        );
        let headers = [(VERSION_HEADER, "1900-01-01")];
        assert_eq!(spoken(&headers, call("1900-01-01")), Err(json!(-32022)));
        assert_eq!(agreed(Some("2025-06-18")), "2025-06-18");
        for other in [None, Some("2024-11-05"), Some(STATELESS)] {
            assert_eq!(agreed(other), "2025-11-25", "{other:?}");
        }
    }
}
