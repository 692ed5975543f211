//! What host and guest say to each other.
//!
//! One request or reply is one line of words: a number, a verb, then what the verb needs. Bytes
//! (arguments, paths, what programs read and write) are base64, so a line break is always the end
//! of a message, and whoever comes into the middle of a conversation understands the next line.
//! Each end compiles this file, so there is one definition.
//!
//! ```text
//! host     1 hello                 2 poweroff 2000          3 clock 1764110000000000000
//! guest    1 hello 2               2 done                   3 done
//!
//! host     7 exec arg=L2Jpbi9scw== arg=LWw= env=QT0x cwd=L3RtcA== tty=24x80
//! guest    7 started       7 out dG90YWw=      7 err b29wcw==       7 exited 0  (7 killed 9)
//! host     7 in aGVsbG8=   7 eof   7 resize 50x132   7 credit 4096   7 kill
//! guest    7 credit 256
//!
//! host     8 read path=L2V0Yy9ob3N0cw== offset=0 length=32768
//! guest    8 content size=57 mode=644 data=MTI3...
//! host     9 write path=L3RtcC94 offset=0 data=aGk= stage=k3j9     10 commit path=L3RtcC94 stage=k3j9
//! guest    9 done                                                  10 done
//! ```
//!
//! # What a guest must do
//!
//! - **A conversation** begins with `hello`, after a line break that ends what an earlier host may
//!   have left half said. The reply is the guest's [`VERSION`]; a guest of version 1 knows `hello`
//!   and `poweroff`, and that is how an older one is told apart. Commands end with the conversation:
//!   a `hello`, or a host that hangs up, kills those of the one before.
//! - **Numbers** are the host's, begin anywhere, and are never used twice. A reply has its
//!   request's; a line for a number that is not known is ignored, by both ends.
//! - **A request that is not known** is answered with `failed REASON`. One that cannot be done is
//!   answered with `refused KIND REASON`, see [`Refusal`].
//! - **A command** is a conversation of its own under the number of its `exec`: `started` comes
//!   first, `exited` or `killed` last, and output that was written before the end before that. A
//!   program that is not there has started all the same: it exits with 127, one that may not be run
//!   with 126, and its `err` says why, as with a shell. `kill` kills its process group. With `tty` it
//!   runs on a terminal of its own, whose output is all `out`. At most [`MAX_COMMANDS`] run at once;
//!   one more is refused as busy.
//! - **Flow control**: an end may have sent [`WINDOW`] bytes of a command's data that the other end
//!   has not given back with `credit`. A message of data costs its length, but at least
//!   [`MIN_COST`], so small ones cannot pile up either; see [`cost`]. Whoever sends more than it may
//!   has broken the conversation of that command, and the other end ends it.
//! - **Files** are read and written in pieces, each of them a request. With `stage` a piece goes into
//!   what will be the named file, from offset 0 on; `commit` puts it in its place in one step, and
//!   `discard` removes it. Until then nobody sees it, and it is given up when no piece comes for
//!   ten minutes: the next is refused as not found then. A `discard` that comes while a `commit` is
//!   still flushing keeps the file from its place; once that is answered, the file does not change
//!   any more. Without `stage` a piece goes into the file itself. Only regular files are read and
//!   written.

#![allow(dead_code, reason = "each end uses its own half")]

use std::fmt;
use std::str::FromStr;

use base64::prelude::{BASE64_STANDARD, Engine as _};

/// The name of the virtio serial port that the conversation goes through.
pub(crate) const PORT_NAME: &str = "org.hostler.guest.0";

/// The port of the vsock that the conversation goes through where there is no such serial port.
pub(crate) const VSOCK_PORT: u32 = 1024;

/// The version of this protocol; it rises when a verb is added or changes its meaning.
pub(crate) const VERSION: u32 = 2;

/// The first version that runs commands and moves files.
pub(crate) const WITH_COMMANDS: u32 = 2;

/// The longest line, in bytes, without its end.
pub(crate) const MAX_LINE: usize = 128 * 1024;

/// The most bytes in one message of data; as base64 they fit into a line.
pub(crate) const CHUNK: usize = 32 * 1024;

/// What one end may have on its way to the other for one command, in bytes.
pub(crate) const WINDOW: u32 = 128 * 1024;

/// What a message of data costs at least.
pub(crate) const MIN_COST: u32 = 256;

/// Commands at one time.
pub(crate) const MAX_COMMANDS: usize = 32;

/// The most that a command's arguments, variables and directory may have together, in bytes: as
/// base64 they fit into a line.
pub(crate) const MAX_COMMAND: usize = 64 * 1024;

/// What a message with so many bytes of data takes from the window.
pub(crate) fn cost(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX).max(MIN_COST)
}

/// What the host asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Are you there, and what do you speak?
    Hello,
    /// End the guest: processes get this many milliseconds to finish, disks are flushed.
    PowerOff { grace_ms: u32 },
    /// It is so late, in nanoseconds since 1970 (UTC).
    Clock { unix_nanos: u64 },
    /// Run a command.
    Exec(Exec),
    /// Bytes for a command to read.
    In(Vec<u8>),
    /// There is nothing more for a command to read.
    Eof,
    /// A command's output was taken; so much more may come.
    Credit(u32),
    /// The window of a command's terminal has another size.
    Resize(Size),
    /// Kill a command.
    Kill,
    /// A piece of a file.
    Read {
        path: Vec<u8>,
        offset: u64,
        length: u32,
    },
    /// Write a piece of a file, or of what will be the file.
    Write {
        path: Vec<u8>,
        offset: u64,
        data: Vec<u8>,
        stage: Option<Stage>,
    },
    /// Put what was staged in the file's place. Absent, its mode is the old file's, else 644.
    Commit {
        path: Vec<u8>,
        stage: Stage,
        mode: Option<u32>,
    },
    /// Forget what was staged.
    Discard { path: Vec<u8>, stage: Stage },
}

/// A command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Exec {
    /// The program, by its path or looked for in `PATH`, and its arguments.
    pub(crate) argv: Vec<Vec<u8>>,
    /// Variables, `NAME=VALUE`, beside those that every command has.
    pub(crate) env: Vec<Vec<u8>>,
    /// Where it runs; absent: root's home.
    pub(crate) cwd: Option<Vec<u8>>,
    /// The size of its terminal; absent: it has none.
    pub(crate) tty: Option<Size>,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// Which of the files that are being put together: 1 to 40 lower-case letters and digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stage(String);

/// What the guest replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Hello {
        version: u32,
    },
    Done,
    /// The request is not known.
    Failed {
        reason: String,
    },
    /// The request cannot be done.
    Refused(Refused),
    /// A command runs.
    Started,
    /// A command wrote to its standard output, or to its terminal.
    Out(Vec<u8>),
    /// A command wrote to its standard error.
    Err(Vec<u8>),
    /// A command took what there was to read; so much more may come.
    Credit(u32),
    /// A command ended by itself.
    Exited {
        code: u8,
    },
    /// A command was ended by a signal.
    Killed {
        signal: u8,
    },
    /// A piece of a file, and what the whole file is.
    Content {
        size: u64,
        mode: u32,
        data: Vec<u8>,
    },
}

/// Why a request cannot be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) kind: Refusal,
    pub(crate) reason: String,
}

/// Of which kind a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is no such file.
    NotFound,
    /// The request makes no sense for what is there: a directory is no file.
    Invalid,
    /// As much as can be is going on already.
    Busy,
    /// The guest's system said no: no space, no permission, a read-only file system.
    System,
}

/// A line with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line<T> {
    pub(crate) id: u64,
    pub(crate) body: T,
}

/// A line that is none of ours. The number is there when it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unknown {
    pub(crate) id: Option<u64>,
    pub(crate) text: String,
}

impl Stage {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Stage {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let sound = (1..=40).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        if sound {
            Ok(Self(text.to_owned()))
        } else {
            Err(())
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.rows, self.columns)
    }
}

impl FromStr for Size {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (rows, columns) = text.split_once('x').ok_or(())?;
        Ok(Self {
            rows: number(rows)?,
            columns: number(columns)?,
        })
    }
}

const REFUSALS: [(Refusal, &str); 4] = [
    (Refusal::NotFound, "not-found"),
    (Refusal::Invalid, "invalid"),
    (Refusal::Busy, "busy"),
    (Refusal::System, "system"),
];

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = REFUSALS.iter().find(|(kind, _)| kind == self);
        f.write_str(word.map_or("system", |(_, word)| word))
    }
}

impl FromStr for Refusal {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let found = REFUSALS.iter().find(|(_, word)| *word == text);
        found.map(|(kind, _)| *kind).ok_or(())
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello => write!(f, "hello"),
            Self::PowerOff { grace_ms } => write!(f, "poweroff {grace_ms}"),
            Self::Clock { unix_nanos } => write!(f, "clock {unix_nanos}"),
            Self::Exec(exec) => exec.fmt(f),
            Self::In(data) => write!(f, "in {}", encoded(data)),
            Self::Eof => write!(f, "eof"),
            Self::Credit(bytes) => write!(f, "credit {bytes}"),
            Self::Resize(size) => write!(f, "resize {size}"),
            Self::Kill => write!(f, "kill"),
            Self::Read {
                path,
                offset,
                length,
            } => {
                let path = encoded(path);
                write!(f, "read path={path} offset={offset} length={length}")
            }
            Self::Write {
                path,
                offset,
                data,
                stage,
            } => {
                let (path, data) = (encoded(path), encoded(data));
                write!(f, "write path={path} offset={offset} data={data}")?;
                stage.as_ref().map_or(Ok(()), |s| write!(f, " stage={s}"))
            }
            Self::Commit { path, stage, mode } => {
                write!(f, "commit path={} stage={stage}", encoded(path))?;
                mode.map_or(Ok(()), |mode| write!(f, " mode={mode:o}"))
            }
            Self::Discard { path, stage } => {
                write!(f, "discard path={} stage={stage}", encoded(path))
            }
        }
    }
}

impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("exec")?;
        for argument in &self.argv {
            write!(f, " arg={}", encoded(argument))?;
        }
        for variable in &self.env {
            write!(f, " env={}", encoded(variable))?;
        }
        if let Some(cwd) = &self.cwd {
            write!(f, " cwd={}", encoded(cwd))?;
        }
        self.tty.map_or(Ok(()), |size| write!(f, " tty={size}"))
    }
}

impl FromStr for Request {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let nothing = |request: Self| {
            if rest.is_empty() {
                Ok(request)
            } else {
                Err(())
            }
        };
        match verb {
            "hello" => nothing(Self::Hello),
            "poweroff" => Ok(Self::PowerOff {
                grace_ms: number(rest)?,
            }),
            "clock" => Ok(Self::Clock {
                unix_nanos: number(rest)?,
            }),
            "exec" => rest.parse().map(Self::Exec),
            "in" => decoded(rest).map(Self::In),
            "eof" => nothing(Self::Eof),
            "credit" => number(rest).map(Self::Credit),
            "resize" => rest.parse().map(Self::Resize),
            "kill" => nothing(Self::Kill),
            "read" => Fields::of(rest)?.finish(|fields| {
                Ok(Self::Read {
                    path: decoded(fields.one("path")?)?,
                    offset: number(fields.one("offset")?)?,
                    length: number(fields.one("length")?)?,
                })
            }),
            "write" => Fields::of(rest)?.finish(|fields| {
                Ok(Self::Write {
                    path: decoded(fields.one("path")?)?,
                    offset: number(fields.one("offset")?)?,
                    data: decoded(fields.one("data")?)?,
                    stage: fields.optional("stage")?.map(str::parse).transpose()?,
                })
            }),
            "commit" => Fields::of(rest)?.finish(|fields| {
                Ok(Self::Commit {
                    path: decoded(fields.one("path")?)?,
                    stage: fields.one("stage")?.parse()?,
                    mode: fields.optional("mode")?.map(mode).transpose()?,
                })
            }),
            "discard" => Fields::of(rest)?.finish(|fields| {
                Ok(Self::Discard {
                    path: decoded(fields.one("path")?)?,
                    stage: fields.one("stage")?.parse()?,
                })
            }),
            _ => Err(()),
        }
    }
}

impl FromStr for Exec {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let exec = Fields::of(text)?.finish(|fields| {
            Ok(Self {
                argv: fields.all("arg").map(decoded).collect::<Result<_, ()>>()?,
                env: fields.all("env").map(decoded).collect::<Result<_, ()>>()?,
                cwd: fields.optional("cwd")?.map(decoded).transpose()?,
                tty: fields.optional("tty")?.map(str::parse).transpose()?,
            })
        })?;
        if exec.argv.is_empty() {
            Err(())
        } else {
            Ok(exec)
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A line break inside would end the line.
        let one_line = |reason: &str| reason.replace(['\r', '\n'], " ");
        match self {
            Self::Hello { version } => write!(f, "hello {version}"),
            Self::Done => write!(f, "done"),
            Self::Failed { reason } => write!(f, "failed {}", one_line(reason)),
            Self::Refused(Refused { kind, reason }) => {
                write!(f, "refused {kind} {}", one_line(reason))
            }
            Self::Started => write!(f, "started"),
            Self::Out(data) => write!(f, "out {}", encoded(data)),
            Self::Err(data) => write!(f, "err {}", encoded(data)),
            Self::Credit(bytes) => write!(f, "credit {bytes}"),
            Self::Exited { code } => write!(f, "exited {code}"),
            Self::Killed { signal } => write!(f, "killed {signal}"),
            Self::Content { size, mode, data } => {
                let data = encoded(data);
                write!(f, "content size={size} mode={mode:o} data={data}")
            }
        }
    }
}

impl FromStr for Reply {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let nothing = |reply: Self| if rest.is_empty() { Ok(reply) } else { Err(()) };
        match verb {
            "hello" => Ok(Self::Hello {
                version: number(rest)?,
            }),
            "done" => nothing(Self::Done),
            "failed" => Ok(Self::Failed {
                reason: rest.to_owned(),
            }),
            "refused" => {
                let (kind, reason) = rest.split_once(' ').unwrap_or((rest, ""));
                Ok(Self::Refused(Refused {
                    kind: kind.parse()?,
                    reason: reason.to_owned(),
                }))
            }
            "started" => nothing(Self::Started),
            "out" => decoded(rest).map(Self::Out),
            "err" => decoded(rest).map(Self::Err),
            "credit" => number(rest).map(Self::Credit),
            "exited" => Ok(Self::Exited {
                code: number(rest)?,
            }),
            "killed" => Ok(Self::Killed {
                signal: number(rest)?,
            }),
            "content" => Fields::of(rest)?.finish(|fields| {
                Ok(Self::Content {
                    size: number(fields.one("size")?)?,
                    mode: mode(fields.one("mode")?)?,
                    data: decoded(fields.one("data")?)?,
                })
            }),
            _ => Err(()),
        }
    }
}

/// `key=value` words; each has to be taken, so what is not known is an error.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn of(text: &'a str) -> Result<Self, ()> {
        let words = text.split(' ').filter(|word| !word.is_empty());
        let fields = words.map(|word| word.split_once('=').ok_or(()));
        fields.collect::<Result<_, ()>>().map(Self)
    }

    /// The values of a key, in order.
    fn all(&mut self, key: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let (taken, left) = std::mem::take(&mut self.0)
            .into_iter()
            .partition(|(name, _)| *name == key);
        self.0 = left;
        let taken: Vec<(&str, &str)> = taken;
        taken.into_iter().map(|(_, value)| value)
    }

    fn optional(&mut self, key: &str) -> Result<Option<&'a str>, ()> {
        let mut values = self.all(key);
        let value = values.next();
        if values.next().is_some() {
            Err(())
        } else {
            Ok(value)
        }
    }

    fn one(&mut self, key: &str) -> Result<&'a str, ()> {
        self.optional(key)?.ok_or(())
    }

    fn finish<T>(mut self, take: impl FnOnce(&mut Self) -> Result<T, ()>) -> Result<T, ()> {
        let taken = take(&mut self)?;
        if self.0.is_empty() {
            Ok(taken)
        } else {
            Err(())
        }
    }
}

/// Digits and nothing else: `parse` alone would take a sign too.
fn number<T: FromStr>(text: &str) -> Result<T, ()> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits {
        text.parse().map_err(drop)
    } else {
        Err(())
    }
}

/// A file's mode, in octal digits.
fn mode(text: &str) -> Result<u32, ()> {
    let digits = (1..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
    if digits {
        u32::from_str_radix(text, 8).map_err(drop)
    } else {
        Err(())
    }
}

fn encoded(data: &[u8]) -> String {
    BASE64_STANDARD.encode(data)
}

fn decoded(text: &str) -> Result<Vec<u8>, ()> {
    BASE64_STANDARD.decode(text).map_err(drop)
}

impl<T: fmt::Display> fmt::Display for Line<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.id, self.body)
    }
}

impl<T: FromStr> FromStr for Line<T> {
    type Err = Unknown;

    fn from_str(line: &str) -> Result<Self, Unknown> {
        let (id, text) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let id = number(id).ok();
        let unknown = || Unknown {
            id,
            // Enough to recognise it by.
            text: text.chars().take(200).collect(),
        };
        let body = text.parse().map_err(|_| unknown())?;
        Ok(Self {
            id: id.ok_or_else(unknown)?,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        let exec = Exec {
            argv: vec![b"/bin/ls".to_vec(), b"".to_vec(), b"a\nb \xff".to_vec()],
            env: vec![b"A=1".to_vec()],
            cwd: Some(b"/tmp".to_vec()),
            tty: Some(Size {
                rows: 24,
                columns: 80,
            }),
        };
        let bare = Exec {
            argv: vec![b"true".to_vec()],
            ..Exec::default()
        };
        let path = b"/tmp/x".to_vec();
        let stage: Stage = "k3j9".parse().unwrap();
        vec![
            Request::Hello,
            Request::PowerOff { grace_ms: 2000 },
            Request::Clock {
                unix_nanos: u64::MAX,
            },
            Request::Exec(exec),
            Request::Exec(bare),
            Request::In(vec![0; CHUNK]),
            Request::In(Vec::new()),
            Request::Eof,
            Request::Credit(7),
            Request::Resize(Size {
                rows: u16::MAX,
                columns: 0,
            }),
            Request::Kill,
            Request::Read {
                path: path.clone(),
                offset: 1 << 40,
                length: 9,
            },
            Request::Write {
                path: path.clone(),
                offset: 0,
                data: b"\n".to_vec(),
                stage: None,
            },
            Request::Write {
                path: path.clone(),
                offset: 3,
                data: Vec::new(),
                stage: Some(stage.clone()),
            },
            Request::Commit {
                path: path.clone(),
                stage: stage.clone(),
                mode: Some(0o4755),
            },
            Request::Commit {
                path: path.clone(),
                stage: stage.clone(),
                mode: None,
            },
            Request::Discard { path, stage },
        ]
    }

    fn replies() -> Vec<Reply> {
        let refused = REFUSALS.iter().map(|(kind, _)| {
            Reply::Refused(Refused {
                kind: *kind,
                reason: "no such thing".into(),
            })
        });
        let mut all: Vec<Reply> = refused.collect();
        all.extend([
            Reply::Hello { version: 1 },
            Reply::Done,
            Reply::Failed {
                reason: "no such thing".into(),
            },
            Reply::Started,
            Reply::Out(b"\r\n7 exited 0\r\n".to_vec()),
            Reply::Err(vec![255; CHUNK]),
            Reply::Credit(WINDOW),
            Reply::Exited { code: 255 },
            Reply::Killed { signal: 9 },
            Reply::Content {
                size: 1 << 50,
                mode: 0o644,
                data: b"hi".to_vec(),
            },
        ]);
        all
    }

    #[test]
    fn what_one_end_says_the_other_understands() {
        for body in requests() {
            let line = Line { id: 7, body };
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        for body in replies() {
            let line = Line { id: u64::MAX, body };
            assert_eq!(line.to_string().parse(), Ok(line));
        }
    }

    #[test]
    fn every_message_is_one_line_of_the_length_that_both_ends_take() {
        let largest = Exec {
            argv: vec![vec![b'x'; MAX_COMMAND]],
            ..Exec::default()
        };
        let mut all: Vec<String> = requests().iter().map(ToString::to_string).collect();
        all.extend(replies().iter().map(ToString::to_string));
        all.push(Request::Exec(largest).to_string());
        for message in all {
            assert!(!message.contains('\n'), "{message}");
            assert!(message.len() + "18446744073709551615 ".len() <= MAX_LINE);
        }
    }

    #[test]
    fn an_unknown_request_keeps_its_number_for_the_refusal() {
        let unknown = "3 frobnicate now".parse::<Line<Request>>().unwrap_err();
        assert_eq!(
            unknown,
            Unknown {
                id: Some(3),
                text: "frobnicate now".into()
            }
        );
        assert_eq!("".parse::<Line<Request>>().unwrap_err().id, None);
        assert_eq!("x hello".parse::<Line<Request>>().unwrap_err().id, None);
    }

    #[test]
    fn what_is_not_said_exactly_is_not_understood() {
        for request in [
            "hello 2",
            "poweroff",
            "poweroff -1",
            "poweroff +1",
            "exec",
            "exec env=QT0x",
            "exec arg=x",
            "exec arg=QQ== arg",
            "exec arg=QQ== user=QQ==",
            "exec arg=QQ== tty=24",
            "exec arg=QQ== tty=24x80 tty=24x80",
            "in QQ",
            "in QQ== QQ==",
            "credit 4294967296",
            "read path=QQ== offset=0",
            "read path=QQ== offset=0 length=1 length=1",
            "write path=QQ== offset=0 data=QQ== stage=../x",
            "commit path=QQ== stage=x mode=8",
            "commit path=QQ== stage=x mode=77777",
            "discard path=QQ==",
        ] {
            assert_eq!(request.parse::<Request>(), Err(()), "{request:?}");
        }
        for reply in [
            "exited 256",
            "exited",
            "content size=1 mode=644",
            "refused",
            "out *",
        ] {
            assert_eq!(reply.parse::<Reply>(), Err(()), "{reply:?}");
        }
    }

    #[test]
    fn a_reason_cannot_break_its_line() {
        let reason = "a\n2 done\r".to_owned();
        let refused = Reply::Refused(Refused {
            kind: Refusal::System,
            reason: reason.clone(),
        });
        for body in [Reply::Failed { reason }, refused] {
            assert_eq!(Line { id: 1, body }.to_string().lines().count(), 1);
        }
    }
}
