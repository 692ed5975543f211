//! The decoy: what answers on every path that is not ours.
//!
//! Somebody who knocks without knowing the way shall learn nothing, not even which software this
//! is. Operations that are internal do not exist from outside, so the decoy answers for them too,
//! byte for byte as for any other unknown path.

mod site;

use std::path::PathBuf;

use axum::body::Body;
use axum::response::Response;
use futures::future::BoxFuture;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Method, StatusCode, Uri};
use url::Url;

use site::Site;
pub use site::SiteError;

const NOT_FOUND: &str = "<!DOCTYPE html>\n<html>\n<head><title>404 Not Found</title></head>\n\
                         <body>\n<h1>Not Found</h1>\n\
                         <p>The requested URL was not found on this server.</p>\n\
                         </body>\n</html>\n";

const TOO_MANY: &str = "<!DOCTYPE html>\n<html>\n<head><title>429 Too Many Requests</title></head>\n\
                        <body>\n<h1>Too Many Requests</h1>\n\
                        <p>Please try again later.</p>\n\
                        </body>\n</html>\n";

/// What unknown paths answer.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Decoy {
    /// A plain 404 page that names no software.
    #[default]
    NotFound,
    /// The files of this directory, and the plain 404 page for what is not there. No request
    /// leaves the directory: `..` is refused in every encoding, and symbolic links and hidden
    /// files are not served.
    Site(PathBuf),
    /// A redirect (302) to this address, whatever the path.
    Redirect(Url),
}

/// A decoy that is ready to answer.
pub(crate) enum Ready {
    NotFound,
    Site(Site),
    Redirect(HeaderValue),
}

impl Decoy {
    pub(crate) fn prepare(self) -> Result<Ready, SiteError> {
        match self {
            Self::NotFound => Ok(Ready::NotFound),
            Self::Site(root) => Site::open(root).map(Ready::Site),
            // A parsed URL is ASCII without control characters, so it is a header's value.
            Self::Redirect(to) => {
                Ok(HeaderValue::from_str(to.as_str()).map_or(Ready::NotFound, Ready::Redirect))
            }
        }
    }
}

impl Ready {
    pub(crate) async fn answer(&self, method: &Method, uri: &Uri) -> Response {
        match self {
            Self::Site(site) if [Method::GET, Method::HEAD].contains(method) => {
                look(site, uri).await.unwrap_or_else(not_found)
            }
            Self::Redirect(to) => redirect(StatusCode::FOUND, to.clone()),
            Self::NotFound | Self::Site(_) => not_found(),
        }
    }
}

/// Says its length itself, as other servers do: over HTTP/2 and HTTP/3 nobody else would.
fn redirect(status: StatusCode, to: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(LOCATION, to);
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

/// Boxed here and not where it is awaited: every request would carry the room that it takes.
fn look<'s>(site: &'s Site, uri: &'s Uri) -> BoxFuture<'s, Option<Response>> {
    Box::pin(site.answer(uri))
}

/// What a stranger is told who asks too often, whatever the path.
pub(crate) fn too_often(wait_secs: u64) -> Response {
    let mut response = page(StatusCode::TOO_MANY_REQUESTS, TOO_MANY);
    let wait = HeaderValue::from(wait_secs);
    response.headers_mut().insert(RETRY_AFTER, wait);
    response
}

fn not_found() -> Response {
    page(StatusCode::NOT_FOUND, NOT_FOUND)
}

fn page(status: StatusCode, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}
