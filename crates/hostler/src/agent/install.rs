//! `hostler agent install`: a host as a service of systemd.
//!
//! A unit that says how the daemon runs, and beside it a file with its options that only root may
//! read. Nothing is started: what to do next is printed.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use crate::failure::{Doing, Failure};
use crate::options::AgentOptions;
use crate::{files, output};

const UNIT: &str = "etc/systemd/system/hostler-agent.service";
const ENVIRONMENT: &str = "etc/hostler/agent.env";
const TOKEN: &str = "HOSTLER_REGISTER";

#[derive(Args)]
pub(crate) struct Install {
    #[command(flatten)]
    pub(crate) options: AgentOptions,
    /// Print the files and write nothing; a registration token is left out
    #[arg(long)]
    print: bool,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
    /// Write below this directory, for an image of a machine [default: /]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// A variable of the environment file.
type Variable = (&'static str, SecretString);

impl Install {
    pub(crate) fn run(mut self) -> Result<(), Failure> {
        self.options.make_absolute()?;
        // What would not start is not installed.
        let settings = self.options.clone().resolve()?;
        let (data_dir, mounts) = (settings.data_dir, settings.machines.mount_allow);
        let program = std::env::current_exe().doing(|| "cannot tell where this program is")?;
        let unit = unit(&program, &data_dir, &mounts)?;
        let variables = self.options.variables();
        if self.print {
            output::line(format!("# /{UNIT}\n{unit}\n# /{ENVIRONMENT}"));
            output::line(environment(&variables, false)?.trim_end());
            return Ok(());
        }
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let (unit_file, environment_file) = (root.join(UNIT), root.join(ENVIRONMENT));
        let taken = [&unit_file, &environment_file];
        if let Some(taken) = taken
            .into_iter()
            .find(|file| file.symlink_metadata().is_ok())
            && !self.force
        {
            return Err(Failure::new(format!(
                "{} is there already; give --force to replace it",
                taken.display()
            )));
        }
        let environment = environment(&variables, true)?;
        write(&environment_file, &environment, 0o600, 0o700)?;
        write(&unit_file, &unit, 0o644, 0o755)?;
        output::line(format!("wrote {}", environment_file.display()));
        output::line(format!("wrote {}", unit_file.display()));
        output::progress("next: systemctl daemon-reload && systemctl enable --now hostler-agent");
        if variables.iter().any(|(name, _)| *name == TOKEN) {
            output::progress(format!(
                "once the host is online, {TOKEN} in {} is spent and may be removed",
                environment_file.display()
            ));
        }
        Ok(())
    }
}

fn write(file: &Path, text: &str, mode: u32, directory_mode: u32) -> Result<(), Failure> {
    let cannot = || format!("cannot write {}", file.display());
    if let Some(directory) = file.parent().filter(|directory| !directory.exists()) {
        let mut make = DirBuilder::new();
        // Those above it are everybody's.
        fs::create_dir_all(directory.parent().unwrap_or(directory)).doing(cannot)?;
        make.mode(directory_mode).create(directory).doing(cannot)?;
    }
    files::replace(file, text.as_bytes(), mode).doing(cannot)
}

/// The environment file (systemd.exec(5), EnvironmentFile=).
fn environment(variables: &[Variable], whole: bool) -> Result<String, Failure> {
    let mut text =
        "# Options of hostler-agent.service; `hostler agent --help` explains them.\n".to_owned();
    for (name, value) in variables {
        if *name == TOKEN && !whole {
            let _ = writeln!(text, "# {TOKEN} is not shown");
            continue;
        }
        let _ = writeln!(text, "{name}={}", quoted(value.expose_secret())?);
    }
    Ok(text)
}

/// A value of the environment file in double quotes, in which a backslash escapes what means
/// something there.
fn quoted(value: &str) -> Result<String, Failure> {
    Ok(format!("\"{}\"", escaped(value, &['"', '\\', '$', '`'])?))
}

fn escaped(value: &str, special: &[char]) -> Result<String, Failure> {
    if value.contains(char::is_control) {
        let value = value.escape_debug();
        return Err(Failure::new(format!(
            "{value} cannot be an option of a service"
        )));
    }
    let escaped = value.chars().flat_map(|c| {
        let escape = special.contains(&c).then_some('\\');
        escape.into_iter().chain([c])
    });
    Ok(escaped.collect())
}

/// A path as a word of a unit file, where `%` begins a specifier (systemd.unit(5)).
fn word(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().ok_or_else(|| {
        Failure::new(format!(
            "{} is not text; choose another place",
            path.display()
        ))
    })?;
    let text = escaped(text, &['"', '\\'])?.replace('%', "%%");
    Ok(format!("\"{text}\""))
}

/// The same as a word of a command line, where `$` begins a variable (systemd.service(5)).
fn argument(path: &Path) -> Result<String, Failure> {
    Ok(word(path)?.replace('$', "$$"))
}

/// `mounts` are the directories that guests may share, and so perhaps write in.
fn unit(program: &Path, data_dir: &Path, mounts: &[PathBuf]) -> Result<String, Failure> {
    let mounts = mounts.iter().map(|path| Ok(format!(" -{}", word(path)?)));
    let mounts = mounts.collect::<Result<String, Failure>>()?;
    let unit = include_str!("hostler-agent.service");
    Ok(unit
        .replace("@PROGRAM@", &argument(program)?)
        .replace("@DATA_DIR_ARGUMENT@", &argument(data_dir)?)
        .replace("@DATA_DIR@", &word(data_dir)?)
        .replace("@MOUNTS@", &mounts)
        .replace("@ENVIRONMENT@", &format!("/{ENVIRONMENT}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_word_whatever_is_in_it() {
        assert_eq!(
            quoted("a b\"c\\d$e").expect("text"),
            "\"a b\\\"c\\\\d\\$e\""
        );
        assert!(quoted("a\nHOSTLER_DRIVER=x").is_err());
        assert_eq!(word(Path::new("/a%$b")).expect("text"), "\"/a%%$b\"");
        assert_eq!(argument(Path::new("/a%$b")).expect("text"), "\"/a%%$$b\"");
    }

    #[test]
    fn a_restart_of_the_service_leaves_vms_alone() {
        let mounts = [PathBuf::from("/srv/a b")];
        let unit = unit(Path::new("/usr/bin/hostler"), Path::new("/data"), &mounts);
        let unit = unit.expect("a unit");
        let has = |line: &str| unit.lines().any(|l| l == line);
        for line in [
            "KillMode=process",
            "OOMPolicy=continue",
            "Delegate=yes",
            "ReadWritePaths=/run /tmp /var/tmp -\"/data\" -\"/srv/a b\"",
            "ExecStart=\"/usr/bin/hostler\" agent",
        ] {
            assert!(has(line), "{line}");
        }
        assert!(
            !unit.contains('@') || unit.contains("~@"),
            "a place was left open"
        );
    }
}
