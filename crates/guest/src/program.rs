//! Process 1 of an image that has no init of its own: it runs the program that the image's maker
//! wanted to run, collects what ends, and stays.
//!
//! A container is over when its program ends. A VM is not: the agent goes on answering, so that
//! whoever asks can find out why the program ended, run another one, or switch the VM off.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{WaitOptions, wait};

use crate::error::{Context, Result};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) argv: Vec<String>,
    /// As `NAME=VALUE`.
    pub(crate) environment: Vec<String>,
    pub(crate) directory: String,
    /// A name or a number, perhaps with a colon and a group.
    pub(crate) user: String,
}

impl Program {
    /// Runs the program in what is now the root, and never returns.
    pub(crate) fn run(&self) -> ! {
        let child = match self.start() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("hostler-guest: {error}; the guest stays up");
                None
            }
        };
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if child == Some(pid.as_raw_nonzero().get()) => {
                    eprintln!(
                        "hostler-guest: {} has ended ({}); the guest stays up",
                        self.argv.first().map_or("", String::as_str),
                        ending(status),
                    );
                }
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Nothing runs any more, not even the agent.
                Err(_) => thread::sleep(Duration::from_secs(1)),
            }
        }
    }

    fn start(&self) -> Result<Option<i32>> {
        let Some((program, arguments)) = self.argv.split_first() else {
            return Ok(None);
        };
        let user = User::find(&self.user).context(|| format!("find user {:?}", self.user))?;
        let directory = match &*self.directory {
            "" => "/",
            directory => directory,
        };
        // As container engines do.
        fs::create_dir_all(directory).context(|| format!("make {directory}"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(self.environment(&user))
            .current_dir(directory)
            .stdin(Stdio::null())
            .uid(user.uid)
            .gid(user.gid)
            // So that Ctrl-C on a console, and a signal to its group, are its own affair.
            .process_group(0);
        let child = command.spawn().context(|| format!("run {program}"))?;
        Ok(i32::try_from(child.id()).ok())
    }

    fn environment(&self, user: &User) -> BTreeMap<String, String> {
        let mut all = BTreeMap::from([
            ("PATH".to_owned(), PATH.to_owned()),
            ("HOME".to_owned(), user.home.clone()),
            ("TERM".to_owned(), "linux".to_owned()),
        ]);
        let given = self.environment.iter();
        all.extend(given.filter_map(|variable| {
            let (name, value) = variable.split_once('=')?;
            (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
        }));
        all
    }
}

fn ending(status: rustix::process::WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "for an unknown reason".to_owned(),
    }
}

/// Whom the program runs as.
#[derive(Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    home: String,
}

impl User {
    fn find(text: &str) -> io::Result<Self> {
        let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
        Self::find_in(text, &read("/etc/passwd"), &read("/etc/group"))
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the image does not know it"))
    }

    /// Finds a user as images name them: `NAME`, `UID`, and either with `:GROUP` or `:GID`.
    fn find_in(text: &str, passwd: &str, group: &str) -> Option<Self> {
        let (user, wanted_group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let known = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, _, home, ..] = fields[..] else {
                return None;
            };
            (name == user || uid == user).then(|| {
                let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
                let home = home.to_owned();
                Some(Self { uid, gid, home })
            })?
        });
        // A number needs nobody who knows it.
        let mut found = known.or_else(|| {
            let home = "/".to_owned();
            let uid = user.parse().ok()?;
            Some(Self { uid, gid: 0, home })
        })?;
        if let Some(wanted) = wanted_group {
            found.gid = wanted.parse().ok().or_else(|| {
                let mut fields = group.lines().map(|line| line.split(':'));
                fields.find_map(|mut fields| {
                    (fields.next()? == wanted).then(|| fields.nth(1)?.parse().ok())?
                })
            })?;
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_number_with_and_without_a_group() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/false\n";
        let group = "root:x:0:\nadm:x:4:web\n";
        let find = |text: &str| User::find_in(text, passwd, group).map(|u| (u.uid, u.gid, u.home));
        let www = || "/var/www".to_owned();
        assert_eq!(find(""), Some((0, 0, "/root".to_owned())));
        assert_eq!(find("web"), Some((33, 34, www())));
        assert_eq!(find("33"), Some((33, 34, www())));
        assert_eq!(find("web:adm"), Some((33, 4, www())));
        assert_eq!(find("1000:5"), Some((1000, 5, "/".to_owned())));
        assert_eq!(find("nobody"), None);
        assert_eq!(find("web:nogroup"), None);
    }

    #[test]
    fn the_images_variables_win_over_ours() {
        let program = Program {
            environment: vec![
                "PATH=/opt".into(),
                "A=b=c".into(),
                "=x".into(),
                "junk".into(),
            ],
            ..Program::default()
        };
        let root = User::find_in("0", "", "").unwrap();
        let all = program.environment(&root);
        assert_eq!(all["PATH"], "/opt");
        assert_eq!(all["A"], "b=c");
        assert_eq!(all.len(), 4);
    }
}
