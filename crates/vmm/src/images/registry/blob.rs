//! A layer comes over the network: digested and written while it comes, and taken up again where it
//! broke off.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::http::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderValue, RANGE};
use ::http::{HeaderMap, Response, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::http::{PATIENCE, Patience};
use super::{RegistryError, Repository};
use crate::files::{Context as _, StorageError};
use crate::images::blobs::Draft;
use crate::images::digest::{Digest, Hashing};

/// Pieces that wait to be written: what bounds memory.
const PIECES: usize = 8;

type Written = Result<Digest, StorageError>;

/// Writes and digests pieces in their order, on a thread of its own.
fn write(file: &std::fs::File, mut pieces: mpsc::Receiver<Bytes>) -> Written {
    let mut digest = Hashing::new(());
    while let Some(piece) = pieces.blocking_recv() {
        let written = file.write_all_at(&piece, digest.bytes());
        written.context("write", Path::new("a layer in the data directory"))?;
        digest.update(&piece);
    }
    Ok(digest.finish().0)
}

impl Repository {
    /// Fetches a blob into a draft and checks it; `done` counts its bytes.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        draft: &Draft,
        done: &AtomicU64,
    ) -> Result<(), RegistryError> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let file = Arc::clone(&draft.file);
        let writer = tokio::task::spawn_blocking(move || write(&file, receiver));
        let received = self.receive(digest, size, &sender, done).await;
        drop(sender);
        let written = writer
            .await
            .map_err(|error| RegistryError::BrokeOff(error.to_string()))?;
        // A disk that is full explains why nobody received any more.
        let found = match (received, written) {
            (_, Err(storage)) => return Err(storage.into()),
            (received, Ok(found)) => received.map(|()| found)?,
        };
        if found != *digest {
            let wanted = digest.clone();
            return Err(RegistryError::Digest { wanted, found });
        }
        Ok(())
    }

    /// Receives a blob in as many pieces as it takes.
    async fn receive(
        &self,
        digest: &Digest,
        size: u64,
        pieces: &mpsc::Sender<Bytes>,
        done: &AtomicU64,
    ) -> Result<(), RegistryError> {
        let mut received = 0;
        let mut patience = Patience::default();
        while received < size {
            let before = received;
            let progress = self.receive_from(digest, size, &mut received, pieces).await;
            done.fetch_add(received - before, Ordering::Relaxed);
            if received > before {
                patience.renew();
            }
            if let Err(error) = progress {
                patience.after(error).await?;
            }
        }
        Ok(())
    }

    async fn receive_from(
        &self,
        digest: &Digest,
        size: u64,
        received: &mut u64,
        pieces: &mpsc::Sender<Bytes>,
    ) -> Result<(), RegistryError> {
        let mut headers = HeaderMap::new();
        if *received > 0 {
            let range = HeaderValue::try_from(format!("bytes={received}-"));
            headers.extend(range.ok().map(|range| (RANGE, range)));
        }
        let path = format!("blobs/{digest}");
        let response = self.get(&path, &headers).await?;
        let mut to_skip = *received - begins_at(&response, &path, *received, size)?;
        let mut body = response.into_body();
        while *received < size {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
            let frame = match frame.map_err(|_| RegistryError::Slow)? {
                Some(frame) => frame.map_err(|e| RegistryError::BrokeOff(e.to_string()))?,
                None => return Err(RegistryError::BrokeOff("it ended too early".to_owned())),
            };
            let Ok(mut piece) = frame.into_data() else {
                continue;
            };
            let skipped = to_skip.min(piece.len() as u64);
            let piece = piece.split_off(skipped as usize);
            to_skip -= skipped;
            if piece.is_empty() {
                continue;
            }
            let after = *received + piece.len() as u64;
            if after > size {
                return Err(RegistryError::Size {
                    said: size,
                    sent: after,
                });
            }
            *received = after;
            // Nobody writes any more: the disk refused, which the writer tells.
            pieces.send(piece).await.map_err(|_| {
                RegistryError::Protocol(io::Error::from(io::ErrorKind::BrokenPipe).to_string())
            })?;
        }
        Ok(())
    }
}

/// The place in the blob at which an answer begins, which has to fit what its manifest says.
fn begins_at(
    response: &Response<Incoming>,
    path: &str,
    asked: u64,
    size: u64,
) -> Result<u64, RegistryError> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let header = |name| response.headers().get(name)?.to_str().ok();
    let begin = match response.status() {
        StatusCode::OK => 0,
        StatusCode::PARTIAL_CONTENT => header(CONTENT_RANGE)
            .and_then(|range| number(range.strip_prefix("bytes ")?.split('-').next()?))
            .filter(|begin| *begin == asked)
            .ok_or_else(|| RegistryError::Protocol("it sends another part".to_owned()))?,
        status => return Err(RegistryError::of_status(path, status)),
    };
    let announced = header(CONTENT_LENGTH).and_then(number);
    match announced.map(|length| length.saturating_add(begin)) {
        Some(sent) if sent != size => Err(RegistryError::Size { said: size, sent }),
        _ => Ok(begin),
    }
}
