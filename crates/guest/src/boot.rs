//! Process 1: from a bare kernel to the image's own init.
//!
//! Nothing here depends on the image but `/sbin/init`, and not even that when the host knows that
//! there is none. What is mounted in the RAM file system
//! stays there for the agent; the root disk gets mounts of its own.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount, mount_move};

use crate::config::Config;
use crate::error::{Context, Result};
use crate::{AGENT, modules, network};

/// Where the root disk is mounted before it becomes the root.
pub(crate) const NEW_ROOT: &str = "/root";
const ROOT_DISK: &str = "/dev/vda";

/// Boots, and returns only when that failed.
pub(crate) fn run() -> Result<()> {
    mount_kernel_file_systems("")?;
    let config = Config::read()?;
    modules::load(&config.modules)?;
    mount_root_disk()?;
    // A guest without network still has its console and its agent: said, not fatal.
    if let Err(error) = network::configure(&config) {
        eprintln!("hostler-guest: {error}");
    }
    config.apply_to(Path::new(NEW_ROOT))?;
    for (tag, read_only) in &config.mounts {
        // A guest without its mounts can still be asked what is wrong.
        if let Err(error) = mount_shared(NEW_ROOT, tag, *read_only) {
            eprintln!("hostler-guest: {error}");
        }
    }
    spawn_agent()?;
    mount_kernel_file_systems(NEW_ROOT)?;
    mount_scratch(NEW_ROOT)?;
    become_init(&config)
}

/// Mounts what the kernel offers as files under `root`.
fn mount_kernel_file_systems(root: &str) -> Result<()> {
    let nosuid = MountFlags::NOSUID;
    let locked = nosuid | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_at(root, "dev", "devtmpfs", nosuid, "mode=0755")?;
    mount_at(root, "proc", "proc", locked, "")?;
    mount_at(root, "sys", "sysfs", locked, "")
}

/// Mounts what every init expects or would mount itself: terminals and scratch space.
fn mount_scratch(root: &str) -> Result<()> {
    let careful = MountFlags::NOSUID | MountFlags::NODEV;
    mount_at(
        root,
        "dev/pts",
        "devpts",
        MountFlags::NOSUID,
        "gid=5,mode=620,ptmxmode=666",
    )?;
    mount_at(root, "dev/shm", "tmpfs", careful, "mode=1777")?;
    mount_at(root, "run", "tmpfs", careful, "mode=0755")?;
    for (link, target) in [
        ("fd", "fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        let link = format!("{root}/dev/{link}");
        match symlink(format!("/proc/self/{target}"), &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).context(|| format!("make {link}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn mount_at(root: &str, place: &str, kind: &str, flags: MountFlags, options: &str) -> Result<()> {
    let place = format!("{root}/{place}");
    fs::create_dir_all(&place).context(|| format!("make {place}"))?;
    let options = std::ffi::CString::new(options).unwrap_or_default();
    match mount(kind, &place, kind, flags, options.as_c_str()) {
        // A kernel that mounts devtmpfs by itself has been here before us.
        Err(rustix::io::Errno::BUSY) => Ok(()),
        mounted => mounted.context(|| format!("mount {kind} on {place}")),
    }
}

fn mount_root_disk() -> Result<()> {
    wait_for(ROOT_DISK)?;
    fs::create_dir_all(NEW_ROOT).context(|| format!("make {NEW_ROOT}"))?;
    mount(ROOT_DISK, NEW_ROOT, "ext4", MountFlags::empty(), None)
        .context(|| format!("mount {ROOT_DISK} as ext4"))
}

/// Mounts a directory of the host at `/mnt/TAG`. Programs in there get no privilege by being there:
/// whoever writes on the host is not who is root here.
fn mount_shared(root: &str, tag: &str, read_only: bool) -> Result<()> {
    let place = format!("{root}/mnt/{tag}");
    fs::create_dir_all(&place).context(|| format!("make {place}"))?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    mount(tag, &place, "virtiofs", flags, None)
        .context(|| format!("mount the host's directory {tag} on {place}"))
}

/// Waits for a device. Loading its driver mostly finds it at once; a driver may also look for
/// devices later, on a thread of its own.
fn wait_for(device: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !Path::new(device).exists() {
        if Instant::now() > deadline {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            return Err(missing).context(|| format!("find the root disk {device}"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Leaves a child behind that answers the host. It stays in the RAM file system, where no image
/// can be in its way; its working directory is the root disk, by which it finds that again.
fn spawn_agent() -> Result<()> {
    Command::new("/proc/self/exe")
        .arg(AGENT)
        .current_dir(NEW_ROOT)
        .stdin(Stdio::null())
        .spawn()
        .map(drop)
        .context(|| "start the agent".to_owned())
}

/// Makes the root disk the root and becomes its init, or stands in for one.
fn become_init(config: &Config) -> Result<()> {
    std::env::set_current_dir(NEW_ROOT).context(|| format!("enter {NEW_ROOT}"))?;
    mount_move(".", "/").context(|| format!("move {NEW_ROOT} to /"))?;
    rustix::process::chroot(".").context(|| "make the root disk the root".to_owned())?;
    if let Some(program) = &config.program {
        program.run();
    }
    let failed = Command::new("/sbin/init")
        .env_clear()
        .env("HOME", "/")
        .env("TERM", "linux")
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .exec();
    Err(failed).context(|| "run /sbin/init of the image".to_owned())
}
