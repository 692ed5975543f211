//! `hostler vm logs`: what a VM's console shows.

use std::io::{self, IsTerminal};

use clap::Args;
use serde_json::Value;

use crate::client::Connect;
use crate::failure::Failure;
use crate::output;

#[derive(Args)]
pub(crate) struct Logs {
    /// The VM's name
    name: String,
    /// Go on with what is written from now on, until the VM stops
    #[arg(long, short = 'f')]
    follow: bool,
    /// How many of the last lines, up to 10000
    #[arg(long, short = 'n', default_value_t = 100)]
    lines: u32,
    #[command(flatten)]
    connect: Connect,
}

pub(crate) async fn logs(logs: Logs) -> Result<(), Failure> {
    let api = logs.connect.open()?;
    let lines = logs.lines.to_string();
    if !logs.follow {
        let ask = api.get(&["v1", "vms", &logs.name, "logs"]);
        print(&ask.query("lines", &lines).send().await?);
        return Ok(());
    }
    let ask = api.get(&["v1", "vms", &logs.name, "logs", "follow"]);
    let mut shown = ask.query("lines", &lines).stream().await?;
    while let Some(more) = shown.next().await? {
        print(&more);
        if output::lost() {
            break;
        }
    }
    Ok(())
}

/// On a terminal without what it would obey: the guest wrote it.
fn print(shown: &Value) {
    let text = shown["text"].as_str().unwrap_or_default();
    if io::stdout().is_terminal() {
        output::bytes(readable(text).as_bytes());
    } else {
        output::bytes(text.as_bytes());
    }
}

fn readable(text: &str) -> String {
    let lines = text.split_inclusive('\n').map(|line| {
        let (line, end) = match line.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (line, ""),
        };
        let parts: Vec<String> = line
            .trim_end_matches('\r')
            .split('\t')
            .map(output::harmless)
            .collect();
        parts.join("\t") + end
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_command_the_terminal_that_shows_its_console() {
        assert_eq!(
            readable("a\tb\r\nc\u{1b}[2J\rd\r\n"),
            "a\tb\nc\\u{1b}[2J\\rd\n"
        );
        assert_eq!(readable("no end"), "no end");
    }
}
