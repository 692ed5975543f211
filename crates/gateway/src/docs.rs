//! The reference for people: a page at `/docs` that writes itself from `/openapi.json`.
//!
//! Its files are part of the program and come from nowhere else, and its policy (Content Security
//! Policy Level 3) lets it speak with this server only. Like an unknown path, it names no software;
//! what there is to know, the document tells whoever may know it.

use axum::body::Body;
use axum::response::Response;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) path: &'static str,
    media_type: &'static str,
    text: &'static str,
}

/// All files of the page.
pub(crate) const FILES: [File; 3] = [
    File {
        path: "/docs",
        media_type: "text/html; charset=utf-8",
        text: include_str!("docs/page.html"),
    },
    File {
        path: "/docs/page.css",
        media_type: "text/css; charset=utf-8",
        text: include_str!("docs/page.css"),
    },
    File {
        path: "/docs/page.js",
        media_type: "text/javascript; charset=utf-8",
        text: include_str!("docs/page.js"),
    },
];

impl File {
    pub(crate) fn answer(self) -> Response {
        let mut response = Response::new(Body::from(self.text));
        let headers = response.headers_mut();
        for (name, value) in [
            (CONTENT_TYPE, self.media_type),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            // It must fit the document, which changes with the program.
            (CACHE_CONTROL, "no-cache"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
