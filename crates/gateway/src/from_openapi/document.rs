//! The document: what it says where, and references within it.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use http::Method;
use serde_json::{Map, Value};
use url::Url;

use super::ImportError;
use crate::input::percent;

/// The largest document, in bytes. The largest that are published have about 10 MiB.
const MAX_BYTES: usize = 16 << 20;
/// The most operations.
const MAX_OPERATIONS: usize = 2000;
/// The most schemas that are taken of one document: those that operations share count for each.
const MAX_TAKEN: usize = 300_000;
/// References to references.
const MAX_HOPS: usize = 16;

pub(super) struct Document {
    root: Value,
    /// How many schemas may still be taken.
    left: Cell<usize>,
}

/// An operation, as the document has it.
pub(super) struct Found<'d> {
    pub(super) method: Method,
    pub(super) path: &'d str,
    /// What all operations of the path share.
    pub(super) item: &'d Map<String, Value>,
    pub(super) operation: &'d Map<String, Value>,
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, ImportError> {
        let wrong = |what: String| ImportError::Document(what);
        if bytes.len() > MAX_BYTES {
            return Err(wrong(format!("it is larger than {MAX_BYTES} bytes")));
        }
        let root: Value =
            serde_json::from_slice(bytes).map_err(|error| wrong(format!("{error}")))?;
        match root.get("openapi").and_then(Value::as_str) {
            Some(version) if version.starts_with("3.0.") || version.starts_with("3.1.") => {}
            Some(other) => {
                return Err(wrong(format!(
                    "its version is {other:?}; 3.0 and 3.1 are read"
                )));
            }
            None => return Err(wrong("it has no field openapi with a version".to_owned())),
        }
        let left = Cell::new(MAX_TAKEN);
        Ok(Self { root, left })
    }

    /// Where the API is, as its first server says.
    pub(super) fn base_url(&self) -> Result<Url, ImportError> {
        let url = self.root.pointer("/servers/0/url").and_then(Value::as_str);
        let url = url.ok_or_else(|| ImportError::BaseUrl("no server is named".to_owned()))?;
        url.parse()
            .map_err(|error| ImportError::BaseUrl(format!("{url:?} is no URL ({error})")))
    }

    pub(super) fn operations(&self) -> Result<Vec<Found<'_>>, ImportError> {
        let paths = self.root.get("paths").and_then(Value::as_object);
        let mut all = Vec::new();
        for (path, item) in paths.into_iter().flatten() {
            let item = self.resolve(item).ok().and_then(Value::as_object);
            let Some(item) = item.filter(|_| path.starts_with('/')) else {
                continue; // An extension (`x-…`), or nothing.
            };
            for (method, operation) in item {
                let method = match method.as_str() {
                    "get" => Method::GET,
                    "put" => Method::PUT,
                    "post" => Method::POST,
                    "delete" => Method::DELETE,
                    "patch" => Method::PATCH,
                    // The rest says nothing that a caller would want to know.
                    _ => continue,
                };
                let Some(operation) = operation.as_object() else {
                    continue;
                };
                all.push(Found {
                    method,
                    path,
                    item,
                    operation,
                });
            }
        }
        match all.len() {
            0 => Err(ImportError::Document("it has no operations".to_owned())),
            n if n > MAX_OPERATIONS => Err(ImportError::Document(format!(
                "it has {n} operations; at most {MAX_OPERATIONS} are taken"
            ))),
            _ => Ok(all),
        }
    }

    /// Counts what an operation takes, in schemas. What one of them may have, two thousand may not.
    pub(super) fn spend(&self, schemas: usize) -> Result<(), String> {
        let left = self.left.get().checked_sub(schemas);
        let left = left.ok_or_else(|| {
            format!("with the operations before it, it takes more than {MAX_TAKEN} schemas")
        })?;
        self.left.set(left);
        Ok(())
    }

    /// What a value stands for: itself, or what it refers to.
    pub(super) fn resolve<'d>(&'d self, mut value: &'d Value) -> Result<&'d Value, String> {
        for _ in 0..MAX_HOPS {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
                return Ok(value);
            };
            value = self.at(reference)?;
        }
        Err("it refers in a circle".to_owned())
    }

    /// What is at a reference (RFC 6901, section 6).
    pub(super) fn at(&self, reference: &str) -> Result<&Value, String> {
        let pointer = reference.strip_prefix('#');
        let pointer = pointer.ok_or_else(|| {
            format!(
                "it refers to {reference:?}, which is elsewhere; only the document itself is read"
            )
        })?;
        let decoded = percent::decode(pointer).unwrap_or(Cow::Borrowed(pointer));
        self.root
            .pointer(&decoded)
            .ok_or_else(|| format!("it refers to {reference:?}, which is not there"))
    }
}

/// As how many schemas a value counts that is no schema but may be large.
pub(super) fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() / 1024,
        Value::Array(items) => items.len() / 16 + items.iter().map(size).sum::<usize>(),
        Value::Object(fields) => {
            let names = fields.keys().map(|name| 1 + name.len() / 1024);
            names.sum::<usize>() + fields.values().map(size).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}
