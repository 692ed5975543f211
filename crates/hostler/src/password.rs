//! Passwords on their way to the control plane: typed on the terminal without being seen, or read
//! from a file. Never an argument, which every process of the machine could read.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};

use crate::failure::{Doing, Failure};

/// Nobody types more than this.
const LONGEST: u64 = 4096;
const INTERRUPT: u8 = 3;
const END: u8 = 4;
const BACKSPACE: [u8; 2] = [8, 127];

/// The password in this file (`-`: the standard input), else as it is typed.
pub(crate) fn read(file: Option<&PathBuf>, prompt: &str) -> Result<SecretString, Failure> {
    match file {
        Some(file) => of_file(file),
        None => Terminal::open()?.ask(prompt),
    }
}

/// The same for a new one, which is typed twice.
pub(crate) fn read_new(file: Option<&PathBuf>, prompt: &str) -> Result<SecretString, Failure> {
    let Some(file) = file else {
        let terminal = Terminal::open()?;
        let typed = terminal.ask(prompt)?;
        let again = terminal.ask("once more: ")?;
        if typed.expose_secret() != again.expose_secret() {
            return Err(Failure::new(
                "the two are not the same; nothing was changed",
            ));
        }
        return Ok(typed);
    };
    of_file(file)
}

fn of_file(file: &Path) -> Result<SecretString, Failure> {
    let cannot = || format!("cannot read the password from {}", file.display());
    let mut text = String::new();
    if file == Path::new("-") {
        let stdin = io::stdin().lock();
        stdin
            .take(LONGEST)
            .read_to_string(&mut text)
            .doing(cannot)?;
    } else {
        let file = File::open(file).doing(cannot)?;
        file.take(LONGEST).read_to_string(&mut text).doing(cannot)?;
    }
    // Editors end the last line; a password has no line of its own to end.
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        return Err(Failure::new(format!(
            "{} holds no password",
            file.display()
        )));
    }
    Ok(line.into())
}

/// The terminal of whoever runs this, wherever input and output go.
struct Terminal(File);

/// While this lives, what is typed is not shown and commands nothing.
struct Unseen<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
    }
}

impl Terminal {
    fn open() -> Result<Self, Failure> {
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
        terminal.map(Self).map_err(|_| {
            Failure::new(
                "there is no terminal to ask for a password; give it in a file, or on the standard \
                 input with `--password-file -`",
            )
        })
    }

    fn ask(&self, prompt: &str) -> Result<SecretString, Failure> {
        let mut terminal = &self.0;
        let cannot = || "cannot ask on the terminal";
        let before = tcgetattr(terminal).doing(cannot)?;
        let mut modes = before.clone();
        // Interrupts come as a character, so that the terminal is never left as it is now.
        modes
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        let unseen = Unseen { terminal, before };
        tcsetattr(terminal, OptionalActions::Flush, &modes).doing(cannot)?;
        terminal.write_all(prompt.as_bytes()).doing(cannot)?;
        let typed = line(terminal);
        let _ = terminal.write_all(b"\n");
        drop(unseen);
        typed
    }
}

/// A line of keys, with those that correct or end it.
fn line(mut keys: impl Read) -> Result<SecretString, Failure> {
    let mut typed = Vec::new();
    let mut key = [0];
    loop {
        let read = keys.read(&mut key).doing(|| "cannot read the terminal")?;
        match key[0] {
            _ if read == 0 => break,
            b'\n' | b'\r' => break,
            INTERRUPT => return Err(Failure::new("given up; nothing was changed")),
            END if typed.is_empty() => break,
            key if BACKSPACE.contains(&key) => {
                // A character may be several bytes.
                while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            key => typed.push(key),
        }
    }
    let typed = String::from_utf8(typed).map_err(|_| Failure::new("that is not UTF-8"))?;
    if typed.is_empty() {
        return Err(Failure::new("no password was typed; nothing was changed"));
    }
    Ok(typed.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Result<String, String> {
        match line(keys) {
            Ok(text) => Ok(text.expose_secret().to_owned()),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn keys_correct_and_end_what_is_typed() {
        assert_eq!(typed(b"horse\n").as_deref(), Ok("horse"));
        assert_eq!(
            typed("hö\u{7f}orsee\u{8}\r".as_bytes()).as_deref(),
            Ok("horse")
        );
        assert_eq!(typed(b"\x7f\x7fhorse").as_deref(), Ok("horse"));
        assert!(typed(b"hor\x03se\n").is_err_and(|told| told.contains("given up")));
        assert!(typed(b"\n").is_err() && typed(b"\x04").is_err());
    }

    #[test]
    fn a_password_in_a_file_is_its_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        for (content, password) in [("a b\n", "a b"), ("a b\r\n", "a b"), (" a ", " a ")] {
            std::fs::write(&path, content).expect("written");
            let read = read(Some(&path), "").expect("a password");
            assert_eq!(read.expose_secret(), password);
        }
        for nothing in ["", "\n"] {
            std::fs::write(&path, nothing).expect("written");
            assert!(read_new(Some(&path), "").is_err());
        }
    }
}
