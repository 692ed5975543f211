//! Percent-encoding (RFC 3986 section 2.1), strictly: what is not properly encoded UTF-8 is an
//! error, not a guess.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Text that is not percent-encoded UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotEncoded;

/// Decodes one path segment.
pub(crate) fn decode(text: &str) -> Result<Cow<'_, str>, NotEncoded> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let (high, low) = (rest.next().and_then(digit), rest.next().and_then(digit));
            bytes.push(high.ok_or(NotEncoded)? << 4 | low.ok_or(NotEncoded)?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes)
        .map(Cow::Owned)
        .map_err(|_| NotEncoded)
}

/// Splits a query string into its fields, in their order. A `+` is a space there (WHATWG URL,
/// section 5.1).
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = Result<(String, String), NotEncoded>> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode_form(name)?, decode_form(value)?))
        })
}

fn decode_form(text: &str) -> Result<String, NotEncoded> {
    let spaced = text.replace('+', " ");
    decode(&spaced).map(Cow::into_owned)
}

/// Appends `text` so that it can stand anywhere in a URL.
pub(crate) fn encode_into(url: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(url, "%{byte:02X}");
        }
    }
}

fn digit(byte: u8) -> Option<u8> {
    // to_digit(16) is below 16.
    char::from(byte)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_encoded_utf_8_is_an_error() {
        for bad in ["%", "%4", "%zz", "a%f", "%ff", "%c3%28", "%+1"] {
            assert_eq!(decode(bad), Err(NotEncoded), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn text_survives_the_way_through_a_url(name: String, value: String) {
            let mut url = String::new();
            encode_into(&mut url, &name);
            prop_assert_eq!(decode(&url), Ok(Cow::Borrowed(name.as_str())));
            url.push('=');
            encode_into(&mut url, &value);
            prop_assert!(url.is_ascii());
            prop_assert_eq!(pairs(&url).collect::<Vec<_>>(), vec![Ok((name, value))]);
        }

        #[test]
        fn no_text_makes_it_stumble(text: String) {
            let _ = decode(&text);
            let _ = pairs(&text).count();
        }
    }
}
