//! Options of the daemons: a flag beats a variable beats the YAML file of `--config`.
//!
//! One struct is both the flags (clap reads the variables too) and the file's keys, so they cannot
//! drift apart; `resolve` lays the one over the other and then fills in defaults. An unknown key in
//! the file is an error that names the key and its line.

/// `flags` over `file`, field by field; naming a field too few does not compile.
macro_rules! over {
    ($type:ident, $flags:expr, $file:expr, $($field:ident),+ $(,)?) => {{
        let (flags, file) = ($flags, $file);
        $type { $($field: flags.$field.or(file.$field)),+ }
    }};
}

mod agent;
mod firecracker;
mod server;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::failure::{Doing, Failure};
use crate::machines::MachineSettings;
use crate::workload::SocketPlace;

pub(crate) use agent::{AgentMode, AgentOptions, AgentSettings, Enrolment, Trust};
pub(crate) use firecracker::FirecrackerSettings;
pub(crate) use server::{Federate, ServerOptions, ServerSettings, secret_of_file};

/// Reads a file of options.
fn read<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, Failure> {
    let Some(path) = path else {
        return Ok(T::default());
    };
    let text = std::fs::read_to_string(path)
        .doing(|| format!("cannot read the configuration {}", path.display()))?;
    if text.trim().is_empty() {
        return Ok(T::default());
    }
    serde_norway::from_str(&text).doing(|| format!("the configuration {} is wrong", path.display()))
}

#[derive(Args, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UpOptions {
    /// Where both keep everything: DIR/server and DIR/agent
    #[arg(long, env = "HOSTLER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The people's door [default: 127.0.0.1:8443]
    #[arg(long, env = "HOSTLER_LISTEN", value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// The machines' door [default: 127.0.0.1:8444]
    #[arg(long, env = "HOSTLER_FLEET_LISTEN", value_name = "IP:PORT")]
    fleet_listen: Option<SocketAddr>,
    /// The host door [default: 127.0.0.1:9443]
    #[arg(long, env = "HOSTLER_HOST_LISTEN", value_name = "IP:PORT")]
    host_listen: Option<SocketAddr>,
    /// The SPIFFE Workload API: where processes on this machine ask who they are [default:
    /// DATA_DIR/agent/workload/api.sock]
    #[arg(long, env = "HOSTLER_WORKLOAD_SOCKET", value_name = "PATH")]
    workload_socket: Option<PathBuf>,
    /// What runs the VMs: auto, qemu or firecracker [default: auto]
    #[arg(long, env = "HOSTLER_DRIVER", value_name = "DRIVER")]
    driver: Option<String>,
    /// The Firecracker to run: a path, or a name to look up in PATH [default: firecracker]
    #[arg(long, env = "HOSTLER_FIRECRACKER_BIN", value_name = "PROGRAM")]
    firecracker_bin: Option<PathBuf>,
    /// How VMs reach others: user (each has a network of its own, no privilege needed) or bridge
    /// (each has an address on a bridge of this host; needs root) [default: user]
    #[arg(long, env = "HOSTLER_NETWORK", value_name = "NETWORK")]
    network: Option<String>,
    /// Where the bridge takes its subnet from: one /24 of it, chosen once [default: 10.77.0.0/16]
    #[arg(long, env = "HOSTLER_BRIDGE_RANGE", value_name = "CIDR")]
    bridge_range: Option<String>,
    /// A directory of which VMs may mount what is in it. May be given again; in the variable,
    /// separate by colons [default: none]
    #[arg(
        long,
        env = "HOSTLER_MOUNT_ALLOW",
        value_name = "DIR",
        value_delimiter = ':'
    )]
    mount_allow: Option<Vec<PathBuf>>,
    /// A directory of which images and kernels may be imported. May be given again; in the
    /// variable, separate by colons [default: the home of whoever runs this]
    #[arg(
        long,
        env = "HOSTLER_IMPORT_ALLOW",
        value_name = "DIR",
        value_delimiter = ':'
    )]
    import_allow: Option<Vec<PathBuf>>,
    /// Leave running VMs running when this command ends
    #[arg(long, env = "HOSTLER_KEEP_VMS", num_args = 0..=1, default_missing_value = "true")]
    keep_vms: Option<bool>,
    /// A YAML file with any of these options as keys (data_dir: ...)
    #[arg(long, env = "HOSTLER_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

/// The options of `up`, complete.
pub(crate) struct UpSettings {
    pub(crate) data_dir: PathBuf,
    pub(crate) listen: SocketAddr,
    pub(crate) fleet_listen: SocketAddr,
    pub(crate) host_listen: SocketAddr,
    pub(crate) workload_socket: SocketPlace,
    pub(crate) machines: MachineSettings,
    pub(crate) keep_vms: bool,
}

impl UpOptions {
    pub(crate) fn resolve(self) -> Result<UpSettings, Failure> {
        let file: Self = read(self.config.as_deref())?;
        let all = over!(
            Self,
            self,
            file,
            data_dir,
            listen,
            fleet_listen,
            host_listen,
            workload_socket,
            driver,
            firecracker_bin,
            network,
            bridge_range,
            mount_allow,
            import_allow,
            keep_vms,
            config,
        );
        let data_dir = all.data_dir.map_or_else(|| default_data_dir("up"), Ok)?;
        Ok(UpSettings {
            workload_socket: socket_place(all.workload_socket, &data_dir.join("agent")),
            data_dir,
            listen: all.listen.unwrap_or(([127, 0, 0, 1], 8443).into()),
            fleet_listen: all.fleet_listen.unwrap_or(([127, 0, 0, 1], 8444).into()),
            host_listen: all.host_listen.unwrap_or(([127, 0, 0, 1], 9443).into()),
            machines: MachineSettings {
                cpu_overcommit: None,
                firecracker: FirecrackerSettings {
                    program: all.firecracker_bin,
                    ..FirecrackerSettings::default()
                },
                driver: all.driver,
                network: all.network,
                bridge_range: all.bridge_range,
                mount_allow: all.mount_allow.unwrap_or_default(),
                import_allow: all.import_allow.unwrap_or_else(home),
            },
            keep_vms: all.keep_vms.unwrap_or(false),
        })
    }
}

/// The home of whoever runs this, if it is a place of their own. All that `up` serves is theirs.
fn home() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let is_own = |home: &PathBuf| home.is_absolute() && home.parent().is_some() && home.is_dir();
    home.into_iter().filter(is_own).collect()
}

fn socket_place(wanted: Option<PathBuf>, data_dir: &Path) -> SocketPlace {
    wanted.map_or_else(
        || SocketPlace::Under(data_dir.to_owned()),
        SocketPlace::Wanted,
    )
}

/// Root's data lives where daemons keep theirs, a user's where the XDG base directories say.
fn default_data_dir(room: &str) -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok(Path::new("/var/lib/hostler").join(room));
    }
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/share")));
    let base = base.ok_or_else(|| Failure::new("there is no HOME; give --data-dir DIR"))?;
    Ok(base.join("hostler").join(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_allows_imports_from_the_home_of_whoever_runs_it_unless_it_is_told_otherwise() {
        let allowed = |import_allow| {
            let options = UpOptions {
                data_dir: Some("/x".into()),
                import_allow,
                ..UpOptions::default()
            };
            options.resolve().expect("complete").machines.import_allow
        };
        assert_eq!(allowed(None), Vec::from_iter(home()));
        let other = vec![PathBuf::from("/srv/images")];
        assert_eq!(allowed(Some(other.clone())), other);
    }
}
