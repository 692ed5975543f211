//! What servers say, in the words of whoever reads it here: they name operations (`vms/list`), which
//! any client may call, and at this prompt each of them is a command.

/// Operations that errors and hints name, and the commands that call them.
const COMMANDS: [(&str, &str); 12] = [
    ("hosts/list", "host list"),
    ("hosts/create", "host create"),
    ("hosts/token", "host token"),
    ("hosts/cordon", "host cordon"),
    ("hosts/uncordon", "host uncordon"),
    ("vms/list", "vm list"),
    ("api-keys/list", "api-key list"),
    ("entries/list", "entry list"),
    ("teams/list", "team list"),
    ("teams/members-list", "team member list"),
    ("teams/members-set-role", "team member set-role"),
    ("users/list", "user list"),
];

/// The same text with commands for the operations that it names. What is quoted in it, or part of a
/// longer word, is not meant.
pub(crate) fn as_commands(text: &str) -> String {
    let mut told = String::new();
    let mut rest = text;
    while let Some(begin) = rest.find(is_of_a_name) {
        let (before, from) = rest.split_at(begin);
        told.push_str(before);
        let length = from.find(|c| !is_of_a_name(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(length);
        let is_apart = told
            .chars()
            .next_back()
            .is_none_or(|c| c == ' ' || c == '(');
        match COMMANDS.iter().find(|(operation, _)| *operation == word) {
            Some((_, command)) if is_apart => told.push_str(&format!("`hostler {command}`")),
            _ => told.push_str(word),
        }
        rest = after;
    }
    told + rest
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_/".contains(c)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn operations_are_told_as_commands_and_nothing_else_is() {
        for (text, told) in [
            (
                "there is no VM \"a\"; vms/list shows those there are",
                "there is no VM \"a\"; `hostler vm list` shows those there are",
            ),
            (
                "open host-1 to new VMs (hosts/uncordon)",
                "open host-1 to new VMs (`hostler host uncordon`)",
            ),
            ("use hosts/cordon", "use `hostler host cordon`"),
            ("there is no VM \"vms/list\"", "there is no VM \"vms/list\""),
            (
                "POST /vms/list, my-vms/list, vms/lists",
                "POST /vms/list, my-vms/list, vms/lists",
            ),
            ("\u{e9}vms/list", "\u{e9}vms/list"),
            ("", ""),
        ] {
            assert_eq!(as_commands(text), told);
        }
    }

    #[test]
    fn every_command_that_is_told_exists() {
        for (_, command) in COMMANDS {
            let cli = Cli::command();
            let found = command.split(' ').fold(&cli, |here, word| {
                let next = here.find_subcommand(word);
                next.unwrap_or_else(|| panic!("hostler {command}: no {word}"))
            });
            assert!(!found.has_subcommands(), "hostler {command}");
        }
    }

    /// The errors of the control plane, and of hosts, as their sources have them.
    #[test]
    fn every_operation_that_an_error_names_has_its_command() {
        let crates = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut named = 0;
        for source in ["fleet/src", "host/src", "vmm/src"] {
            let mut open = vec![crates.join(source)];
            while let Some(path) = open.pop() {
                if path.is_dir() {
                    let entries = std::fs::read_dir(&path).unwrap();
                    open.extend(entries.map(|entry| entry.unwrap().path()));
                    continue;
                }
                for line in std::fs::read_to_string(&path).unwrap().lines() {
                    let hint = [" shows those there are", " shows who is"].iter();
                    let Some(at) = hint.filter_map(|hint| line.find(hint)).next() else {
                        continue;
                    };
                    let word = line[..at].rsplit(' ').next().unwrap();
                    named += 1;
                    assert!(
                        COMMANDS.iter().any(|(operation, _)| *operation == word),
                        "{}: {word}",
                        path.display()
                    );
                }
            }
        }
        assert!(named > 5, "the errors say it in other words now");
    }
}
