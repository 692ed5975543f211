//! What goes wrong on purpose: words in the files `PROGRAM.faults` and `LOG.faults`, the latter for
//! one VM alone, looked at anew each time.
//!
//! ```text
//! exit 148                 end at once with this code
//! refuse PUT /boot-source  answer 400, in Firecracker's form
//! garbage GET /            answer something that is no HTTP
//! nonsense GET /           answer HTTP that means nothing
//! hang PATCH /vm           take the request and never answer
//! die PUT /actions         end in the middle of the request
//! guest-silent             a guest that never gets ready
//! guest-panics             a guest that finds no init
//! guest-quits              a guest that is up and ends itself
//! guest-floods             a guest that writes and writes on its console
//! ```

use std::ffi::OsString;
use std::fs;

/// What to do with a request, other than to answer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Refuse,
    Garbage,
    Nonsense,
    Hang,
    Die,
}

fn lines() -> Vec<String> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let mut pairs = arguments.windows(2);
    let log = pairs.find(|pair| pair[0] == "--log-path");
    let log = log.map(|pair| pair[1].clone());
    let mut lines = Vec::new();
    for mut path in arguments.first().cloned().into_iter().chain(log) {
        path.push(".faults");
        let text = fs::read_to_string(path).unwrap_or_default();
        lines.extend(text.lines().map(|line| line.trim().to_owned()));
    }
    lines
}

pub(crate) fn exit_code() -> Option<u8> {
    lines()
        .iter()
        .find_map(|line| line.strip_prefix("exit ")?.parse().ok())
}

pub(crate) fn for_request(method: &str, path: &str) -> Option<Fault> {
    let wanted = format!("{method} {path}");
    lines().iter().find_map(|line| {
        let (word, request) = line.split_once(' ')?;
        (request == wanted).then_some(())?;
        Some(match word {
            "refuse" => Fault::Refuse,
            "garbage" => Fault::Garbage,
            "nonsense" => Fault::Nonsense,
            "hang" => Fault::Hang,
            "die" => Fault::Die,
            _ => return None,
        })
    })
}

pub(crate) fn has(word: &str) -> bool {
    lines().iter().any(|line| line == word)
}
