//! Lists by the page: things are ordered by name, and the cursor is the last name of a page.

use hostler_operations::Call;
use schemars::JsonSchema;
use serde::Deserialize;

/// How many a page has when its caller does not say.
const DEFAULT_LIMIT: u32 = 100;
/// How many a page has at most; the schema of [`Page`] says the same.
const MAX_LIMIT: u32 = 1000;

/// Which page of a list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// How many at most, 1 to 1000; 100 unless said.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
    /// Where the page begins: the cursor that came with the page before.
    #[serde(default)]
    cursor: Option<String>,
}

/// That page of `items`, which are in the order of their names. Tells the caller where the next one
/// begins, if there is one.
pub(super) fn page<T>(
    mut items: Vec<T>,
    name: impl Fn(&T) -> &str,
    Page { limit, cursor }: Page,
    call: &Call,
) -> Vec<T> {
    let begin = cursor.map_or(0, |last| {
        items.partition_point(|item| name(item) <= last.as_str())
    });
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
