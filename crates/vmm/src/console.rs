//! A console's log: what a guest's kernel and init said, the last of it.
//!
//! The guest decides how much it writes, so somebody has to decide how much is kept. The driver's
//! process appends; from time to time the log is cut down to its end. What is written during the
//! cut may be lost, which is the price of a log that needs no process of its own.

use std::fs::OpenOptions;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::files::{Context as _, StorageError};

/// A log longer than this is cut.
const LIMIT: u64 = 1024 * 1024;

/// So much is kept.
const KEEP: u64 = 128 * 1024;

/// Cuts a log that has grown too long down to its end.
pub(crate) fn trim(path: &Path) -> Result<(), StorageError> {
    let cut = || -> io::Result<()> {
        if path.metadata()?.len() <= LIMIT {
            return Ok(());
        }
        let mut file = OpenOptions::new().read(true).append(true).open(path)?;
        let mut end = Vec::new();
        file.seek(SeekFrom::End(-(KEEP as i64)))?;
        file.read_to_end(&mut end)?;
        file.set_len(0)?;
        file.write_all(&end)
    };
    match cut() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.context("shorten", path),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_long_log_keeps_its_end_and_its_writer_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut writer = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        writer.write_all(&vec![b'a'; LIMIT as usize]).unwrap();
        trim(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().len(),
            LIMIT,
            "it was cut too early"
        );

        writer.write_all(b"the end").unwrap();
        trim(&path).unwrap();
        writer.write_all(b", and more").unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.len() as u64, KEEP + ", and more".len() as u64);
        assert!(text.ends_with("aathe end, and more"));
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_no_error() {
        trim(Path::new("/nowhere/console.log")).unwrap();
    }
}
