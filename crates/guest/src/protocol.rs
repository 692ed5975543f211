//! What host and guest say to each other.
//!
//! One request or reply is one line of words: its number, a verb, then what the verb needs. The
//! host asks, the guest replies with the same number; a request that the guest does not know is
//! refused by name, so a newer host finds out what an older guest can do. Each end compiles this
//! file, so there is one definition.
//!
//! ```text
//! host     1 hello                 2 poweroff 2000
//! guest    1 hello 1               2 done                 3 failed unknown request "frobnicate"
//! ```

#![allow(dead_code, reason = "each end uses its own half")]

use std::fmt;
use std::str::FromStr;

/// The name of the virtio serial port that the conversation goes through.
pub(crate) const PORT_NAME: &str = "org.hostler.guest.0";

/// The port of the vsock that the conversation goes through where there is no such serial port.
pub(crate) const VSOCK_PORT: u32 = 1024;

/// The version of this protocol; it rises when a verb changes its meaning.
pub(crate) const VERSION: u32 = 1;

/// What the host asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Request {
    /// Are you there, and what do you speak?
    Hello,
    /// End the guest: processes get this many milliseconds to finish, disks are flushed.
    PowerOff { grace_ms: u32 },
}

/// What the guest replies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Hello { version: u32 },
    Done,
    Failed { reason: String },
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

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello => write!(f, "hello"),
            Self::PowerOff { grace_ms } => write!(f, "poweroff {grace_ms}"),
        }
    }
}

impl FromStr for Request {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("hello", "") => Ok(Self::Hello),
            ("poweroff", grace) => Ok(Self::PowerOff {
                grace_ms: grace.parse().map_err(|_| ())?,
            }),
            _ => Err(()),
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello { version } => write!(f, "hello {version}"),
            Self::Done => write!(f, "done"),
            // A line break inside would end the line.
            Self::Failed { reason } => write!(f, "failed {}", reason.replace(['\r', '\n'], " ")),
        }
    }
}

impl FromStr for Reply {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(' ').unwrap_or((text, "")) {
            ("hello", version) => Ok(Self::Hello {
                version: version.parse().map_err(|_| ())?,
            }),
            ("done", "") => Ok(Self::Done),
            ("failed", reason) => Ok(Self::Failed {
                reason: reason.to_owned(),
            }),
            _ => Err(()),
        }
    }
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
        let id = id.parse().ok();
        let unknown = || Unknown {
            id,
            text: text.to_owned(),
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

    #[test]
    fn what_one_end_says_the_other_understands() {
        for body in [Request::Hello, Request::PowerOff { grace_ms: 2000 }] {
            let line = Line { id: 7, body };
            assert_eq!(line.to_string().parse(), Ok(line));
        }
        let failed = Reply::Failed {
            reason: "no such thing".into(),
        };
        for body in [Reply::Hello { version: 1 }, Reply::Done, failed] {
            let line = Line { id: u64::MAX, body };
            assert_eq!(line.to_string().parse(), Ok(line));
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
    fn a_reason_cannot_break_its_line() {
        let reply = Line {
            id: 1,
            body: Reply::Failed {
                reason: "a\n2 done".into(),
            },
        };
        assert_eq!(reply.to_string().lines().count(), 1);
    }
}
