//! Tables of daemons that are gone for good: killed, and then their data directory was removed, so no
//! next daemon of theirs takes them away.
//!
//! A table says in the comment of its first rule whose it is: the data directory, and the mount and
//! the process namespace that its daemon was in (namespaces(7)), because elsewhere the same path is
//! another and processes are not seen. A table is somebody's unless all of it speaks against that:
//! our own namespaces, a directory that is not there, and no process of the user whom the rules
//! hold back. What an earlier version made says nothing, and stays.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::UserMode;
use super::rules;
use crate::blocking;
use crate::network::error::NetworkError;
use crate::network::nft;

/// The most bytes of a rule's comment (libnftnl's NFTNL_UDATA_COMMENT_MAXLEN, with its end).
const MAX_COMMENT: usize = 127;

/// Whose tables of ours can be.
pub(super) const PREFIX: &str = "hostler_user_";

/// Whose a table is, as the comment of a rule; `None` for what cannot be said in one.
pub(super) fn comment(data_dir: &Path) -> Option<String> {
    let comment = format!("{} {}", here()?, data_dir.to_str()?);
    let is_plain = |c: char| c == ' ' || c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    let fits = comment.len() <= MAX_COMMENT && comment.chars().all(is_plain);
    (fits && data_dir.is_absolute()).then_some(comment)
}

/// The namespaces in which this daemon sees files and processes.
fn here() -> Option<String> {
    let number = |kind| Some(fs::metadata(format!("/proc/self/ns/{kind}")).ok()?.ino());
    Some(format!("hostler {} {}", number("mnt")?, number("pid")?))
}

/// Whether a table, as nft lists it, is nobody's any more. Blocking.
fn is_abandoned(table: &str) -> bool {
    let Some((user, owner)) = table.lines().find_map(first_rule) else {
        return false;
    };
    let directory = here().and_then(|here| owner.strip_prefix(&here)?.strip_prefix(' '));
    let is_gone = |directory: &str| {
        let found = Path::new(directory).symlink_metadata();
        found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    directory.is_some_and(is_gone) && !runs_something(user)
}

/// The user whom a table holds back, and the comment beside that.
fn first_rule(line: &str) -> Option<(u32, &str)> {
    let rest = line.trim().strip_prefix("meta skuid ")?;
    let (user, rest) = rest.split_once(" goto guest comment \"")?;
    Some((user.parse().ok()?, rest.strip_suffix('"')?))
}

/// Whether any process is this user, in whatever sense (proc(5), `Uid`). What cannot be seen is
/// taken for one.
fn runs_something(user: u32) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else {
        return true;
    };
    let user = user.to_string();
    let is_pid = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    processes.flatten().any(|process| {
        if !process.file_name().to_str().is_some_and(is_pid) {
            return false;
        }
        // One that has ended meanwhile has none.
        let status = fs::read_to_string(process.path().join("status")).unwrap_or_default();
        let users = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        users.is_some_and(|users| users.split_ascii_whitespace().any(|one| one == user))
    })
}

impl UserMode {
    /// Removes the tables of daemons that are gone for good.
    pub(super) async fn sweep_others(&self) -> Result<(), NetworkError> {
        for table in nft::tables_inet().await? {
            if table == self.table || !table.starts_with(PREFIX) {
                continue;
            }
            // One that is gone by now was its daemon's to remove.
            let Ok(text) = nft::table_inet(&table).await else {
                continue;
            };
            if blocking::run(move || is_abandoned(&text)).await {
                nft::carry_out(&rules::removal(&table)).await?;
                tracing::info!(
                    table,
                    "rules of a daemon whose data directory is gone are removed"
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table as nft lists it.
    fn listed(user: u32, comment: &str) -> String {
        format!(
            "table inet hostler_user_1a2b3c4d {{\n\tchain output {{\n\t\ttype filter hook output \
             priority mangle; policy accept;\n\t\tmeta skuid {user} goto guest{comment}\n\t}}\n}}\n"
        )
    }

    #[test]
    fn a_table_is_somebodys_unless_everything_speaks_against_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("data");
        let owner = comment(&place).unwrap();
        // Nobody is this user: it is above those of all data directories.
        let nobody = 967_123;
        let told = |comment: &str| format!(" comment \"{comment}\"");
        assert!(is_abandoned(&listed(nobody, &told(&owner))));
        assert!(
            !is_abandoned(&listed(0, &told(&owner))),
            "root runs something"
        );
        assert!(!is_abandoned(&listed(nobody, "")), "of an earlier version");
        let elsewhere = owner.replacen("hostler ", "hostler 1", 1);
        assert!(!is_abandoned(&listed(nobody, &told(&elsewhere))));
        let somebody_elses = format!("not {owner}");
        assert!(!is_abandoned(&listed(nobody, &told(&somebody_elses))));
        fs::create_dir(&place).unwrap();
        assert!(!is_abandoned(&listed(nobody, &told(&owner))));
    }

    #[test]
    fn what_no_comment_can_say_is_not_said() {
        assert!(comment(Path::new("/var/lib/hostler/agent")).is_some());
        for path in ["relative", "/a\"b", "/a\\b", "/a\nb", "/\u{e9}"] {
            assert_eq!(comment(Path::new(path)), None, "{path:?}");
        }
        let long = format!("/{}", "x".repeat(MAX_COMMENT));
        assert_eq!(comment(Path::new(&long)), None);
    }
}
