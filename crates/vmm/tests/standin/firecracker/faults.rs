//! What goes wrong on purpose: words in the file `PROGRAM.faults`, looked at anew each time.
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
//! guest-quits              a guest that ends itself as soon as it is ready
//! guest-floods             a guest that writes and writes on its console
//! ```

use std::fs;
use std::path::PathBuf;

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
    let mut path = PathBuf::from(std::env::args_os().next().unwrap_or_default()).into_os_string();
    path.push(".faults");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).collect()
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
