//! What callers ask of a guest, and what makes sense of it. The program in the guest is told only
//! what was checked here.

use std::collections::BTreeMap;
use std::time::Duration;

use super::files::PIECE_BYTES;
use super::protocol::{Exec, MAX_COMMAND, Size, Stage};
use crate::spec::InvalidField;

/// The longest path (limits.h: `PATH_MAX` with its final zero).
const MAX_PATH: usize = 4095;

/// A command to run in a guest, as root.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// The program and its arguments. A program without a slash is looked for in `PATH`.
    pub argv: Vec<String>,
    /// Variables beside `PATH`, `HOME`, `USER` and `LOGNAME`, or instead of these.
    pub env: BTreeMap<String, String>,
    /// The directory to run it in; absent: root's home.
    pub cwd: Option<String>,
    /// The size of the terminal to run it on; absent: on pipes.
    pub terminal: Option<TerminalSize>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// A command to run from its beginning to its end.
#[derive(Debug, Clone)]
pub struct RunCommand {
    /// What to run; on pipes.
    pub command: Command,
    /// What it reads.
    pub stdin: Vec<u8>,
    /// How long it may take; then it is killed with its process group.
    pub timeout: Duration,
    /// How much of each of its two outputs is kept, in bytes; it may write more.
    pub max_output_bytes: usize,
}

/// A piece of a file to write.
#[derive(Debug, Clone)]
pub struct FileWrite {
    /// The file's path in the guest, absolute.
    pub path: String,
    /// At most [`PIECE_BYTES`].
    pub data: Vec<u8>,
    /// Where the piece goes.
    pub place: FilePlace,
    /// What may be done with the file, such as 0o644; absent: as before, 0o644 for a new one.
    pub mode: Option<u32>,
}

/// Where a piece of a file goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilePlace {
    /// It is the whole file, which appears in one step.
    Whole,
    /// Into the file as it is, from this byte on.
    At(u64),
    /// Into a file beside it, from this byte on, which takes the file's place with the last piece.
    Staged {
        /// Names the pieces that belong together: 1 to 40 lower-case letters and digits.
        upload: String,
        /// From this byte on.
        offset: u64,
        /// Whether this is the last piece.
        last: bool,
    },
}

impl Command {
    /// The command as the guest is told it.
    pub(crate) fn checked(self) -> Result<Exec, InvalidField> {
        let Self {
            argv,
            env,
            cwd,
            terminal,
        } = self;
        if argv.first().is_none_or(String::is_empty) {
            return Err(InvalidField::new("argv", "is empty; name a program to run"));
        }
        if let Some(name) = env
            .keys()
            .find(|name| name.is_empty() || name.contains('='))
        {
            let problem =
                format!("has a variable called {name:?}; a name is not empty and has no =");
            return Err(InvalidField::new("env", problem));
        }
        let has_zero = |text: &String| text.contains('\0');
        if argv.iter().any(has_zero) {
            return Err(InvalidField::new(
                "argv",
                "holds a zero byte, which ends an argument",
            ));
        }
        if env
            .iter()
            .any(|(name, value)| has_zero(name) || has_zero(value))
        {
            return Err(InvalidField::new(
                "env",
                "holds a zero byte, which ends a variable",
            ));
        }
        if let Some(cwd) = &cwd {
            check_path("cwd", cwd)?;
        }
        // Each costs the separators too.
        let size = argv
            .iter()
            .map(|argument| argument.len() + 8)
            .sum::<usize>()
            + env
                .iter()
                .map(|(name, value)| name.len() + value.len() + 9)
                .sum::<usize>()
            + cwd.as_ref().map_or(0, String::len);
        if size > MAX_COMMAND {
            let problem = format!(
                "is {size} bytes long with env and cwd; send at most {MAX_COMMAND}, and the rest \
                 through the standard input or a file"
            );
            return Err(InvalidField::new("argv", problem));
        }
        Ok(Exec {
            argv: argv.into_iter().map(String::into_bytes).collect(),
            env: env
                .into_iter()
                .map(|(name, value)| format!("{name}={value}").into_bytes())
                .collect(),
            cwd: cwd.map(String::into_bytes),
            tty: terminal.map(Size::from),
        })
    }
}

impl From<TerminalSize> for Size {
    fn from(size: TerminalSize) -> Self {
        Self {
            rows: size.rows,
            columns: size.columns,
        }
    }
}

pub(crate) fn check_path(field: &'static str, path: &str) -> Result<(), InvalidField> {
    let problem = if !path.starts_with('/') {
        "is not absolute; begin it with /"
    } else if path.contains('\0') {
        "holds a zero byte, which ends a path"
    } else if path.len() > MAX_PATH {
        "is longer than 4095 bytes"
    } else {
        return Ok(());
    };
    Err(InvalidField::new(field, problem))
}

pub(crate) fn check_piece(length: usize) -> Result<(), InvalidField> {
    if length <= PIECE_BYTES {
        return Ok(());
    }
    let problem = format!("is {length} bytes long; send pieces of at most {PIECE_BYTES}");
    Err(InvalidField::new("data", problem))
}

pub(crate) fn check_stage(upload: &str) -> Result<Stage, InvalidField> {
    upload
        .parse()
        .map_err(|()| InvalidField::new("upload", "is not 1 to 40 lower-case letters and digits"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str]) -> Command {
        Command {
            argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
            ..Command::default()
        }
    }

    #[test]
    fn a_command_that_makes_no_sense_is_refused_by_the_field() {
        let field = |command: Command| command.checked().unwrap_err().field;
        assert_eq!(field(command(&[])), "argv");
        assert_eq!(field(command(&[""])), "argv");
        assert_eq!(field(command(&["a\0b"])), "argv");
        assert_eq!(field(command(&[&"x".repeat(MAX_COMMAND)])), "argv");
        for (name, value) in [("", "x"), ("A=B", "x"), ("A", "\0")] {
            let env = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let wrong = Command {
                env,
                ..command(&["x"])
            };
            assert_eq!(field(wrong), "env", "{name:?}");
        }
        for cwd in ["tmp", "", "/\0"] {
            let cwd = Some(cwd.to_owned());
            let wrong = Command {
                cwd,
                ..command(&["x"])
            };
            assert_eq!(field(wrong), "cwd");
        }
    }

    #[test]
    fn the_largest_command_fits_into_a_line() {
        use super::super::protocol::{Line, MAX_LINE, Request};
        for argv in [
            Vec::new(),
            vec!["y".repeat(MAX_COMMAND - 100)],
            vec!["z".to_owned(); 7000],
        ] {
            let argv = [vec!["x".to_owned()], argv].concat();
            let exec = Command {
                argv,
                ..Command::default()
            }
            .checked()
            .unwrap();
            let line = Line {
                id: u64::MAX,
                body: Request::Exec(exec),
            }
            .to_string();
            assert!(line.len() <= MAX_LINE, "{}", line.len());
        }
    }
}
