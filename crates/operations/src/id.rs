//! Fresh ids. There is one for each request, so they are made without asking the kernel for
//! randomness each time.

use std::time::SystemTime;

use rand::RngCore as _;
use uuid::Uuid;

/// A new UUIDv7, ordered by the millisecond (RFC 9562, section 5.7). Its 74 random bits are of a
/// generator that is fit for secrets.
pub(crate) fn fresh() -> Uuid {
    let mut random = [0; 10];
    rand::rng().fill_bytes(&mut random);
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}
