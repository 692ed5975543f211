//! An OCI layout in a directory, of which no path and no link leads out.

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::{Files, SourceError};
use crate::images::manifest::MAX_DOCUMENT;

pub(super) struct Directory(File);

impl Directory {
    pub(super) fn new(directory: File) -> Self {
        Self(directory)
    }

    fn open(&self, path: &str) -> Result<(File, u64), SourceError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let problem = |error: std::io::Error| {
            SourceError::Unreadable(format!(
                "it is no OCI layout: {path} cannot be read: {error}"
            ))
        };
        let file = openat2(&self.0, path, flags, Mode::empty(), beneath);
        let file = File::from(file.map_err(|error| problem(error.into()))?);
        let metadata = file.metadata().map_err(problem)?;
        if !metadata.is_file() {
            return Err(SourceError::Unreadable(format!(
                "its {path} is no regular file"
            )));
        }
        Ok((file, metadata.len()))
    }
}

impl Files for Directory {
    fn small(&self, path: &str) -> Result<Vec<u8>, SourceError> {
        let (file, length) = self.open(path)?;
        if length > MAX_DOCUMENT {
            return Err(SourceError::Unreadable(format!("its {path} is too large")));
        }
        let mut bytes = Vec::new();
        let read = file.take(MAX_DOCUMENT).read_to_end(&mut bytes);
        read.map_err(|error| SourceError::Unreadable(format!("{path}: {error}")))?;
        Ok(bytes)
    }

    fn large(&self, path: &str) -> Result<(Arc<File>, u64, u64), SourceError> {
        let (file, length) = self.open(path)?;
        Ok((Arc::new(file), 0, length))
    }
}
