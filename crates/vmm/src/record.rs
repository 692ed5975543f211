//! A VM's record: what is known of it, in memory and as `vm.json` in its directory.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::files::{self, Context as _, StorageError};
use crate::lifecycle::{Ending, Phase};
use crate::model::{PortForward, Vm};
use crate::restart::{Cause, Restarts, Verdict};
use crate::spec::Spec;

/// The version of the file's form; a file of another version is not touched.
const VERSION: u32 = 1;

/// No record is longer, in bytes.
const MAX_RECORD: u64 = 4 * 1024 * 1024;

const RESTORE_INTERRUPTED: &str = "the daemon ended while the VM was restored; its disk is whole, either the \
                                   snapshot's or the one that it had: restore it again, or start it";

/// Everything that is known of a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    version: u32,
    pub(crate) spec: Spec,
    pub(crate) port_forwards: Vec<PortForward>,
    pub(crate) phase: Phase,
    /// Absent in the records of earlier versions.
    #[serde(default)]
    pub(crate) restarts: Restarts,
    /// Its process gives way to a restore, which is not over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_restored: bool,
}

impl Record {
    pub(crate) fn new(spec: Spec, port_forwards: Vec<PortForward>) -> Self {
        Self {
            version: VERSION,
            spec,
            port_forwards,
            phase: Phase::NEW,
            restarts: Restarts::default(),
            is_restored: false,
        }
    }

    /// The process is gone, and it is decided what becomes of the VM.
    pub(crate) fn ended(&mut self, ending: Ending, now: Timestamp) {
        let Some(started_at) = self.phase.live().map(|live| live.started_at) else {
            return;
        };
        let unwatched = ending == Ending::Unwatched;
        self.phase.ended(ending, now);
        if let Phase::Idle(idle) = &self.phase {
            let cause = Cause::of(idle, unwatched);
            self.decide(cause, Some(started_at), now);
        }
    }

    /// Whoever restored it is gone. That its process gave way was nobody's wish, so without one the VM
    /// has failed.
    pub(crate) fn restore_interrupted(&mut self, now: Timestamp) {
        self.is_restored = false;
        if self.phase.live().is_none() {
            self.phase.failed(RESTORE_INTERRUPTED.to_owned(), now);
            self.decide(Cause::Failure, None, now);
        }
    }

    /// A restart failed, and it is decided what becomes of the VM.
    pub(crate) fn restart_failed(&mut self, reason: &str, now: Timestamp) {
        self.phase.failed(reason.to_owned(), now);
        self.decide(Cause::Failure, None, now);
    }

    fn decide(&mut self, cause: Cause, started_at: Option<Timestamp>, now: Timestamp) {
        let rule = self.spec.restart;
        if self.restarts.ended(rule, cause, started_at, now) == Verdict::GiveUp {
            let times = self.restarts.in_a_row;
            let last = self.phase.reason().unwrap_or("its guest shut down");
            let reason = format!("started again {times} times in a row, and given up: {last}");
            self.phase.failed(reason, now);
        }
    }

    /// Reads the record of the VM in `directory`.
    pub(crate) fn load(directory: &Path) -> Result<Self, LoadError> {
        let path = path_in(directory);
        let bytes = files::read_regular(&path, MAX_RECORD).context("read", &path)?;
        let record: Self = serde_json::from_slice(&bytes).map_err(|source| LoadError::Damaged {
            path: path.clone(),
            source,
        })?;
        if record.version != VERSION {
            return Err(LoadError::Version {
                path,
                version: record.version,
            });
        }
        if directory.file_name() != Some(record.spec.name.as_str().as_ref()) {
            return Err(LoadError::Misplaced {
                path,
                name: record.spec.name.to_string(),
            });
        }
        Ok(record)
    }

    /// Writes the record of the VM in `directory`, whole or not at all.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), StorageError> {
        let path = path_in(directory);
        let bytes = serde_json::to_vec_pretty(self)
            .map_err(io::Error::from)
            .context("write", &path)?;
        files::write_atomic(&path, &bytes)
    }

    /// What a caller is shown.
    pub(crate) fn view(&self) -> Vm {
        let Self {
            version: _,
            spec,
            port_forwards,
            phase,
            restarts,
            is_restored: _,
        } = self;
        let live = phase.live();
        Vm {
            name: spec.name.clone(),
            id: spec.id,
            state: phase.state(),
            state_reason: phase.reason().map(str::to_owned),
            cpus: spec.cpus,
            memory_mb: spec.memory_mb,
            disk_size_mb: spec.disk_size_mb,
            image: spec.image.clone(),
            kernel: spec.kernel.clone(),
            driver: spec.driver,
            ip_address: spec.ip_address,
            mac_address: spec.mac_address.as_str().to_owned(),
            ssh_public_key: spec
                .ssh_public_key
                .as_ref()
                .map(|key| key.as_str().to_owned()),
            dns_servers: spec.dns_servers.clone(),
            mounts: spec.mounts.clone(),
            port_forwards: port_forwards.clone(),
            auto_start: spec.auto_start,
            restart_policy: spec.restart.policy,
            restart_limit: spec.restart.limit,
            restarts: restarts.in_a_row,
            next_restart_at: restarts.due,
            created_at: spec.created_at,
            started_at: live.map(|live| live.started_at),
            ready_at: live.and_then(|live| live.ready_at),
        }
    }
}

fn path_in(directory: &Path) -> PathBuf {
    directory.join("vm.json")
}

/// A VM's record could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LoadError {
    /// The file could not be read.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The file is not a record.
    #[error(
        "{} is damaged ({source}); restore it from a backup, or move its directory away to give \
         the VM up", path.display()
    )]
    Damaged {
        path: PathBuf,
        source: serde_json::Error,
    },
    /// The file comes from another version of this program.
    #[error(
        "{} has form {version}, this program knows form {VERSION}; run the version of the program \
         that wrote it", path.display()
    )]
    Version { path: PathBuf, version: u32 },
    /// The file belongs to another VM.
    #[error("{} is the record of VM {name:?}; move its directory to that name", path.display())]
    Misplaced { path: PathBuf, name: String },
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use jiff::SignedDuration;
    use proptest::prelude::*;

    use super::*;
    use crate::config::NetworkChoice;
    use crate::model::VmState;
    use crate::model::{DriverKind, VmId};
    use crate::restart::{RestartPolicy, RestartRule};
    use crate::spec::MacAddress;

    pub(crate) fn record() -> Record {
        let spec = Spec {
            name: "web-1".parse().unwrap(),
            hostname: "web-1".parse().unwrap(),
            id: VmId::generate(),
            cpus: 1,
            memory_mb: 512,
            disk_size_mb: 1024,
            image: "debian-minimal".parse().unwrap(),
            kernel: "debian-cloud".parse().unwrap(),
            driver: DriverKind::Qemu,
            network: NetworkChoice::User,
            ip_address: "10.0.2.15".parse().unwrap(),
            mac_address: MacAddress::generate(),
            ssh_public_key: None,
            dns_servers: Vec::new(),
            mounts: Vec::new(),
            auto_start: false,
            restart: RestartRule::default(),
            created_at: Timestamp::from_second(1).unwrap(),
        };
        Record::new(spec, Vec::new())
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("web-1");
        fs::create_dir(&place).unwrap();
        (dir, place)
    }

    #[test]
    fn a_record_comes_back_as_it_was_and_only_its_owner_may_read_it() {
        let (_dir, place) = place();
        let record = record();
        record.save(&place).unwrap();
        assert_eq!(Record::load(&place).unwrap(), record);
        let mode = fs::metadata(path_in(&place)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_record_in_the_wrong_directory_is_refused() {
        let (dir, place) = place();
        record().save(&place).unwrap();
        let elsewhere = dir.path().join("web-2");
        fs::rename(&place, &elsewhere).unwrap();
        assert!(matches!(
            Record::load(&elsewhere),
            Err(LoadError::Misplaced { .. })
        ));
    }

    #[test]
    fn a_record_of_another_version_is_refused() {
        let (_dir, place) = place();
        let record = Record {
            version: 2,
            ..record()
        };
        record.save(&place).unwrap();
        assert!(matches!(
            Record::load(&place),
            Err(LoadError::Version { version: 2, .. })
        ));
    }

    #[test]
    fn a_record_of_a_version_before_restarts_is_read() {
        let (_dir, place) = place();
        let record = record();
        let mut older = serde_json::to_value(&record).unwrap();
        older.as_object_mut().unwrap().remove("restarts").unwrap();
        let spec = older["spec"].as_object_mut().unwrap();
        spec.remove("restart").unwrap();
        fs::write(path_in(&place), older.to_string()).unwrap();
        assert_eq!(Record::load(&place).unwrap(), record);
    }

    #[test]
    fn a_vm_that_is_given_up_says_how_often_it_was_tried_and_what_happened_last() {
        let mut record = record();
        record.spec.restart = RestartRule {
            policy: RestartPolicy::OnFailure,
            limit: 1,
        };
        let now = Timestamp::UNIX_EPOCH;
        record.restart_failed("its disk is full", now);
        assert_eq!(
            record.view().next_restart_at,
            Some(now + SignedDuration::from_secs(1))
        );
        record.restarts.begun();
        record.restart_failed("its disk is full", now);
        let vm = record.view();
        assert_eq!((vm.state, vm.next_restart_at), (VmState::Error, None));
        let reason = vm.state_reason.unwrap();
        assert!(
            reason.contains("1 times") && reason.contains("full"),
            "{reason}"
        );
    }

    proptest! {
        #[test]
        fn half_a_record_is_never_read_back(share in 0.0f64..1.0) {
            let (_dir, place) = place();
            record().save(&place).unwrap();
            let whole = fs::read(path_in(&place)).unwrap();
            let cut = (whole.len() as f64 * share) as usize;
            fs::write(path_in(&place), &whole[..cut]).unwrap();
            let is_damaged = matches!(Record::load(&place), Err(LoadError::Damaged { .. }));
            prop_assert!(is_damaged);
        }
    }
}
