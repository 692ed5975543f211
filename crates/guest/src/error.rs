//! One error for all: what was tried, and what the kernel said.

use std::fmt;
use std::io;

/// Something that could not be done.
#[derive(Debug)]
pub(crate) struct Error {
    tried: String,
    source: io::Error,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.tried, self.source)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Says what was tried when it failed.
pub(crate) trait Context<T> {
    fn context(self, tried: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, tried: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error {
            tried: tried(),
            source: source.into(),
        })
    }
}
