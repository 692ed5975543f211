//! A static site out of one directory, without a way out of it.
//!
//! The path is taken apart and decoded once; then each segment is opened relative to the directory
//! before it, refusing symbolic links (`O_NOFOLLOW`). The kernel itself walks the way, so there is
//! no moment between a check and its use.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::stream::unfold;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{StatusCode, Uri};
use rustix::fs::{Mode, OFlags, open, openat};
use tokio::io::AsyncReadExt as _;

use super::redirect;
use crate::input::percent;

const CHUNK_BYTES: usize = 64 << 10;

/// Why a directory cannot be a site.
#[derive(Debug, thiserror::Error)]
#[error("the decoy site {} cannot be opened; name a directory that this process may read", .path.display())]
pub struct SiteError {
    /// The directory.
    pub path: PathBuf,
    /// What the system says.
    #[source]
    pub source: io::Error,
}

pub(crate) struct Site {
    root: Arc<OwnedFd>,
}

/// What a path leads to.
enum Entry {
    File {
        file: File,
        length: u64,
        kind: &'static str,
    },
    /// A directory asked for without its closing slash; relative links would go astray.
    Directory,
}

impl Site {
    pub(crate) fn open(path: PathBuf) -> Result<Self, SiteError> {
        match open(
            &path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(root) => Ok(Self {
                root: Arc::new(root),
            }),
            Err(error) => Err(SiteError {
                path,
                source: error.into(),
            }),
        }
    }

    /// The file at the path; `None` when there is none to show.
    pub(crate) async fn answer(&self, uri: &Uri) -> Option<Response> {
        let (root, path) = (Arc::clone(&self.root), uri.path());
        let segments = segments(path)?;
        // Opening files blocks; a full disk cache makes it short, a slow disk must not hold up
        // every other connection of this thread.
        let entry = tokio::task::spawn_blocking(move || find(&root, segments))
            .await
            .ok()??;
        match entry {
            Entry::Directory => {
                // Other servers keep the query too, if there is something in it.
                let query = uri.query().filter(|query| !query.is_empty());
                let query = query.map(|query| format!("?{query}"));
                let to = format!("{path}/{}", query.unwrap_or_default());
                let to = HeaderValue::try_from(to).ok()?;
                Some(redirect(StatusCode::MOVED_PERMANENTLY, to))
            }
            Entry::File { file, length, kind } => {
                let mut response = Response::new(Body::from_stream(chunks(file, length)));
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
                Some(response)
            }
        }
    }
}

/// The decoded segments of a path, when every one of them can be the name of a visible file. The
/// last one is empty for a directory.
fn segments(path: &str) -> Option<Vec<String>> {
    let segments: Vec<String> = path
        .strip_prefix('/')?
        .split('/')
        .map(|segment| percent::decode(segment).map(String::from))
        .collect::<Result<_, _>>()
        .ok()?;
    let last = segments.len() - 1;
    let visible = |(at, name): (usize, &String)| {
        let empty_end = at == last && name.is_empty();
        // A leading dot covers `.`, `..` and hidden files; only RFC 8615's directory is meant to
        // be found.
        let named = !name.is_empty() && (!name.starts_with('.') || name == ".well-known");
        empty_end || (named && !name.contains(['/', '\\', '\0']))
    };
    segments.iter().enumerate().all(visible).then_some(segments)
}

fn find(root: &OwnedFd, segments: Vec<String>) -> Option<Entry> {
    // NONBLOCK: a named pipe without a writer must not hold this thread.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut opened: Option<OwnedFd> = None;
    let (last, parents) = segments.split_last()?;
    for name in parents {
        let parent = opened.as_ref().unwrap_or(root);
        opened = Some(openat(parent, name, flags | OFlags::DIRECTORY, Mode::empty()).ok()?);
    }
    let parent = opened.as_ref().unwrap_or(root);
    let name = if last.is_empty() {
        "index.html"
    } else {
        last.as_str()
    };
    let file = File::from(openat(parent, name, flags, Mode::empty()).ok()?);
    let metadata = file.metadata().ok()?;
    if metadata.is_file() {
        Some(Entry::File {
            file,
            length: metadata.len(),
            kind: media_type(name),
        })
    } else {
        (metadata.is_dir() && !last.is_empty()).then_some(Entry::Directory)
    }
}

/// The file's bytes, no more than it had when it was opened: the length is promised already.
fn chunks(
    file: File,
    length: u64,
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
    let file = tokio::fs::File::from_std(file).take(length);
    unfold(Some((file, length)), |state| async {
        let (mut file, left) = state.filter(|(_, left)| *left > 0)?;
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        match file.read_buf(&mut chunk).await {
            Ok(0) => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
            Ok(read) => Some((Ok(chunk.freeze()), Some((file, left - read as u64)))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

fn media_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        "xml" => "application/xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "pdf" => "application/pdf",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_a_path_names_what_is_hidden_or_above() {
        for bad in [
            "",
            "a",
            "/..",
            "/../etc/passwd",
            "/%2e%2e/etc/passwd",
            "/%2E./x",
            "/a/..%2f..%2fetc",
            "/a%2fb",
            "/a%5cb",
            "/a//b",
            "//a",
            "/.git/config",
            "/%2egit",
            "/a%00.html",
            "/%zz",
            "/.",
        ] {
            assert_eq!(segments(bad), None, "{bad:?}");
        }
        for good in ["/", "/a/b.html", "/a/", "/.well-known/x", "/a%20b"] {
            assert!(segments(good).is_some(), "{good:?}");
        }
    }
}
