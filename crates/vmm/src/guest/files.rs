//! Files of a guest, in pieces.

use super::errors::GuestProblem;
use super::protocol::{CHUNK, Reply, Request, Stage};
use super::{FLUSHED, Guest, unexpected};

/// The most of a file that is read or written at one time, in bytes.
pub const PIECE_BYTES: usize = 512 * 1024;

/// A piece of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePiece {
    /// Its content.
    pub data: Vec<u8>,
    /// The size of the whole file in bytes, as it was with the last of the piece.
    pub size: u64,
    /// What may be done with the file, such as 0o644.
    pub mode: u32,
    /// Whether the file ends with the piece.
    pub end: bool,
}

/// What was staged is removed unless it was put in its place.
struct Staged<'a> {
    path: &'a [u8],
    stage: Stage,
}

impl Guest {
    /// Reads a piece of a file.
    pub(crate) async fn read_file(
        &self,
        path: &str,
        offset: u64,
        length: usize,
    ) -> Result<FilePiece, GuestProblem> {
        let length = length.min(PIECE_BYTES);
        let mut piece = FilePiece {
            data: Vec::new(),
            size: 0,
            mode: 0,
            end: false,
        };
        loop {
            let left = (length - piece.data.len()).min(CHUNK);
            let request = Request::Read {
                path: path.as_bytes().to_vec(),
                offset: offset.saturating_add(piece.data.len() as u64),
                length: left as u32,
            };
            match self.ask_promptly(request).await? {
                Reply::Content { size, mode, data } if data.len() <= left => {
                    piece.size = size;
                    piece.mode = mode;
                    // Files of the kernel's say that they are empty and are not.
                    piece.end = data.len() < left;
                    piece.data.extend_from_slice(&data);
                }
                other => return Err(unexpected(other)),
            }
            if piece.end || piece.data.len() == length {
                return Ok(piece);
            }
        }
    }

    /// Writes into a file as it is.
    pub(crate) async fn write_into_file(
        &self,
        path: &str,
        offset: u64,
        data: &[u8],
    ) -> Result<(), GuestProblem> {
        self.write(path, offset, data, None).await
    }

    /// Makes `data` the whole content of a file, in one step.
    pub(crate) async fn replace_file(
        &self,
        path: &str,
        data: &[u8],
        mode: Option<u32>,
    ) -> Result<(), GuestProblem> {
        let stage = format!("{:032x}", rand::random::<u128>());
        let stage: Stage = stage.parse().map_err(|()| GuestProblem::Nonsense)?;
        self.stage(path, 0, data, &stage, Some(mode)).await
    }

    /// Writes a piece of what will be a file; with the last one (`commit`, and the file's mode) it
    /// is. What was staged is gone when that fails.
    pub(crate) async fn stage(
        &self,
        path: &str,
        offset: u64,
        data: &[u8],
        stage: &Stage,
        commit: Option<Option<u32>>,
    ) -> Result<(), GuestProblem> {
        let staged = Staged {
            path: path.as_bytes(),
            stage: stage.clone(),
        };
        let written = async {
            self.write(path, offset, data, Some(stage)).await?;
            let Some(mode) = commit else {
                return Ok(());
            };
            let commit = Request::Commit {
                path: path.as_bytes().to_vec(),
                stage: stage.clone(),
                mode,
            };
            of_done(self.ask_within(FLUSHED, commit).await?)
        };
        let written = written.await;
        if written.is_err() {
            // What the first thing that went wrong was is what the caller should read.
            let _ = self.discard(staged).await;
        }
        written
    }

    async fn discard(&self, Staged { path, stage }: Staged<'_>) -> Result<(), GuestProblem> {
        let path = path.to_vec();
        self.done(Request::Discard { path, stage }).await
    }

    async fn write(
        &self,
        path: &str,
        offset: u64,
        data: &[u8],
        stage: Option<&Stage>,
    ) -> Result<(), GuestProblem> {
        let mut at = 0;
        loop {
            let piece = &data[at..data.len().min(at + CHUNK)];
            self.done(Request::Write {
                path: path.as_bytes().to_vec(),
                offset: offset.saturating_add(at as u64),
                data: piece.to_vec(),
                stage: stage.cloned(),
            })
            .await?;
            at += piece.len();
            // An empty file is written too.
            if at == data.len() {
                return Ok(());
            }
        }
    }

    async fn done(&self, request: Request) -> Result<(), GuestProblem> {
        of_done(self.ask_promptly(request).await?)
    }
}

fn of_done(reply: Reply) -> Result<(), GuestProblem> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}
