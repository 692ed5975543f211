//! Input: path, query string and body, merged into the one JSON value that an operation takes.
//!
//! A path and a query string hold only text. A [`Plan`], made once from the input's schema, says
//! which fields are lists and which are read as numbers or booleans. Text that does not read as
//! such stays text, so that the schema's own check makes the complaint, in the same words as for a
//! body. A field may come from several places as long as they agree.
//!
//! One field may also come as a header, because clients know it as one: `Idempotency-Key`.

mod merge;
pub(crate) mod percent;
mod plan;

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName};

pub(crate) use merge::{InputError, merge};
pub(crate) use plan::{Plan, properties, resolve};

/// The header by which a client names an attempt, so that repeating it does no harm
/// (draft-ietf-httpapi-idempotency-key-header).
pub(crate) const IDEMPOTENCY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// The input field that it fills, in operations that have one.
pub(crate) const IDEMPOTENCY_FIELD: &str = "idempotency_key";

/// The fields that come as headers.
pub(crate) fn from_headers<'h>(
    plan: &Plan,
    headers: &'h HeaderMap,
) -> Result<Vec<(&'static str, Cow<'h, str>)>, InputError> {
    if !plan.has(IDEMPOTENCY_FIELD) {
        return Ok(Vec::new());
    }
    let values = headers.get_all(IDEMPOTENCY_HEADER).iter();
    let texts = values.map(|value| match value.to_str() {
        Ok(text) => Ok((IDEMPOTENCY_FIELD, Cow::Borrowed(text))),
        Err(_) => Err(InputError::HeaderNotAscii(IDEMPOTENCY_HEADER)),
    });
    texts.collect()
}
