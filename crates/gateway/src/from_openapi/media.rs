//! Media types: as a document has them, and as an answer has them. Upper and lower case are the same
//! in them (RFC 9110, section 8.3.1).

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Map, Value};

use crate::sse::EVENT_STREAM;

/// What is there under the first media type of this kind.
pub(super) fn content_of(
    content: &Map<String, Value>,
    is_kind: impl Fn(&str) -> bool,
) -> Option<&Value> {
    let found = content.iter().find(|(name, _)| is_kind(essence(name)));
    found.map(|(_, media)| media)
}

/// The media type of an answer.
pub(super) fn media_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_TYPE)?.to_str().ok().map(essence)
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

pub(super) fn is_json(media_type: &str) -> bool {
    let suffix = media_type.rsplit_once('+').map(|(_, suffix)| suffix);
    media_type.eq_ignore_ascii_case("application/json")
        || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("json"))
}

pub(super) fn is_events(media_type: &str) -> bool {
    media_type.eq_ignore_ascii_case(EVENT_STREAM)
}

pub(super) fn is_text(media_type: &str) -> bool {
    let kind = media_type.split_once('/').map(|(kind, _)| kind);
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case("text"))
}

/// Whether an answer is written as it is. What is compressed would not be looked through for the
/// credential.
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}
