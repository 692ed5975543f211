//! The `Link` header of a list that has more (RFC 8288): the same request, further on.

use std::collections::BTreeSet;

use hostler_operations::{Kind, Registered};
use http::HeaderValue;
use serde_json::Value;

use crate::input::{self, percent};

/// The input field that says where a page begins.
pub(crate) const CURSOR: &str = "cursor";

/// Whether an operation's answers come in pages.
pub(crate) fn pages(operation: &Registered) -> bool {
    operation.kind() == Kind::Query
        && input::properties(operation.input_schema().as_value())
            .iter()
            .any(|(name, _)| *name == CURSOR)
}

/// The address of a request without its cursor, kept while the call runs.
pub(crate) struct Page(String);

impl Page {
    /// Remembers the path, and every input field that is not in the path as a part of the query
    /// string, wherever it came from: the next page can be fetched with GET alone.
    pub(crate) fn new(path: &str, path_fields: &[String], input: &Value) -> Self {
        let mut url = format!("{path}?");
        let path_fields: BTreeSet<&str> = path_fields.iter().map(String::as_str).collect();
        for (name, value) in input.as_object().into_iter().flatten() {
            if name == CURSOR || path_fields.contains(name.as_str()) || value.is_null() {
                continue;
            }
            for value in value
                .as_array()
                .map_or(std::slice::from_ref(value), Vec::as_slice)
            {
                percent::encode_into(&mut url, name);
                url.push('=');
                match value {
                    Value::String(text) => percent::encode_into(&mut url, text),
                    other => percent::encode_into(&mut url, &other.to_string()),
                }
                url.push('&');
            }
        }
        Self(url)
    }

    /// The header's value. `None` only if the request's path held what no header may.
    pub(crate) fn next(self, cursor: &str) -> Option<HeaderValue> {
        let Self(mut url) = self;
        url.push_str(CURSOR);
        url.push('=');
        percent::encode_into(&mut url, cursor);
        HeaderValue::try_from(format!("<{url}>; rel=\"next\"")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_next_page_keeps_every_other_parameter() {
        let input = json!({"shelf": "a b", "limit": 2, "tag": ["x", "y&z"], "cursor": "old",
                           "until": null});
        let page = Page::new("/v1/shelves/a%20b/books", &["shelf".to_owned()], &input);
        let link = page.next("n=1").expect("a header");
        assert_eq!(
            link,
            "</v1/shelves/a%20b/books?limit=2&tag=x&tag=y%26z&cursor=n%3D1>; rel=\"next\""
        );
    }
}
