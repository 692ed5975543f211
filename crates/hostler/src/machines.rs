//! What the options of `agent` and `up` say about VMs, and opening what runs them.

use std::path::{Path, PathBuf};

use hostler_vmm::{Config, DriverChoice, Machines, NetworkChoice};

use crate::failure::{Doing, Failure};
use crate::options::FirecrackerSettings;
use crate::workload::make_passable_dir;

/// How VMs run on this host: options as they were given.
#[derive(Default)]
pub(crate) struct MachineSettings {
    pub(crate) driver: Option<String>,
    /// `None`: as many as is usual.
    pub(crate) cpu_overcommit: Option<u32>,
    pub(crate) network: Option<String>,
    pub(crate) bridge_range: Option<String>,
    pub(crate) mount_allow: Vec<PathBuf>,
    pub(crate) import_allow: Vec<PathBuf>,
    pub(crate) firecracker: FirecrackerSettings,
}

impl MachineSettings {
    fn config(&self, data_dir: &Path) -> Result<Config, Failure> {
        let mut config = Config::new(data_dir);
        config.driver = match self.driver.as_deref().unwrap_or("auto") {
            "auto" => DriverChoice::Auto,
            "qemu" => DriverChoice::Qemu,
            "firecracker" => DriverChoice::Firecracker,
            other => {
                return Err(Failure::new(format!(
                    "there is no driver {other:?}; give auto, qemu or firecracker"
                )));
            }
        };
        config.cpu_overcommit = self.cpu_overcommit.unwrap_or(config.cpu_overcommit);
        config.network = match self.network.as_deref().unwrap_or("user") {
            "user" => NetworkChoice::User,
            "bridge" => NetworkChoice::Bridge,
            other => {
                return Err(Failure::new(format!(
                    "there is no network {other:?}; give user or bridge"
                )));
            }
        };
        if let Some(range) = &self.bridge_range {
            config.bridge_range = range.parse().doing(|| "--bridge-range is wrong")?;
        }
        config.mount_allow.clone_from(&self.mount_allow);
        config.import_allow.clone_from(&self.import_allow);
        self.firecracker.apply(&mut config)?;
        Ok(config)
    }

    /// Opens what runs VMs: adopts those that run, sweeps what nobody owns.
    pub(crate) async fn open(&self, data_dir: &Path) -> Result<Machines, Failure> {
        let config = self.config(data_dir)?;
        make_passable_dir(data_dir)?;
        Machines::open(config)
            .await
            .doing(|| "cannot open the host's data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_is_refused_with_what_does() {
        let refused = |settings: MachineSettings| {
            let refused = settings.config(Path::new("/x")).err();
            refused.expect("a failure").to_string()
        };
        let line = refused(MachineSettings {
            network: Some("auto".to_owned()),
            ..MachineSettings::default()
        });
        assert!(line.contains("give user or bridge"), "{line}");
        let line = refused(MachineSettings {
            bridge_range: Some("10.77.0.1/16".to_owned()),
            ..MachineSettings::default()
        });
        assert!(
            line.contains("--bridge-range") && line.contains("10.77.0.0/16"),
            "{line}"
        );
    }

    #[test]
    fn vms_are_on_a_network_in_user_mode_unless_it_is_said_otherwise() {
        let config = MachineSettings::default().config(Path::new("/x"));
        let config = config.expect("a configuration");
        assert_eq!(config.network, NetworkChoice::User);
        assert!(config.mount_allow.is_empty() && config.import_allow.is_empty());
    }
}
