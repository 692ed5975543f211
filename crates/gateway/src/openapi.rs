//! The OpenAPI 3.1 document, assembled from the registry for the caller who asks.
//!
//! It has every external operation that this caller may use, in both forms of its path, and
//! nothing else. There is no second description to keep in step: the names, schemas, errors and
//! access rules are those by which the calls themselves are judged.

mod components;
mod operation;
mod parameters;
mod responses;

use std::collections::BTreeMap;

use hostler_operations::{Identity, Registry};
use http::HeaderName;
use serde_json::{Map, Value, json};

use components::Components;
pub(crate) use operation::summary;

/// What the document says of the whole API.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) title: String,
    /// Semver.
    pub(crate) version: String,
}

impl Default for About {
    fn default() -> Self {
        Self {
            title: "Operations".to_owned(),
            version: "0.0.0".to_owned(),
        }
    }
}

/// The document for this caller. `credential_headers` are alternatives to the bearer token.
pub(crate) fn document(
    registry: &Registry,
    caller: Option<&Identity>,
    about: &About,
    credential_headers: &[HeaderName],
) -> Value {
    let mut components = Components::default();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut services: Vec<&str> = Vec::new();
    for operation in registry
        .external()
        .filter(|o| o.access().check(caller).is_ok())
    {
        services.push(operation.name().service());
        for form in operation::forms(operation) {
            let described =
                operation::describe(operation, &form, credential_headers, &mut components);
            let method = form.method.as_str().to_ascii_lowercase();
            paths
                .entry(form.path.clone())
                .or_default()
                .insert(method, described);
        }
    }
    services.dedup();
    // Somebody of whom nothing is known does not learn either which software this is.
    let unnamed = About::default();
    let about = if caller.is_some() { about } else { &unnamed };
    let tags: Vec<Value> = services
        .into_iter()
        .map(|name| json!({ "name": name }))
        .collect();
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": { "title": about.title, "version": about.version },
        "servers": [{ "url": "/" }],
        "tags": tags,
        "paths": paths,
        "components": components.finish(security_schemes(credential_headers)),
    })
}

fn security_schemes(credential_headers: &[HeaderName]) -> Map<String, Value> {
    let bearer = json!({
        "type": "http",
        "scheme": "bearer",
        "description": "A token of a user or a program.",
    });
    let headers = credential_headers.iter().map(|name| {
        let scheme = json!({ "type": "apiKey", "in": "header", "name": name.as_str() });
        (name.as_str().to_owned(), scheme)
    });
    [("bearer".to_owned(), bearer)]
        .into_iter()
        .chain(headers)
        .collect()
}
