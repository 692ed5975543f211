//! What hyper does to the head of an answer over HTTP/1.1, for the versions that other libraries speak.

use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, Entry, HeaderMap, HeaderName, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderValue, StatusCode, response};
use http_body::SizeHint;

/// Says the length of a body, where it is known, and the date, which is given.
pub(super) fn complete(head: &mut response::Parts, size: &SizeHint, date: &HeaderValue) {
    let headers = &mut head.headers;
    if let Some(length) = size.exact()
        && length > 0
        && head.status != StatusCode::NO_CONTENT
    {
        headers
            .entry(CONTENT_LENGTH)
            .or_insert(HeaderValue::from(length));
    }
    if let Entry::Vacant(entry) = headers.entry(DATE) {
        entry.insert(date.clone());
    }
}

const OF_A_CONNECTION: [HeaderName; 6] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Takes out what is about a connection of HTTP/1.1, and what is said there to be. Its successors have no
/// such fields, and an answer with one is malformed (RFC 9113, section 8.2.2; RFC 9114, section 4.2).
pub(super) fn without_connection(headers: &mut HeaderMap) {
    let said = headers.get_all(CONNECTION).iter();
    let names = said.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok());
    for name in names.chain(OF_A_CONNECTION).collect::<Vec<_>>() {
        headers.remove(name);
    }
}
