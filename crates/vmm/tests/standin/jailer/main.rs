//! A stand-in for Firecracker's jailer, for tests: as strict with its arguments, and with a jail
//! that is one (`src/jailer/src/{main,env,chroot}.rs`).
//!
//! It differs where the real one needs what tests cannot count on: the root is changed by chroot(2)
//! and not by a mount of its own, and because the program that it runs is not linked statically,
//! the libraries of that are brought along.

#![allow(
    clippy::print_stdout,
    reason = "the real one speaks on its console too"
)]

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::UnshareFlags;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--version") {
        println!("Jailer v1.13.1\n");
        return ExitCode::SUCCESS;
    }
    match parse(arguments).and_then(jail) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("Error: {problem}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Options {
    id: Option<String>,
    exec_file: Option<String>,
    uid: Option<String>,
    gid: Option<String>,
    chroot_base_dir: Option<String>,
    netns: Option<String>,
    cgroup_version: Option<String>,
    parent_cgroup: Option<String>,
    cgroups: Vec<String>,
    resource_limits: Vec<String>,
    daemonize: bool,
    new_pid_ns: bool,
    rest: Vec<String>,
}

fn parse(arguments: Vec<OsString>) -> Result<Options, String> {
    let mut options = Options::default();
    let mut arguments = arguments.into_iter().map(|argument| {
        let text = argument.into_string();
        text.map_err(|text| format!("Failed to parse path {text:?} into an OsString"))
    });
    while let Some(name) = arguments.next().transpose()? {
        match name.as_str() {
            "--" => {
                options.rest = arguments.collect::<Result<_, _>>()?;
                return Ok(options);
            }
            "--daemonize" => options.daemonize = true,
            "--new-pid-ns" => options.new_pid_ns = true,
            _ => {
                let value = arguments
                    .next()
                    .transpose()?
                    .filter(|it| !it.starts_with("--"));
                let value = value.ok_or_else(|| {
                    format!(
                        "Failed to parse arguments: The argument '{name}' requires a value, but \
                         none was supplied."
                    )
                })?;
                options.take(&name, value)?;
            }
        }
    }
    Ok(options)
}

impl Options {
    fn take(&mut self, name: &str, value: String) -> Result<(), String> {
        let place = match name {
            "--id" => &mut self.id,
            "--exec-file" => &mut self.exec_file,
            "--uid" => &mut self.uid,
            "--gid" => &mut self.gid,
            "--chroot-base-dir" => &mut self.chroot_base_dir,
            "--netns" => &mut self.netns,
            "--cgroup-version" => &mut self.cgroup_version,
            "--parent-cgroup" => &mut self.parent_cgroup,
            "--cgroup" => {
                self.cgroups.push(value);
                return Ok(());
            }
            "--resource-limit" => {
                self.resource_limits.push(value);
                return Ok(());
            }
            other => {
                return Err(format!(
                    "Failed to parse arguments: Found argument '{other}' which wasn't expected, or \
                     isn't valid in this context."
                ));
            }
        };
        if place.replace(value).is_some() {
            return Err(format!(
                "Failed to parse arguments: The argument '{name}' was provided more than once."
            ));
        }
        Ok(())
    }
}

fn required(value: Option<String>, name: &str) -> Result<String, String> {
    value.ok_or_else(|| {
        format!("Failed to parse arguments: Argument '{name}' required, but not found.")
    })
}

/// Makes the jail and runs the program in it.
fn jail(options: Options) -> Result<(), String> {
    let id = required(options.id, "id")?;
    let sane = |c: char| c == '-' || c.is_ascii_alphanumeric();
    if id.is_empty() || id.len() > 64 || !id.chars().all(sane) {
        return Err(format!("Invalid instance ID: {id}"));
    }
    let exec_file = canonical(&required(options.exec_file, "exec-file")?)?;
    let name = exec_file.file_name().unwrap_or_default().to_string_lossy();
    if !name.contains("firecracker") {
        return Err(format!(
            "Invalid filename. The filename of `--exec-file` option must contain \"firecracker\": \
             {name}"
        ));
    }
    let number = |value: Option<String>, name: &str| {
        let text = required(value, name)?;
        text.parse::<u32>()
            .map_err(|_| format!("Invalid {name}: {text}"))
    };
    let (uid, gid) = (number(options.uid, "uid")?, number(options.gid, "gid")?);
    let base = options
        .chroot_base_dir
        .unwrap_or_else(|| "/srv/jailer".to_owned());
    let root = canonical(&base)?.join(&*name).join(&id).join("root");
    let parent = options.parent_cgroup.unwrap_or_else(|| name.to_string());
    let groups = control_groups(
        options.cgroup_version.as_deref().unwrap_or("1"),
        &parent,
        &id,
        &options.cgroups,
    )?;
    if options.daemonize {
        return Err("this stand-in has no --daemonize: its console would be lost".to_owned());
    }
    if let Some(netns) = &options.netns {
        canonical(netns)?;
        return Err("this stand-in does not join network namespaces".to_owned());
    }

    fs::create_dir_all(&root).map_err(|error| format!("Failed to create directory: {error}"))?;
    let program = root.join(&*name);
    fs::copy(&exec_file, &program)
        .map_err(|error| format!("Failed to copy {exec_file:?} to {program:?}: {error}"))?;
    chown(&program, Some(uid), Some(gid)).map_err(|error| error.to_string())?;
    bring_libraries(&root)?;
    limit(&options.resource_limits)?;
    for (file, value) in &groups {
        fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))
            .and_then(|()| fs::write(file, value))
            .map_err(|error| format!("Failed to write to {file:?}: {error}"))?;
    }
    confine(&root, uid, gid)?;

    let mut command = Command::new(Path::new("/").join(&*name));
    command
        .args([
            "--id",
            &id,
            "--start-time-us",
            "1",
            "--start-time-cpu-us",
            "1",
        ])
        .args(["--parent-cpu-time-us", "1"])
        .args(&options.rest)
        .env_clear()
        .uid(uid)
        .gid(gid);
    if !options.new_pid_ns {
        return Err(format!(
            "Failed to exec into Firecracker: {}",
            command.exec()
        ));
    }
    // The child is the first process of the new namespace.
    #[allow(
        deprecated,
        reason = "the other function is unsafe for flags that share files between threads, of \
                  which there are none here"
    )]
    rustix::thread::unshare(UnshareFlags::NEWPID)
        .map_err(|error| format!("Failed cloning into a new child process: {error}"))?;
    let child = command
        .spawn()
        .map_err(|error| format!("Failed to exec into Firecracker: {error}"))?;
    let pid_file = Path::new("/").join(format!("{name}.pid"));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&pid_file);
    file.and_then(|mut file| write!(file, "{}", child.id()))
        .map_err(|error| format!("Failed to open file {pid_file:?}: {error}"))
}

fn canonical(path: &str) -> Result<PathBuf, String> {
    fs::canonicalize(path).map_err(|error| format!("Failed to canonicalize path {path}: {error}"))
}

/// The files to write for control groups, checked.
fn control_groups(
    version: &str,
    parent: &str,
    id: &str,
    wanted: &[String],
) -> Result<Vec<(PathBuf, String)>, String> {
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_));
    if !Path::new(parent).components().all(inside) {
        return Err(
            "Parent cgroup path is invalid. Path should not be absolute or contain '..' or \
                    '.'"
            .to_owned(),
        );
    }
    if version != "1" && version != "2" {
        return Err(format!("{version} is an invalid cgroup version specifier"));
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == "cgroup2").then(|| place.to_owned())
    });
    let mut files = Vec::new();
    for group in wanted {
        if version != "2" {
            return Err("this stand-in knows cgroup v2 only".to_owned());
        }
        let parts: Vec<&str> = group.split('=').collect();
        let [file, value] = parts[..] else {
            return Err(format!("Invalid format for cgroups: {group}"));
        };
        let controller = file.split('.').next().unwrap_or_default();
        let mount = mount.as_deref().ok_or("Hierarchy not found: cgroup2")?;
        let offered = fs::read_to_string(Path::new(mount).join("cgroup.controllers"));
        let offered = offered.unwrap_or_default();
        if !offered.split_ascii_whitespace().any(|it| it == controller) {
            return Err(format!("Controller {controller} is unavailable"));
        }
        if value.is_empty() || file.contains('/') {
            return Err(format!("Cgroup invalid file: {file}"));
        }
        let directory = Path::new(mount).join(parent).join(id);
        files.push((directory.join(file), value.to_owned()));
    }
    if let Some((file, _)) = files.first() {
        let procs = file.with_file_name("cgroup.procs");
        files.push((procs, std::process::id().to_string()));
    }
    Ok(files)
}

fn limit(limits: &[String]) -> Result<(), String> {
    for limit in limits {
        let (name, value) = limit
            .split_once('=')
            .ok_or_else(|| format!("Invalid format for resources limits: {limit}"))?;
        let value: u64 = value
            .parse()
            .map_err(|error| format!("Invalid limit value for resource: {value}: {error}"))?;
        let resource = match name {
            "fsize" => Resource::Fsize,
            "no-file" => Resource::Nofile,
            _ => return Err(format!("Invalid resource argument: {name}")),
        };
        let both = Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        setrlimit(resource, both)
            .map_err(|error| format!("Failed to set limit for resource: {error}"))?;
    }
    Ok(())
}

/// Changes the root, and makes what Firecracker expects there.
fn confine(root: &Path, uid: u32, gid: u32) -> Result<(), String> {
    rustix::process::chdir(root)
        .and_then(|()| rustix::process::chroot("."))
        .map_err(|error| format!("Failed to chdir into chroot directory: {error}"))?;
    for directory in ["/", "/dev", "/dev/net", "/run"] {
        let made = fs::create_dir_all(directory)
            .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700)))
            .and_then(|()| chown(directory, Some(uid), Some(gid)));
        made.map_err(|error| format!("Failed to create directory {directory:?}: {error}"))?;
    }
    for (path, minor) in [("/dev/net/tun", 200), ("/dev/kvm", 232)] {
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(
            CWD,
            path,
            FileType::CharacterDevice,
            mode,
            makedev(10, minor),
        )
        .map_err(|error| format!("Failed to create {path} via mknod inside the jail: {error}"))?;
        chown(path, Some(uid), Some(gid)).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Copies what this program is linked with, and so the other, to the same places in the jail.
fn bring_libraries(root: &Path) -> Result<(), String> {
    let maps = fs::read_to_string("/proc/self/maps").map_err(|error| error.to_string())?;
    let mut libraries: Vec<&str> = maps
        .lines()
        .filter_map(|line| Some(&line[line.find('/')?..]))
        .filter(|path| path.contains(".so"))
        .collect();
    libraries.sort_unstable();
    libraries.dedup();
    // The kernel looks for the loader where the program says, which may be a link to it.
    let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
    let all = libraries
        .iter()
        .map(Path::new)
        .chain(loader.exists().then_some(loader));
    for library in all {
        let place = root.join(library.strip_prefix("/").unwrap_or(library));
        let parent = place.parent().unwrap_or(root);
        fs::create_dir_all(parent)
            .and_then(|()| fs::copy(library, &place).map(drop))
            .map_err(|error| format!("{}: {error}", library.display()))?;
    }
    // What was made on the way is for everybody to pass, whatever the mask says.
    for directory in [
        "lib",
        "lib64",
        "usr",
        "usr/lib",
        "lib/x86_64-linux-gnu",
        "usr/lib/x86_64-linux-gnu",
    ] {
        let path = root.join(directory);
        if path.is_dir() {
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o755));
        }
    }
    Ok(())
}
