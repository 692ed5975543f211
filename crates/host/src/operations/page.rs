//! Lists by the page: things are ordered by name, and the cursor is the last name of a page.

use hostler_operations::Call;

/// How many a page has when its caller does not say.
const DEFAULT_LIMIT: u32 = 100;
/// How many a page has at most; the inputs' schemas say the same.
pub(super) const MAX_LIMIT: u32 = 1000;

/// The page after `cursor` of `items`, which are in the order of their names. Tells the caller
/// where the next one begins, if there is one.
pub(super) fn page<T>(
    mut items: Vec<T>,
    name: impl Fn(&T) -> &str,
    limit: Option<u32>,
    cursor: Option<&str>,
    call: &Call,
) -> Vec<T> {
    let begin = cursor.map_or(0, |last| items.partition_point(|item| name(item) <= last));
    items.drain(..begin);
    let limit = limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT) as usize;
    if items.len() > limit {
        items.truncate(limit);
        if let Some(last) = items.last() {
            call.set_next_cursor(name(last).to_owned());
        }
    }
    items
}
