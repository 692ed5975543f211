//! The log: lines in a file, written where the last one ended and not at the file's end, as the
//! real one does.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

pub(crate) struct Log(Mutex<Option<File>>);

impl Log {
    pub(crate) fn open(path: Option<&str>) -> io::Result<Self> {
        Ok(Self(Mutex::new(path.map(open).transpose()?)))
    }

    /// Goes on in another file.
    pub(crate) fn move_to(&self, path: &str) -> io::Result<()> {
        let file = open(path)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    pub(crate) fn line(&self, text: &str) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = format!("2026-01-01T00:00:00.000000000 [standin:main] {text}\n");
        match file.as_mut() {
            Some(file) => drop(file.write_all(line.as_bytes())),
            // Without a file of its own the log is on the console.
            None => print!("{line}"),
        }
    }
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
}
