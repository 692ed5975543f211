//! Files of the image, a piece at a time.
//!
//! Paths are the image's, and so are the links on the way: they are followed as if the root disk
//! were the root (openat2(2), `RESOLVE_IN_ROOT`), because that is what it is to everybody else in
//! here.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, openat2, statat,
};
use rustix::io::Errno;

use super::staging::STAGING;
use crate::protocol::{CHUNK, Refusal, Refused, Reply, Request, Stage};

/// What a new file may be done with when nobody says.
const DEFAULT_MODE: u32 = 0o644;

/// The bits of a mode that are permissions.
const PERMISSIONS: u32 = 0o7777;

/// Does what the host asks of a file.
pub(super) fn answer(request: Request) -> Reply {
    let answered = match request {
        Request::Read {
            path,
            offset,
            length,
        } => read(&path, offset, length as usize),
        Request::Write {
            path,
            offset,
            data,
            stage: None,
        } => write(&path, offset, &data),
        Request::Write {
            path,
            offset,
            data,
            stage: Some(stage),
        } => write_staged(&path, offset, &data, &stage),
        Request::Commit { path, stage, mode } => commit(&path, &stage, mode),
        Request::Discard { path, stage } => Ok(discard(&path, &stage)),
        _ => Err(Errno::NOSYS.into()),
    };
    answered.unwrap_or_else(|error| Reply::Refused(refused(&error)))
}

fn refused(error: &io::Error) -> Refused {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => Refusal::NotFound,
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => Refusal::Invalid,
        io::ErrorKind::InvalidInput => Refusal::Invalid,
        _ => Refusal::System,
    };
    let reason = error.to_string();
    // The number means nothing to whoever reads it.
    let reason = reason.split(" (os error").next().unwrap_or(&reason);
    Refused {
        kind,
        reason: reason.to_owned(),
    }
}

fn read(path: &[u8], offset: u64, length: usize) -> io::Result<Reply> {
    let (file, metadata) = open(path, OFlags::RDONLY)?;
    let mut data = vec![0; length.min(CHUNK)];
    let mut filled = 0;
    while filled < data.len() {
        match file.read_at(&mut data[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    data.truncate(filled);
    Ok(Reply::Content {
        size: metadata.size(),
        mode: metadata.mode() & PERMISSIONS,
        data,
    })
}

fn write(path: &[u8], offset: u64, data: &[u8]) -> io::Result<Reply> {
    let (file, _) = open(path, OFlags::WRONLY | OFlags::CREATE)?;
    file.write_all_at(data, offset)?;
    Ok(Reply::Done)
}

fn write_staged(path: &[u8], offset: u64, data: &[u8], stage: &Stage) -> io::Result<Reply> {
    let (directory, _) = parent(path)?;
    STAGING.write(path, stage, directory, offset, data)?;
    Ok(Reply::Done)
}

/// Puts the staged file in its place. It takes over owner and mode of the file that was there,
/// unless a mode is given.
fn commit(path: &[u8], stage: &Stage, mode: Option<u32>) -> io::Result<Reply> {
    let (_, name) = parent(path)?;
    let staged = STAGING.take(path, stage)?;
    let before = match statat(staged.directory(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => Some(stat),
        Ok(_) => None,
        Err(Errno::NOENT) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(stat) = &before {
        let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        fchown(staged.file(), Some(owner), Some(group))?;
    }
    let kept = before.map_or(DEFAULT_MODE, |stat| stat.st_mode & PERMISSIONS);
    fchmod(staged.file(), Mode::from(mode.unwrap_or(kept)))?;
    staged.file().sync_all()?;
    staged.place(name)?;
    Ok(Reply::Done)
}

fn discard(path: &[u8], stage: &Stage) -> Reply {
    // One that is not there is discarded.
    STAGING.discard(path, stage);
    Reply::Done
}

/// Opens a regular file. What else there is (a device, a pipe) could keep us waiting for ever, or
/// worse; without blocking it is opened, seen and let go.
fn open(path: &[u8], flags: OFlags) -> io::Result<(File, std::fs::Metadata)> {
    let mode = if flags.contains(OFlags::CREATE) {
        Mode::from(DEFAULT_MODE)
    } else {
        Mode::empty()
    };
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat2(CWD, path, flags, mode, ResolveFlags::IN_ROOT)?);
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        let reason = "it is not a regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    Ok((file, metadata))
}

/// The directory that a file is in, and the file's name there.
fn parent(path: &[u8]) -> io::Result<(OwnedFd, &[u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/');
    let (directory, name) = match at {
        Some(at) => (&path[..=at], &path[at + 1..]),
        None => (&b"/"[..], path),
    };
    if name.is_empty() || name == b"." || name == b".." {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat2(CWD, directory, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    Ok((directory, name))
}
