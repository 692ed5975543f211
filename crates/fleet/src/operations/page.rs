//! Pages of lists. A cursor is the id of the last thing on the page before.

use hostler_operations::Call;
use schemars::JsonSchema;
use serde::Deserialize;

/// Which page of a list.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(super) struct Page {
    /// How many at most, 1 to 1000; absent: 100.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<u32>,
    /// Where the page begins, as the answer with the page before said.
    #[serde(default)]
    #[schemars(length(max = 128))]
    cursor: Option<String>,
}

impl Page {
    fn limit(&self) -> u32 {
        self.limit.unwrap_or(100)
    }

    /// One more than the page holds: by it one knows that there is another page.
    pub(super) fn fetch(&self) -> u32 {
        self.limit() + 1
    }

    /// The id after which the page begins.
    pub(super) fn after(&self) -> &str {
        self.cursor.as_deref().unwrap_or_default()
    }

    /// Cuts what was fetched to the page, and tells the caller where the next one begins.
    pub(super) fn cut<T>(&self, call: &Call, fetched: Vec<T>, id: impl Fn(&T) -> &str) -> Vec<T> {
        self.cut_at(call, fetched, |last| id(last).to_owned())
    }

    /// Cuts where a cursor is not an id.
    pub(super) fn cut_at<T>(
        &self,
        call: &Call,
        mut fetched: Vec<T>,
        cursor: impl Fn(&T) -> String,
    ) -> Vec<T> {
        let limit = self.limit() as usize;
        if fetched.len() > limit {
            fetched.truncate(limit);
            if let Some(last) = fetched.last() {
                call.set_next_cursor(cursor(last));
            }
        }
        fetched
    }
}
