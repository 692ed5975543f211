//! OpenAPI.
use hostler_operations::{Identity, Registry};
use http::HeaderName;
use serde_json::{Value, json};

#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) title: String,
    pub(crate) version: String,
}
impl Default for About {
    fn default() -> Self {
        Self {
            title: "API".to_owned(),
            version: "0.0.0".to_owned(),
        }
    }
}

pub(crate) fn document(
    _: &Registry,
    _: Option<&Identity>,
    about: &About,
    _: &[HeaderName],
) -> Value {
    json!({"openapi": "3.1.0", "info": {"title": about.title, "version": about.version}})
}
