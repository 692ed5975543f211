//! How a Firecracker came to its end, as far as it says.
//!
//! Its exit code says it; but only a process that is our own child shows us that, and one that was
//! adopted, or runs in a namespace of its own, is not. Then its log tells: its last line names the
//! code. (Firecracker's `src/vmm/src/lib.rs`, `FcExitCode`, and `src/firecracker/src/main.rs`.)

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use crate::lifecycle::Ending;

/// So much of the log's end is read.
const TAIL: u64 = 4096;

/// What an exit code means, for people; `None` for one that only says that something went wrong.
pub(super) fn meaning(code: i32) -> Option<&'static str> {
    Some(match code {
        148 => "it made a system call that its seccomp filter forbids",
        149 | 150 | 154..=157 => "it was ended by a signal of a fault",
        151 => "a file outgrew its limit",
        152 => "its configuration is wrong",
        153 => "its arguments are wrong",
        _ => return None,
    })
}

/// An exit code in words.
pub(super) fn in_words(code: i32) -> String {
    match meaning(code) {
        Some(meaning) => format!("exit code {code}: {meaning}"),
        None => format!("exit code {code}"),
    }
}

/// What a VM's end was, from the code that its process ended with (if it is known) and the end of
/// its log; `None` when nothing is known but that it is over.
pub(super) fn understand(code: Option<i32>, log: &str) -> Option<Ending> {
    match code.or_else(|| logged_code(log)) {
        // The only end that a guest has: whether it wanted to be off or to begin anew, it resets.
        Some(0) => Some(Ending::GuestReset),
        Some(code) => Some(Ending::Unexpected {
            reason: format!(
                "Firecracker ended with {}{}; start the VM again",
                in_words(code),
                last_words(log)
            ),
        }),
        None => Some(last_words(log))
            .filter(|words| !words.is_empty())
            .map(|words| Ending::Unexpected {
                reason: format!("Firecracker was killed or crashed{words}; start the VM again"),
            }),
    }
}

/// The code that the log ends with, as in `Firecracker exiting successfully. exit_code=0`.
pub(super) fn logged_code(log: &str) -> Option<i32> {
    let last = log.lines().rfind(|line| !line.trim().is_empty())?;
    let (_, code) = last.rsplit_once("exit_code=")?;
    code.trim().parse().ok()
}

/// What the log says last of trouble.
fn last_words(log: &str) -> String {
    let trouble = |line: &&str| {
        let said = line.contains("Error") || line.contains("ERROR") || line.contains("bad syscall");
        said && !line.contains("exit_code=")
    };
    let words = log.lines().rfind(trouble).map(|line| {
        let words: String = line.trim().chars().take(300).collect();
        format!(" ({words})")
    });
    words.unwrap_or_default()
}

/// The end of a log; empty when there is none.
pub(super) fn tail(path: &Path) -> String {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut end = Vec::new();
        file.take(TAIL).read_to_end(&mut end)?;
        Ok(end)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: &str = "2026 [x:main] Running Firecracker\n\
                        2026 [x:main] Firecracker exiting successfully. exit_code=0\n";
    const WRONG: &str = "2026 [x:main] Error: RunWithApi(FailedToBindSocket)\n\
                         2026 [x:main] Firecracker exiting with error. exit_code=1\n";

    fn reason(code: Option<i32>, log: &str) -> String {
        match understand(code, log) {
            Some(Ending::Unexpected { reason }) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_guest_that_ended_itself_is_told_from_a_crash() {
        assert_eq!(understand(Some(0), ""), Some(Ending::GuestReset));
        assert_eq!(understand(None, FINE), Some(Ending::GuestReset));
        assert!(
            reason(None, WRONG).contains("exit code 1 ("),
            "{}",
            reason(None, WRONG)
        );
        assert!(reason(None, WRONG).contains("FailedToBindSocket"));
        assert_eq!(understand(None, ""), None);
        // Killed in the middle of its work, after an earlier process wrote to the same log.
        let killed = format!("{FINE}2026 [x:main] Running Firecracker\n");
        assert_eq!(understand(None, &killed), None);
    }

    #[test]
    fn the_codes_that_mean_something_are_explained() {
        for (code, word) in [(148, "seccomp"), (152, "configuration"), (153, "arguments")] {
            let reason = reason(Some(code), "");
            assert!(
                reason.contains(word) && reason.contains(&code.to_string()),
                "{reason}"
            );
        }
        let bad = "Shutting down VM after intercepting a bad syscall (41).\n";
        assert!(reason(None, bad).contains("bad syscall (41)"));
    }

    #[test]
    fn only_the_end_of_a_log_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "x".repeat(100_000) + "\nend").unwrap();
        assert_eq!(tail(&path).len() as u64, TAIL);
        assert!(tail(&path).ends_with("\nend"));
        assert_eq!(tail(&dir.path().join("none")), "");
    }
}
