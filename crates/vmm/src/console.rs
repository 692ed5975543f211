//! A console's log: what a guest's kernel and init said, the last of it.
//!
//! The guest decides how much it writes, so somebody has to decide how much is kept. The driver's
//! process appends; from time to time the log is cut down to its end. What is written during the
//! cut may be lost, which is the price of a log that needs no process of its own.
//!
//! Who reads on where they stopped counts bytes from the beginning of what this daemon has seen,
//! so that a cut in between costs them nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::files::{Context as _, StorageError};

/// A log longer than this is cut.
const LIMIT: u64 = 1024 * 1024;

/// So much is kept.
const KEEP: u64 = 128 * 1024;

/// The most that is read at one time.
const AT_ONCE: u64 = 64 * 1024;

/// A console's log.
pub(crate) struct Console {
    path: PathBuf,
    /// How many bytes were cut off its beginning since this daemon began.
    cut: Mutex<u64>,
}

/// What was read of a console's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// What is there. The guest wrote it; it may be no text, and hold what a terminal would obey.
    pub bytes: Vec<u8>,
    /// Where to go on.
    pub position: u64,
    /// Whether there was more before it.
    pub truncated: bool,
}

impl Console {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            cut: Mutex::new(0),
        }
    }

    /// Whether the log has grown too long. So quick that it may be asked anywhere.
    pub(crate) fn is_long(&self) -> bool {
        self.path.metadata().is_ok_and(|log| log.len() > LIMIT)
    }

    /// Cuts a log that has grown too long down to its end.
    pub(crate) fn trim(&self) -> Result<(), StorageError> {
        let mut cut = self.cut();
        let mut trim = || -> io::Result<()> {
            let length = self.path.metadata()?.len();
            if length <= LIMIT {
                return Ok(());
            }
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .open(&self.path)?;
            let mut end = Vec::new();
            file.seek(SeekFrom::Start(length - KEEP))?;
            file.read_to_end(&mut end)?;
            file.set_len(0)?;
            file.write_all(&end)?;
            *cut += length - KEEP;
            Ok(())
        };
        match trim() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.context("shorten", &self.path),
        }
    }

    /// The last lines.
    pub(crate) fn tail(&self, lines: usize) -> Result<Reading, StorageError> {
        let cut = self.cut();
        let Some((mut file, length)) = self.open()? else {
            return Ok(Reading {
                position: *cut,
                ..Reading::default()
            });
        };
        let begin = length.saturating_sub(LIMIT);
        let read = (|| {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(begin))?;
            file.take(length - begin).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        })();
        let mut bytes = read.context("read", &self.path)?;
        let from = begin_of_last(&bytes, lines);
        bytes.drain(..from);
        Ok(Reading {
            bytes,
            position: *cut + length,
            truncated: from > 0 || begin > 0,
        })
    }

    /// What was written after a position; a part of it, when it is much.
    pub(crate) fn from(&self, position: u64) -> Result<Reading, StorageError> {
        let cut = self.cut();
        let Some((mut file, length)) = self.open()? else {
            return Ok(Reading {
                position,
                ..Reading::default()
            });
        };
        // What was cut off before anybody read it is gone.
        let begin = position.saturating_sub(*cut).min(length);
        let read = (|| {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(begin))?;
            file.take(AT_ONCE).read_to_end(&mut bytes)?;
            Ok::<_, io::Error>(bytes)
        })();
        let bytes = read.context("read", &self.path)?;
        Ok(Reading {
            position: *cut + begin + bytes.len() as u64,
            truncated: position < *cut,
            bytes,
        })
    }

    fn open(&self) -> Result<Option<(File, u64)>, StorageError> {
        let opened = File::open(&self.path).and_then(|file| {
            let length = file.metadata()?.len();
            Ok((file, length))
        });
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.context("read", &self.path).map(Some),
        }
    }

    fn cut(&self) -> MutexGuard<'_, u64> {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the last so many lines begin.
fn begin_of_last(bytes: &[u8], lines: usize) -> usize {
    if lines == 0 {
        return bytes.len();
    }
    // The end of the last line begins no further one.
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let ends = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n');
    ends.map(|(at, _)| at + 1).nth(lines - 1).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn console() -> (tempfile::TempDir, Console, File) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let writer = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        (dir, Console::new(path), writer)
    }

    #[test]
    fn a_long_log_keeps_its_end_and_its_writer_goes_on() {
        let (_dir, console, mut writer) = console();
        writer.write_all(&vec![b'a'; LIMIT as usize]).unwrap();
        console.trim().unwrap();
        let length = fs::metadata(&console.path).unwrap().len();
        assert_eq!(length, LIMIT, "it was cut too early");

        writer.write_all(b"the end").unwrap();
        console.trim().unwrap();
        writer.write_all(b", and more").unwrap();
        let text = fs::read_to_string(&console.path).unwrap();
        assert_eq!(text.len() as u64, KEEP + ", and more".len() as u64);
        assert!(text.ends_with("aathe end, and more"));
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_no_error() {
        let console = Console::new("/nowhere/console.log".into());
        console.trim().unwrap();
        assert_eq!(console.tail(10).unwrap(), Reading::default());
        assert_eq!(console.from(0).unwrap(), Reading::default());
    }

    #[test]
    fn the_last_lines_are_the_last_lines() {
        let (_dir, console, mut writer) = console();
        writer.write_all(b"one\ntwo\nthree\n").unwrap();
        let tail = |lines| {
            let reading = console.tail(lines).unwrap();
            (String::from_utf8(reading.bytes).unwrap(), reading.truncated)
        };
        assert_eq!(tail(0), (String::new(), true));
        assert_eq!(tail(1), ("three\n".to_owned(), true));
        assert_eq!(tail(2), ("two\nthree\n".to_owned(), true));
        assert_eq!(tail(3), ("one\ntwo\nthree\n".to_owned(), false));
        writer.write_all(b"four").unwrap();
        assert_eq!(tail(1), ("four".to_owned(), true));
        assert_eq!(console.tail(9).unwrap().position, 18);
    }

    #[test]
    fn a_cut_costs_whoever_reads_on_nothing() {
        let (_dir, console, mut writer) = console();
        writer.write_all(b"begin\n").unwrap();
        let begun = console.tail(9).unwrap();
        writer.write_all(&vec![b'x'; LIMIT as usize]).unwrap();
        let mut position = begun.position;
        while let more = console.from(position).unwrap()
            && !more.bytes.is_empty()
        {
            position = more.position;
        }
        writer.write_all(b"before the cut\n").unwrap();
        console.trim().unwrap();
        writer.write_all(b"after it\n").unwrap();
        let rest = console.from(position).unwrap();
        assert_eq!(rest.bytes, b"before the cut\nafter it\n");
        assert!(!rest.truncated);
        // Who has read nothing since long before has missed something, and is told.
        let late = console.from(begun.position).unwrap();
        assert!(late.truncated && !late.bytes.is_empty());
    }
}
