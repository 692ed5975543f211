//! What the options say about Firecracker and its jailer.

use std::path::PathBuf;

use hostler_vmm::{Config, JailConfig};

use crate::failure::Failure;

/// How Firecracker is run: options as they were given.
#[derive(Debug, Default)]
pub(crate) struct FirecrackerSettings {
    pub(crate) program: Option<PathBuf>,
    /// Absent: VMs are not jailed.
    pub(crate) jailer: Option<PathBuf>,
    pub(crate) jail_ids: Option<String>,
    pub(crate) jail_dir: Option<PathBuf>,
    pub(crate) jail_netns: Option<PathBuf>,
}

impl FirecrackerSettings {
    /// Puts them into the configuration of a host's VMs.
    pub(crate) fn apply(&self, config: &mut Config) -> Result<(), Failure> {
        if let Some(program) = &self.program {
            config.firecracker_binary.clone_from(program);
        }
        let Some(jailer) = &self.jailer else {
            // Whoever says how VMs are jailed believes that they are.
            let useless = [
                ("--jail-ids", self.jail_ids.is_some()),
                ("--jail-dir", self.jail_dir.is_some()),
                ("--jail-netns", self.jail_netns.is_some()),
            ];
            return match useless.iter().find(|(_, given)| *given) {
                Some((flag, _)) => Err(Failure::new(format!(
                    "{flag} is of no use without a jailer; give --jailer too"
                ))),
                None => Ok(()),
            };
        };
        let mut jail = JailConfig::new(jailer);
        if let Some(ids) = &self.jail_ids {
            (jail.first_id, jail.last_id) = range(ids)?;
        }
        jail.base_dir.clone_from(&self.jail_dir);
        jail.netns.clone_from(&self.jail_netns);
        config.jail = Some(jail);
        Ok(())
    }
}

fn range(text: &str) -> Result<(u32, u32), Failure> {
    let parsed = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    parsed.ok_or_else(|| {
        Failure::new(format!(
            "{text:?} is no range of user ids; give --jail-ids FIRST-LAST, such as 900000-965535"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(settings: &FirecrackerSettings) -> Result<Config, String> {
        let mut config = Config::new("/x");
        let outcome = settings.apply(&mut config);
        outcome
            .map(|()| config)
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn vms_are_jailed_if_and_only_if_there_is_a_jailer() {
        assert!(
            applied(&FirecrackerSettings::default())
                .unwrap()
                .jail
                .is_none()
        );
        let settings = FirecrackerSettings {
            jailer: Some("jailer".into()),
            jail_ids: Some("5000-5999".to_owned()),
            ..FirecrackerSettings::default()
        };
        let jail = applied(&settings).unwrap().jail.unwrap();
        assert_eq!((jail.first_id, jail.last_id), (5000, 5999));
        let without = FirecrackerSettings {
            jail_ids: Some("5000-5999".to_owned()),
            ..FirecrackerSettings::default()
        };
        assert!(applied(&without).unwrap_err().contains("give --jailer too"));
    }

    #[test]
    fn a_range_that_is_none_is_refused_with_an_example() {
        for text in ["", "5", "a-b", "5-", "-5", "5-99999999999"] {
            let settings = FirecrackerSettings {
                jailer: Some("jailer".into()),
                jail_ids: Some(text.to_owned()),
                ..FirecrackerSettings::default()
            };
            assert!(
                applied(&settings).unwrap_err().contains("900000-965535"),
                "{text}"
            );
        }
    }
}
