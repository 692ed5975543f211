//! Options of a host: one that is enrolled at a control plane, or one that stands alone.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use hostler_identity::SvidFiles;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::firecracker::FirecrackerSettings;
use super::{default_data_dir, read, socket_place};
use crate::failure::{Doing, Failure};
use crate::machines::MachineSettings;
use crate::workload::SocketPlace;

#[derive(Args, Clone, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AgentOptions {
    /// Run without a control plane: whoever has a certificate of --tls-ca may do everything here
    #[arg(long, env = "HOSTLER_STANDALONE", num_args = 0..=1, default_missing_value = "true")]
    pub(super) standalone: Option<bool>,
    /// The people's door of the control plane, https://HOST:PORT
    #[arg(long, env = "HOSTLER_SERVER", value_name = "URL")]
    pub(super) server: Option<String>,
    /// Where the control plane reaches this host's door [default: nowhere; this host keeps a connection
    /// of its own to the control plane, and is reached over that]
    #[arg(long, env = "HOSTLER_ADDRESS", value_name = "IP:PORT")]
    pub(super) address: Option<String>,
    /// The one-time token that enrols this host; better in the variable than on the command line
    #[arg(
        long,
        env = "HOSTLER_REGISTER",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    pub(super) register: Option<SecretString>,
    /// The CA that signed the people's door's certificate, PEM; a copy of the server's
    /// DATA_DIR/ca.pem [default: the CAs that this system trusts]
    #[arg(long, env = "HOSTLER_SERVER_CA", value_name = "FILE")]
    pub(super) server_ca: Option<PathBuf>,
    /// Instead of --server-ca: the pin that the server prints at its start, the SHA-256 of its
    /// CA's public key
    #[arg(long, env = "HOSTLER_SERVER_CA_PIN", value_name = "sha256:HEX")]
    pub(super) server_ca_pin: Option<String>,
    /// Standalone: the certificate of this host's door, PEM; read again when it changes
    #[arg(long, env = "HOSTLER_TLS_CERT", value_name = "FILE")]
    pub(super) tls_cert: Option<PathBuf>,
    /// Standalone: the key of --tls-cert, PEM
    #[arg(long, env = "HOSTLER_TLS_KEY", value_name = "FILE")]
    pub(super) tls_key: Option<PathBuf>,
    /// Standalone: the CA that signs the certificates of those who may call this host, PEM
    #[arg(long, env = "HOSTLER_TLS_CA", value_name = "FILE")]
    pub(super) tls_ca: Option<PathBuf>,
    /// This host's door [default: 0.0.0.0:9443, standalone 127.0.0.1:9443, without --address a free
    /// port of 127.0.0.1]
    #[arg(long, env = "HOSTLER_LISTEN", value_name = "IP:PORT")]
    pub(super) listen: Option<SocketAddr>,
    /// Plain HTTP for probes without a certificate: GET /healthz says ok, and nothing else is there
    /// [default: none]
    #[arg(long, env = "HOSTLER_HEALTH_LISTEN", value_name = "IP:PORT")]
    pub(super) health_listen: Option<SocketAddr>,
    /// Where this host keeps its credentials, images and VMs
    #[arg(long, env = "HOSTLER_DATA_DIR", value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// The SPIFFE Workload API: where processes on this host ask who they are [default:
    /// DATA_DIR/workload/api.sock]
    #[arg(long, env = "HOSTLER_WORKLOAD_SOCKET", value_name = "PATH")]
    pub(super) workload_socket: Option<PathBuf>,
    /// What runs the VMs: auto, qemu or firecracker [default: auto]
    #[arg(long, env = "HOSTLER_DRIVER", value_name = "DRIVER")]
    pub(super) driver: Option<String>,
    /// How VMs reach others: user (each has a network of its own, no privilege needed) or bridge
    /// (each has an address on a bridge of this host; needs root) [default: user]
    #[arg(long, env = "HOSTLER_NETWORK", value_name = "NETWORK")]
    pub(super) network: Option<String>,
    /// Where the bridge takes its subnet from: one /24 of it, chosen once [default: 10.77.0.0/16]
    #[arg(long, env = "HOSTLER_BRIDGE_RANGE", value_name = "CIDR")]
    pub(super) bridge_range: Option<String>,
    /// A directory of which VMs may mount what is in it. May be given again; in the variable,
    /// separate by colons [default: none]
    #[arg(
        long,
        env = "HOSTLER_MOUNT_ALLOW",
        value_name = "DIR",
        value_delimiter = ':'
    )]
    pub(super) mount_allow: Option<Vec<PathBuf>>,
    /// A directory of which images and kernels may be imported. May be given again; in the
    /// variable, separate by colons [default: none, they come from registries only]
    #[arg(
        long,
        env = "HOSTLER_IMPORT_ALLOW",
        value_name = "DIR",
        value_delimiter = ':'
    )]
    pub(super) import_allow: Option<Vec<PathBuf>>,
    /// How many virtual CPUs VMs may reserve for each CPU of this host [default: 4]
    #[arg(long, env = "HOSTLER_CPU_OVERCOMMIT", value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) cpu_overcommit: Option<u32>,
    /// The Firecracker to run: a path, or a name to look up in PATH [default: firecracker]
    #[arg(long, env = "HOSTLER_FIRECRACKER_BIN", value_name = "PROGRAM")]
    pub(super) firecracker_bin: Option<PathBuf>,
    /// Firecracker's jailer: each VM gets a root, a user and limits of its own; needs root
    /// [default: none, VMs are not jailed]
    #[arg(long, env = "HOSTLER_JAILER", value_name = "PROGRAM")]
    pub(super) jailer: Option<PathBuf>,
    /// The user ids that jailed VMs get, one each [default: 900000-965535]
    #[arg(long, env = "HOSTLER_JAIL_IDS", value_name = "FIRST-LAST")]
    pub(super) jail_ids: Option<String>,
    /// Where the jails are, on the file system of the data directory [default: DATA_DIR/jail]
    #[arg(long, env = "HOSTLER_JAIL_DIR", value_name = "DIR")]
    pub(super) jail_dir: Option<PathBuf>,
    /// The network namespace that jailed VMs join, such as /run/netns/vms [default: the host's]
    #[arg(long, env = "HOSTLER_JAIL_NETNS", value_name = "FILE")]
    pub(super) jail_netns: Option<PathBuf>,
    /// A YAML file with any of these options as keys (data_dir: ...)
    #[arg(long, env = "HOSTLER_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub(super) config: Option<PathBuf>,
}

/// How an agent recognises the people's door before it has an identity of its own.
pub(crate) enum Trust {
    CaFile(PathBuf),
    Pin(String),
    System,
}

/// The options of a host, complete.
pub(crate) struct AgentSettings {
    pub(crate) mode: AgentMode,
    pub(crate) listen: SocketAddr,
    pub(crate) health_listen: Option<SocketAddr>,
    pub(crate) data_dir: PathBuf,
    pub(crate) machines: MachineSettings,
}

/// Whose host it is.
pub(crate) enum AgentMode {
    /// A control plane's.
    Enrolled(Enrolment),
    /// Nobody's but its operator's, who has a certificate of the CA in these files.
    Standalone(SvidFiles),
}

/// How a host and its control plane find each other.
pub(crate) struct Enrolment {
    pub(crate) server: String,
    pub(crate) address: Option<String>,
    pub(crate) register: Option<SecretString>,
    pub(crate) trust: Trust,
    pub(crate) workload_socket: SocketPlace,
}

impl AgentOptions {
    pub(crate) fn resolve(self) -> Result<AgentSettings, Failure> {
        let file: Self = read(self.config.as_deref())?;
        let all = self.over(file);
        let data_dir = match all.data_dir.clone() {
            Some(data_dir) => data_dir,
            None => default_data_dir("agent")?,
        };
        let standalone = all.standalone.unwrap_or(false);
        let everywhere = [0, 0, 0, 0];
        let here = [127, 0, 0, 1];
        // Whoever cannot be dialled is reached from this machine only.
        let (ip, port) = match (standalone, &all.address) {
            (true, _) => (here, 9443),
            (false, Some(_)) => (everywhere, 9443),
            (false, None) => (here, 0),
        };
        Ok(AgentSettings {
            listen: all.listen.unwrap_or((ip, port).into()),
            health_listen: all.health_listen,
            machines: MachineSettings {
                driver: all.driver.clone(),
                network: all.network.clone(),
                bridge_range: all.bridge_range.clone(),
                mount_allow: all.mount_allow.clone().unwrap_or_default(),
                import_allow: all.import_allow.clone().unwrap_or_default(),
                cpu_overcommit: all.cpu_overcommit.filter(|n| *n > 0),
                firecracker: FirecrackerSettings {
                    program: all.firecracker_bin.clone(),
                    jailer: all.jailer.clone(),
                    jail_ids: all.jail_ids.clone(),
                    jail_dir: all.jail_dir.clone(),
                    jail_netns: all.jail_netns.clone(),
                },
            },
            mode: match standalone {
                true => AgentMode::Standalone(all.files()?),
                false => AgentMode::Enrolled(all.enrolment(&data_dir)?),
            },
            data_dir,
        })
    }

    /// These, and what they leave open from `other`.
    pub(crate) fn over(self, other: Self) -> Self {
        over!(
            Self,
            self,
            other,
            standalone,
            server,
            address,
            register,
            server_ca,
            server_ca_pin,
            tls_cert,
            tls_key,
            tls_ca,
            listen,
            health_listen,
            data_dir,
            workload_socket,
            driver,
            network,
            bridge_range,
            mount_allow,
            import_allow,
            cpu_overcommit,
            firecracker_bin,
            jailer,
            jail_ids,
            jail_dir,
            jail_netns,
            config,
        )
    }

    /// Paths that mean the same wherever the daemon is started.
    pub(crate) fn make_absolute(&mut self) -> Result<(), Failure> {
        let paths = [
            &mut self.server_ca,
            &mut self.jail_dir,
            &mut self.jail_netns,
            &mut self.tls_cert,
            &mut self.tls_key,
            &mut self.tls_ca,
            &mut self.data_dir,
            &mut self.workload_socket,
            &mut self.config,
        ];
        let lists = [&mut self.mount_allow, &mut self.import_allow];
        let directories = lists.into_iter().flatten().flatten();
        for path in paths.into_iter().flatten().chain(directories) {
            let absolute = std::path::absolute(&*path);
            *path = absolute.doing(|| format!("cannot tell where {} is", path.display()))?;
        }
        Ok(())
    }

    /// What was given, as variables of the environment.
    pub(crate) fn variables(&self) -> Vec<(&'static str, SecretString)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
        let address = |address: &Option<SocketAddr>| address.map(|a| a.to_string());
        let register = self.register.as_ref();
        let list = |directories: &Option<Vec<PathBuf>>| {
            let directories = directories.as_ref()?.iter();
            let directories = directories.map(|path| path.display().to_string());
            Some(directories.collect::<Vec<_>>().join(":"))
        };
        let all = [
            (
                "HOSTLER_STANDALONE",
                self.standalone.map(|yes| yes.to_string()),
            ),
            ("HOSTLER_SERVER", self.server.clone()),
            ("HOSTLER_ADDRESS", self.address.clone()),
            (
                "HOSTLER_REGISTER",
                register.map(|token| token.expose_secret().to_owned()),
            ),
            ("HOSTLER_SERVER_CA", path(&self.server_ca)),
            ("HOSTLER_SERVER_CA_PIN", self.server_ca_pin.clone()),
            ("HOSTLER_TLS_CERT", path(&self.tls_cert)),
            ("HOSTLER_TLS_KEY", path(&self.tls_key)),
            ("HOSTLER_TLS_CA", path(&self.tls_ca)),
            ("HOSTLER_LISTEN", address(&self.listen)),
            ("HOSTLER_HEALTH_LISTEN", address(&self.health_listen)),
            ("HOSTLER_DATA_DIR", path(&self.data_dir)),
            ("HOSTLER_WORKLOAD_SOCKET", path(&self.workload_socket)),
            ("HOSTLER_DRIVER", self.driver.clone()),
            ("HOSTLER_FIRECRACKER_BIN", path(&self.firecracker_bin)),
            ("HOSTLER_JAILER", path(&self.jailer)),
            ("HOSTLER_JAIL_IDS", self.jail_ids.clone()),
            ("HOSTLER_JAIL_DIR", path(&self.jail_dir)),
            ("HOSTLER_JAIL_NETNS", path(&self.jail_netns)),
            ("HOSTLER_NETWORK", self.network.clone()),
            ("HOSTLER_BRIDGE_RANGE", self.bridge_range.clone()),
            ("HOSTLER_MOUNT_ALLOW", list(&self.mount_allow)),
            ("HOSTLER_IMPORT_ALLOW", list(&self.import_allow)),
            (
                "HOSTLER_CPU_OVERCOMMIT",
                self.cpu_overcommit.map(|n| n.to_string()),
            ),
            ("HOSTLER_CONFIG", path(&self.config)),
        ];
        let given = all
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        given.map(|(name, value)| (name, value.into())).collect()
    }

    fn files(self) -> Result<SvidFiles, Failure> {
        let of_a_control_plane = [
            ("--server", self.server.is_some()),
            ("--address", self.address.is_some()),
            ("--register", self.register.is_some()),
            ("--server-ca", self.server_ca.is_some()),
            ("--server-ca-pin", self.server_ca_pin.is_some()),
            ("--workload-socket", self.workload_socket.is_some()),
        ];
        if let Some((flag, _)) = of_a_control_plane.iter().find(|(_, given)| *given) {
            return Err(Failure::new(format!(
                "{flag} is for a host of a control plane; leave it or --standalone out"
            )));
        }
        let needed = |flag: &str| {
            Failure::new(format!(
                "--standalone needs {flag} FILE; `hostler tls init` makes such files"
            ))
        };
        Ok(SvidFiles {
            chain: self.tls_cert.ok_or_else(|| needed("--tls-cert"))?,
            key: self.tls_key.ok_or_else(|| needed("--tls-key"))?,
            bundle: self.tls_ca.ok_or_else(|| needed("--tls-ca"))?,
        })
    }

    fn enrolment(self, data_dir: &std::path::Path) -> Result<Enrolment, Failure> {
        if self.tls_cert.is_some() || self.tls_key.is_some() || self.tls_ca.is_some() {
            return Err(Failure::new(
                "--tls-cert, --tls-key and --tls-ca are for a host without a control plane; add \
                 --standalone, or leave them out: an enrolled host gets its certificate by itself",
            ));
        }
        let trust = match (self.server_ca, self.server_ca_pin) {
            (Some(file), None) => Trust::CaFile(file),
            (None, Some(pin)) => Trust::Pin(pin),
            (None, None) => Trust::System,
            _ => {
                return Err(Failure::new(
                    "give one of --server-ca and --server-ca-pin, not both",
                ));
            }
        };
        let missing = |flag| {
            Failure::new(format!(
                "{flag} is missing (or --standalone, for a host without a control plane); see \
                 `hostler agent --help`"
            ))
        };
        Ok(Enrolment {
            server: self.server.ok_or_else(|| missing("--server URL"))?,
            address: self.address,
            register: self.register,
            trust,
            workload_socket: socket_place(self.workload_socket, data_dir),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(options: AgentOptions) -> String {
        options.resolve().err().expect("a failure").to_string()
    }

    fn standalone() -> AgentOptions {
        AgentOptions {
            standalone: Some(true),
            tls_cert: Some("c.pem".into()),
            tls_key: Some("k.pem".into()),
            tls_ca: Some("ca.pem".into()),
            data_dir: Some("/data".into()),
            ..AgentOptions::default()
        }
    }

    #[test]
    fn an_agent_recognises_its_server_by_one_thing() {
        let line = complaint(AgentOptions {
            server_ca: Some("ca.pem".into()),
            server_ca_pin: Some("sha256:00".to_owned()),
            ..AgentOptions::default()
        });
        assert!(line.contains("not both"), "{line}");
    }

    #[test]
    fn a_standalone_host_listens_for_this_machine_unless_it_is_told_more() {
        let settings = standalone().resolve().expect("settings");
        assert_eq!(settings.listen, ([127, 0, 0, 1], 9443).into());
        assert!(matches!(settings.mode, AgentMode::Standalone(_)));
    }

    #[test]
    fn every_option_can_be_a_variable_of_a_service() {
        use clap::CommandFactory;
        let all = AgentOptions {
            standalone: Some(true),
            server: Some("x".to_owned()),
            address: Some("x".to_owned()),
            register: Some("x".to_owned().into()),
            server_ca: Some("x".into()),
            server_ca_pin: Some("x".to_owned()),
            listen: Some(([127, 0, 0, 1], 1).into()),
            health_listen: Some(([127, 0, 0, 1], 1).into()),
            workload_socket: Some("x".into()),
            driver: Some("x".to_owned()),
            firecracker_bin: Some("x".into()),
            jailer: Some("x".into()),
            jail_ids: Some("x".to_owned()),
            jail_dir: Some("x".into()),
            jail_netns: Some("x".into()),
            network: Some("x".to_owned()),
            bridge_range: Some("x".to_owned()),
            mount_allow: Some(vec!["x".into()]),
            import_allow: Some(vec!["x".into()]),
            cpu_overcommit: Some(1),
            config: Some("x".into()),
            ..standalone()
        };
        let mut told: Vec<_> = all.variables().into_iter().map(|(name, _)| name).collect();
        let agent = crate::cli::Cli::command();
        let agent = agent.find_subcommand("agent").expect("it exists");
        let known = agent.get_arguments().filter_map(|a| a.get_env()?.to_str());
        let mut known: Vec<_> = known.collect();
        told.sort_unstable();
        known.sort_unstable();
        assert_eq!(told, known);
    }

    #[test]
    fn half_a_choice_between_enrolled_and_standalone_is_refused_by_name() {
        let line = complaint(AgentOptions {
            server: Some("https://x".to_owned()),
            ..standalone()
        });
        assert!(line.contains("--server is for"), "{line}");
        let line = complaint(AgentOptions {
            tls_ca: None,
            ..standalone()
        });
        assert!(line.contains("needs --tls-ca"), "{line}");
        let line = complaint(AgentOptions {
            standalone: None,
            ..standalone()
        });
        assert!(line.contains("add --standalone"), "{line}");
    }
}
