//! An error of the API's as one of ours: its status, what it says in words, and how long it wants to
//! be left alone.

use hostler_operations::{CallError, ErrorCode};
use http::HeaderMap;
use http::header::RETRY_AFTER;
use http::response::Parts;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use serde_json::{Value, json};

use crate::answer::WAIT;

/// How much of what the API says of an error is passed on: in words, in characters, and as it is, in
/// bytes.
const MAX_MESSAGE: usize = 500;
const MAX_DETAILS: usize = 4096;
/// The longest that a caller is asked to wait, in seconds.
const MAX_WAIT: u64 = 24 * 60 * 60;

/// The error, from the head of an answer and what its body says without the credential.
pub(super) fn failure(head: &Parts, said: Value) -> CallError {
    let status = head.status;
    let of = |pointer: &str| said.pointer(pointer).and_then(Value::as_str);
    let message = said
        .as_str()
        .or_else(|| of("/error/message"))
        .or_else(|| of("/message"))
        .or_else(|| of("/detail"))
        .or_else(|| of("/title"))
        .or_else(|| of("/error"));
    let message = message.map_or_else(
        || format!("the API behind this answered {status}"),
        |message| message.chars().take(MAX_MESSAGE).collect(),
    );
    let code = ErrorCode::foreign(status);
    let mut details = json!({ "status": status.as_u16() });
    if said.is_object() && said.to_string().len() <= MAX_DETAILS {
        details["answer"] = said;
    }
    let wait = wait(&head.headers, Timestamp::now()).filter(|_| code.is_retryable());
    if let Some(secs) = wait {
        details[WAIT] = json!(secs);
    }
    CallError::new(code, message).with_details(details)
}

/// In how many seconds the API may be asked again, as it says itself: a number or a date (RFC 9110,
/// section 10.2.3).
fn wait(headers: &HeaderMap, now: Timestamp) -> Option<u64> {
    let said = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let secs = match said.parse() {
        Ok(secs) => secs,
        Err(_) => {
            let then = DateTimeParser::new().parse_timestamp(said).ok()?;
            let wait = then.duration_since(now).as_secs();
            u64::try_from(wait).unwrap_or(0)
        }
    };
    Some(secs.min(MAX_WAIT))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_time_to_wait_is_a_number_or_a_date_and_has_an_end() {
        let now: Timestamp = "1994-11-06T08:49:07Z".parse().expect("a time");
        for (said, secs) in [
            ("120", Some(120)),
            ("0", Some(0)),
            ("999999999", Some(MAX_WAIT)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("Tue, 06 Nov 2094 08:49:37 GMT", None),
            ("Sat, 06 Nov 2094 08:49:37 GMT", Some(MAX_WAIT)),
            ("-5", None),
            ("soon", None),
        ] {
            let said = HeaderValue::from_static(said);
            let headers = HeaderMap::from_iter([(RETRY_AFTER, said.clone())]);
            assert_eq!(wait(&headers, now), secs, "{said:?}");
        }
        assert_eq!(wait(&HeaderMap::new(), now), None);
    }
}
