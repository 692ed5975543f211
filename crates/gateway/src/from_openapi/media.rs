//! Media types: as a document has them, and as an answer has them.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Map, Value};

/// The JSON among these media types.
pub(super) fn json_content(content: &Map<String, Value>) -> Option<&Value> {
    let is_json = |(name, _): &(&String, &Value)| {
        let name = name.split(';').next().unwrap_or_default().trim();
        name.eq_ignore_ascii_case("application/json") || name.ends_with("+json")
    };
    content.iter().find(is_json).map(|(_, media)| media)
}

/// The media type of an answer, without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(kind.split(';').next()?.trim())
}

pub(super) fn is_json(media_type: &str) -> bool {
    media_type.eq_ignore_ascii_case("application/json") || media_type.ends_with("+json")
}
