//! Root disks: copies of an image, as large as asked for and as small as possible.
//!
//! Where the file system can share blocks between files, a copy costs nothing; elsewhere only what
//! holds data is copied, and holes stay holes. Then the file is extended, which costs nothing
//! either, and the file system in it is told of its new size.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

use crate::blocking;
use crate::errors::CreateError;
use crate::files::{self, Context as _, StorageError};
use crate::spec::InvalidField;
use crate::tool::Tool;

const MIB: u64 = 1024 * 1024;

/// Makes a disk of `size_mb` MiB at `path` from an image.
pub(crate) async fn make(image: &Path, path: &Path, size_mb: u64) -> Result<(), CreateError> {
    let image_size = image.metadata().context("read", image)?.len();
    let size = size_mb.saturating_mul(MIB);
    if size < image_size {
        let least = image_size.div_ceil(MIB);
        return Err(InvalidField::new(
            "disk_size_mb",
            format!("is {size_mb}; the image needs at least {least}"),
        )
        .into());
    }
    let (from, to) = (image.to_owned(), path.to_owned());
    blocking::run(move || copy_sparse(&from, &to, size)).await?;
    if size > image_size {
        Tool::new("resize2fs").arg(path).run().await?;
    }
    let path = path.to_owned();
    blocking::run(move || flush(&path)).await?;
    Ok(())
}

fn flush(path: &Path) -> Result<(), StorageError> {
    File::open(path)
        .and_then(|file| file.sync_data())
        .context("write", path)
}

/// Copies a file without its holes, and gives the copy at least this size.
pub(crate) fn copy_sparse(from: &Path, to: &Path, size: u64) -> Result<(), StorageError> {
    Copy::begin(from, to, size)?.finish()
}

/// A copy of a file in the making: as long as it will be, and empty.
pub(crate) struct Copy {
    source: File,
    target: File,
    to: PathBuf,
}

impl Copy {
    /// Begins a copy of at least this size.
    pub(crate) fn begin(from: &Path, to: &Path, size: u64) -> Result<Self, StorageError> {
        let source = File::open(from).context("read", from)?;
        let length = source.metadata().context("read", from)?.len().max(size);
        let target = files::create_private(to)?;
        target.set_len(length).context("write", to)?;
        Ok(Self {
            source,
            target,
            to: to.to_owned(),
        })
    }

    /// Copies what the file holds, without its holes.
    fn finish(&self) -> Result<(), StorageError> {
        if ioctl_ficlone(&self.target, &self.source).is_err() {
            copy_data(&self.source, &self.target).context("write", &self.to)?;
        }
        Ok(())
    }

    /// The same, and the copy survives a loss of power.
    pub(crate) fn finish_flushed(&self) -> Result<(), StorageError> {
        self.finish()?;
        self.target.sync_data().context("write", &self.to)
    }
}

/// Copies each stretch of data to its place.
fn copy_data(source: &File, target: &File) -> io::Result<()> {
    let mut position = 0;
    loop {
        let data = match seek(source, SeekFrom::Data(position)) {
            Ok(data) => data,
            // Nothing but a hole, or the end.
            Err(Errno::NXIO) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        position = seek(source, SeekFrom::Hole(data))?;
        copy_stretch(source.as_fd(), target.as_fd(), data, position)?;
    }
}

fn copy_stretch(source: impl AsFd, target: impl AsFd, mut start: u64, end: u64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while start < end {
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        match copy_file_range(&source, Some(&mut from), &target, Some(&mut to), length) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(copied) => start += copied as u64,
            // Two file systems that the kernel cannot copy between by itself.
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL) => {
                return copy_by_hand(&source, &target, start, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: impl AsFd, target: impl AsFd, mut start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    while start < end {
        let room = usize::try_from(end - start)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = rustix::io::pread(&source, &mut buffer[..room], start)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut written = 0;
        while written < read {
            let position = start + written as u64;
            written += rustix::io::pwrite(&target, &buffer[written..read], position)?;
        }
        start += read as u64;
    }
    Ok(())
}

/// A file that never changes again at another place: the same file where that works, a copy where
/// it does not.
pub(crate) fn place(from: &Path, to: PathBuf) -> Result<(), StorageError> {
    match std::fs::hard_link(from, &to) {
        Ok(()) => Ok(()),
        Err(_) => copy_sparse(from, &to, 0),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use proptest::prelude::*;

    use super::*;

    /// Data at some places of a file of 8 MiB.
    fn holey_file(path: &Path, places: &[u64]) {
        let file = File::create(path).unwrap();
        file.set_len(8 * MIB).unwrap();
        for place in places {
            file.write_all_at(b"some data", *place).unwrap();
        }
        file.sync_all().unwrap();
    }

    #[test]
    fn holes_stay_holes_and_the_copy_has_the_size_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        holey_file(&from, &[0, 5 * MIB]);
        copy_sparse(&from, &to, 64 * MIB).unwrap();
        let metadata = fs::metadata(&to).unwrap();
        assert_eq!(metadata.len(), 64 * MIB);
        assert!(
            metadata.blocks() * 512 < MIB,
            "{} blocks are taken",
            metadata.blocks()
        );
    }

    #[tokio::test]
    async fn an_image_never_loses_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        holey_file(&from, &[0]);
        let to = dir.path().join("to");
        let error = make(&from, &to, 7).await.unwrap_err();
        assert!(matches!(error, CreateError::Invalid(_)), "{error}");
        assert!(!to.exists());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::long::cases(32)))]
        #[test]
        fn the_copy_holds_what_the_file_holds(
            places in prop::collection::vec(0..8 * MIB - 16, 0..8),
            by_hand: bool,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (from, to) = (dir.path().join("from"), dir.path().join("to"));
            holey_file(&from, &places);
            if by_hand {
                let (source, target) = (File::open(&from).unwrap(), File::create(&to).unwrap());
                copy_by_hand(&source, &target, 0, 8 * MIB).unwrap();
            } else {
                copy_sparse(&from, &to, 0).unwrap();
            }
            prop_assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        }
    }
}
