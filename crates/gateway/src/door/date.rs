//! The date of an answer (RFC 9110, section 6.6.1). It has seconds, so it is printed once in each.

use std::cell::RefCell;

use http::HeaderValue;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

thread_local! {
    /// The last one, and of which second since 1970 it is.
    static PRINTED: RefCell<(i64, HeaderValue)> =
        const { RefCell::new((i64::MIN, HeaderValue::from_static(""))) };
}

pub(super) fn now() -> HeaderValue {
    let now = Timestamp::now();
    PRINTED.with_borrow_mut(|(second, printed)| {
        if *second != now.as_second() {
            // This century's dates can all be printed, and are text.
            let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&now);
            if let Some(date) = date.ok().and_then(|date| HeaderValue::try_from(date).ok()) {
                (*second, *printed) = (now.as_second(), date);
            }
        }
        printed.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_date_of_this_second() {
        let before = Timestamp::now().as_second();
        let date = now();
        let date = date.to_str().expect("text");
        assert!(date.ends_with(" GMT"), "{date}");
        let parsed = jiff::fmt::rfc2822::parse(date).expect("a date").timestamp();
        assert!((before..=Timestamp::now().as_second()).contains(&parsed.as_second()));
        assert_eq!(now().to_str().expect("text").len(), date.len());
    }
}
