//! What commands print: tables for people, JSON for programs, complaints in one line.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use serde_json::Value;

use crate::failure::Failure;

static LOST: AtomicBool = AtomicBool::new(false);

/// How a client command prints data.
#[derive(Args, Clone, Copy)]
pub(crate) struct Printing {
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs: what the control plane answered
    Json,
}

/// Prints a line of results.
pub(crate) fn line(text: impl AsRef<str>) {
    bytes(format!("{}\n", text.as_ref()).as_bytes());
}

/// Prints results. A reader that went away (`| head`) is no error; a full disk is one, and
/// [`lost`] says so at the end.
pub(crate) fn bytes(results: &[u8]) {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(results).and_then(|()| stdout.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        LOST.store(true, Ordering::Relaxed);
        complain(&Failure::new(format!("cannot print the result: {error}")));
    }
}

/// Whether a result could not be printed.
pub(crate) fn lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Tells progress, on the error stream, so that results can be piped.
pub(crate) fn progress(text: impl AsRef<str>) {
    let _ = writeln!(io::stderr(), "{}", text.as_ref());
}

/// Prints why a command failed, in red where that can be seen and is wanted.
pub(crate) fn complain(failure: &Failure) {
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let word = if colour {
        "\x1b[31merror\x1b[0m"
    } else {
        "error"
    };
    // One line, whatever was quoted in it.
    let text = harmless(&failure.to_string().replace('\n', " "));
    let _ = writeln!(io::stderr(), "{word}: {text}");
}

/// Prints an answer as it came.
pub(crate) fn json(value: &Value) {
    line(serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()));
}

/// Prints rows under headings, each column as wide as its widest cell.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) {
    line(layout(headings, rows));
}

fn layout(headings: &[&str], rows: &[Vec<String>]) -> String {
    let headings: Vec<String> = headings.iter().map(|h| (*h).to_owned()).collect();
    let all = || std::iter::once(&headings).chain(rows);
    let width = |column: usize| {
        all()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let lines = all().map(|row| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A field of an answer as a cell: `-` when it is absent or empty.
pub(crate) fn cell(value: &Value, field: &str) -> String {
    let text = plain(&value[field]);
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

/// A moment of an answer as a cell, to the second.
pub(crate) fn moment(value: &Value, field: &str) -> String {
    let moment = value[field]
        .as_str()
        .and_then(|text| text.parse::<jiff::Timestamp>().ok());
    moment.map_or_else(
        || cell(value, field),
        |m| m.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
    )
}

/// A text without what a terminal would obey: names come from whoever made them.
pub(crate) fn harmless(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    let each = text.chars().map(|c| match c {
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    });
    each.collect()
}

/// A value in words: lists with commas, objects as `name=value`.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => harmless(text),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(name, value)| format!("{name}={}", plain(value)));
            fields.collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["web-1".to_owned(), "running".to_owned()],
            vec!["ü".to_owned()],
        ];
        let text = layout(&["NAME", "STATE"], &rows);
        assert_eq!(text, "NAME   STATE\nweb-1  running\nü");
    }

    #[test]
    fn a_name_cannot_command_a_terminal() {
        let host = serde_json::json!({"arch": "x\u{1b}[2J\n64", "zone": "südlich"});
        assert_eq!(cell(&host, "arch"), "x\\u{1b}[2J\\n64");
        assert_eq!(cell(&host, "zone"), "südlich");
    }

    #[test]
    fn a_moment_is_told_to_the_second() {
        let vm =
            serde_json::json!({"started_at": "2026-11-22T12:17:44.36135791Z", "ready_at": "?"});
        assert_eq!(moment(&vm, "started_at"), "2026-11-22 12:17:44Z");
        assert_eq!(
            (moment(&vm, "ready_at"), moment(&vm, "stopped_at")),
            ("?".into(), "-".into())
        );
    }

    #[test]
    fn what_is_absent_is_a_dash() {
        let host = serde_json::json!({"id": "host-1", "tags": [], "cpus": 2, "name": ""});
        assert_eq!(cell(&host, "id"), "host-1");
        assert_eq!(cell(&host, "cpus"), "2");
        let counts = serde_json::json!({"vms": [{"running": 2, "stopped": 1}, {"running": 1}]});
        assert_eq!(cell(&counts, "vms"), "running=2 stopped=1, running=1");
        for field in ["tags", "name", "zone"] {
            assert_eq!(cell(&host, field), "-");
        }
    }
}
