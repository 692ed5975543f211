//! Files that are replaced together.
//!
//! ```text
//! DIR/svid.pem -> current/svid.pem     names for configurations, which never change
//! DIR/current  -> .svid-7              switched by one rename
//! DIR/.svid-7/svid.pem, svid.key, ...  a generation, which is complete before it is named
//! ```
//!
//! Whoever enters `current` once reads files that belong together, for the generation before is
//! kept until the next one comes. Whoever opens the files one after the other by their names in
//! DIR may meet the switch in between; it is told to look again when all is in place.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::files;

const CURRENT: &str = "current";
const PREFIX: &str = ".svid-";

/// A file of a generation: its name, its content, its mode.
pub(super) type File<'a> = (&'static str, &'a str, u32);

/// Replaces all files in `dir` by these.
pub(super) fn replace(dir: &Path, these: &[File<'_>]) -> io::Result<()> {
    let before = fs::read_link(dir.join(CURRENT)).ok();
    let now = write(dir, these)?;
    point(&dir.join(CURRENT), &now)?;
    for (name, ..) in these {
        let (link, target) = (dir.join(name), Path::new(CURRENT).join(name));
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            point(&link, &target)?;
        }
    }
    sweep(dir, &[Some(now), before])
}

/// Takes away all files in `dir` but those named `keep`. Nothing is left of generations before.
pub(super) fn take_away(dir: &Path, all: &[&str], keep: &'static str) -> io::Result<()> {
    let kept = fs::read_to_string(dir.join(keep));
    let kept = kept.as_deref().map(|content| (keep, content, 0o644));
    match kept {
        Ok(kept) => {
            let now = write(dir, &[kept])?;
            point(&dir.join(CURRENT), &now)?;
            point(&dir.join(keep), &Path::new(CURRENT).join(keep))?;
            sweep(dir, &[Some(now)])?;
        }
        Err(_) => {
            remove(&dir.join(CURRENT))?;
            sweep(dir, &[])?;
        }
    }
    for name in all.iter().filter(|name| **name != keep) {
        remove(&dir.join(name))?;
    }
    Ok(())
}

/// Writes a generation, and answers with its name.
fn write(dir: &Path, these: &[File<'_>]) -> io::Result<PathBuf> {
    let last = generations(dir)?.into_iter().map(|(number, _)| number);
    let name = PathBuf::from(format!("{PREFIX}{}", last.max().unwrap_or(0) + 1));
    let at = dir.join(&name);
    fs::create_dir(&at)?;
    // Each file says by itself who may read it.
    fs::set_permissions(&at, Permissions::from_mode(0o755))?;
    for (name, content, mode) in these {
        files::replace(&at.join(name), content.as_bytes(), *mode)?;
    }
    Ok(name)
}

/// Lets a link lead elsewhere, whatever is in its place now.
fn point(link: &Path, target: &Path) -> io::Result<()> {
    let half = link.with_extension("half");
    remove(&half)?;
    symlink(target, &half)?;
    fs::rename(half, link)
}

/// Removes every generation but these, those of an earlier run included.
fn sweep(dir: &Path, keep: &[Option<PathBuf>]) -> io::Result<()> {
    for (_, name) in generations(dir)? {
        if !keep.iter().flatten().any(|kept| kept == &name) {
            fs::remove_dir_all(dir.join(name))?;
        }
    }
    Ok(())
}

/// What is there of generations: their numbers, and their names.
fn generations(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.push((number, PathBuf::from(name)));
        }
    }
    Ok(found)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(number: &str) -> [File<'_>; 2] {
        [("svid.pem", number, 0o644), ("svid.key", number, 0o600)]
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("a directory");
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_generation_before_stays_readable_and_older_ones_go() {
        let dir = tempfile::tempdir().expect("a directory");
        // What an earlier version, or a person, has put there.
        fs::write(dir.path().join("svid.pem"), "old").expect("written");
        replace(dir.path(), &pair("1")).expect("replaced");
        let entered = fs::canonicalize(dir.path().join(CURRENT)).expect("it leads somewhere");
        for number in ["2", "3"] {
            replace(dir.path(), &pair(number)).expect("replaced");
            for name in ["svid.pem", "svid.key"] {
                let read = fs::read_to_string(dir.path().join(name)).expect("a file");
                assert_eq!(read, number);
            }
            let still = fs::read_to_string(entered.join("svid.key")).ok();
            assert_eq!(still.as_deref(), (number == "2").then_some("1"));
        }
        let all = [".svid-2", ".svid-3", "current", "svid.key", "svid.pem"];
        assert_eq!(names(dir.path()), all);
    }

    #[test]
    fn what_is_taken_away_is_in_no_generation_any_more() {
        let dir = tempfile::tempdir().expect("a directory");
        replace(dir.path(), &pair("1")).expect("replaced");
        replace(dir.path(), &pair("2")).expect("replaced");
        take_away(dir.path(), &["svid.pem", "svid.key"], "svid.pem").expect("taken away");
        assert_eq!(names(dir.path()), [".svid-3", "current", "svid.pem"]);
        assert_eq!(names(&dir.path().join(CURRENT)), ["svid.pem"]);
        take_away(dir.path(), &["svid.pem"], "bundle.pem").expect("taken away");
        assert!(names(dir.path()).is_empty());
        take_away(dir.path(), &["svid.pem"], "bundle.pem").expect("there is nothing to do");
    }
}
