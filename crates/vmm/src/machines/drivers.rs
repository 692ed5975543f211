//! Which drivers work on this host, and which one runs new VMs.
//!
//! A VM keeps the driver that it was made for. So whatever works here is kept ready, even when
//! another was chosen: what was left running is still ours.

use std::path::Path;
use std::sync::Arc;

use super::open::OpenError;
use super::power;
use crate::config::{Config, DriverChoice, NetworkChoice};
use crate::driver::Driver;
use crate::driver::firecracker::{self, Firecracker, jail::Jailer};
use crate::driver::qemu::{self, Qemu};
use crate::errors::NoDriver;
use crate::files::DraftDir;
use crate::layout::Layout;
use crate::model::DriverKind;
use crate::status::DriverStatus;

/// The drivers of this host.
pub(super) struct Drivers {
    /// What runs new VMs.
    pub(super) chosen: Result<Arc<dyn Driver>, NoDriver>,
    works: Vec<Arc<dyn Driver>>,
    pub(super) status: Vec<DriverStatus>,
    /// Present when VMs are jailed.
    firecracker: Option<Arc<Firecracker>>,
}

impl Drivers {
    /// Finds out what works, and chooses.
    pub(super) async fn choose(config: &Config, layout: &Layout) -> Result<Self, OpenError> {
        let (firecracker, qemu) = tokio::join!(try_firecracker(config, layout), try_qemu(config));
        let mut drivers = Self {
            chosen: Err(NoDriver {
                reason: String::new(),
            }),
            works: Vec::new(),
            status: vec![status(DriverKind::Firecracker), status(DriverKind::Qemu)],
            firecracker: None,
        };
        let firecracker = firecracker.map(|(driver, version, reason)| {
            drivers.firecracker = Some(driver.clone());
            (driver as Arc<dyn Driver>, version, reason)
        });
        let mut problems = Vec::new();
        for (status, found) in drivers.status.iter_mut().zip([firecracker, qemu]) {
            match found {
                Ok((driver, version, reason)) => {
                    status.version = Some(version);
                    status.reason = reason;
                    let mut can = driver.capabilities();
                    can.port_forwards |= config.network == NetworkChoice::Bridge;
                    status.capabilities = Some(can);
                    drivers.works.push(driver);
                }
                Err(reason) => {
                    problems.push(format!("{}: {reason}", status.kind));
                    status.reason = reason;
                }
            }
        }
        drivers.chosen = drivers.pick(config.driver, problems)?;
        Ok(drivers)
    }

    /// The one that was asked for, or the first that works: Firecracker before QEMU.
    fn pick(
        &mut self,
        choice: DriverChoice,
        problems: Vec<String>,
    ) -> Result<Result<Arc<dyn Driver>, NoDriver>, OpenError> {
        let wanted = match choice {
            DriverChoice::Auto => None,
            DriverChoice::Firecracker => Some(DriverKind::Firecracker),
            DriverChoice::Qemu => Some(DriverKind::Qemu),
        };
        let fits = |kind| wanted.is_none_or(|wanted| wanted == kind);
        let Some(driver) = self
            .works
            .iter()
            .find(|driver| fits(driver.kind()))
            .cloned()
        else {
            let reason = match wanted {
                Some(kind) => self.problem_of(kind),
                None => problems.join("; "),
            };
            // Whoever asks for Firecracker asks for its walls: nothing else will do, and a host
            // that cannot have them should not look as if it had come up.
            if wanted == Some(DriverKind::Firecracker) {
                return Err(OpenError::Driver {
                    driver: DriverKind::Firecracker,
                    reason,
                });
            }
            return Ok(Err(NoDriver { reason }));
        };
        for status in &mut self.status {
            status.selected = status.kind == driver.kind();
        }
        Ok(Ok(driver))
    }

    fn problem_of(&self, kind: DriverKind) -> String {
        let mut statuses = self.status.iter();
        let status = statuses.find(|status| status.kind == kind);
        status
            .map(|status| status.reason.clone())
            .unwrap_or_default()
    }

    /// The driver of this kind, if it works here.
    pub(super) fn of(&self, kind: DriverKind) -> Result<Arc<dyn Driver>, NoDriver> {
        let found = self.works.iter().find(|driver| driver.kind() == kind);
        found.cloned().ok_or_else(|| NoDriver {
            reason: format!(
                "this VM was made for driver {kind}; {}",
                self.problem_of(kind)
            ),
        })
    }

    pub(super) fn jailer(&self) -> Option<&Jailer> {
        self.firecracker.as_ref()?.jailer()
    }
}

fn status(kind: DriverKind) -> DriverStatus {
    DriverStatus {
        kind,
        selected: false,
        version: None,
        reason: String::new(),
        capabilities: None,
    }
}

/// A driver that works, its version, and what is to be said of it.
type Works<D> = (Arc<D>, String, String);

async fn try_qemu(config: &Config) -> Result<Works<dyn Driver>, String> {
    let found = qemu::probe::probe(&config.qemu_binary)
        .await
        .map_err(|error| error.to_string())?;
    let (version, reason) = (found.version.clone(), found.reason.clone());
    Ok((Arc::new(Qemu::new(found)), version, reason))
}

async fn try_firecracker(config: &Config, layout: &Layout) -> Result<Works<Firecracker>, String> {
    let found = firecracker::probe::find(&config.firecracker_binary)
        .await
        .map_err(|error| error.to_string())?;
    let version = found.version.clone();
    let jail = config.jail.as_ref();
    let jailer = jail
        .map(|jail| Jailer::open(jail, layout.root(), &found.program))
        .transpose()?;
    let confined = match &jailer {
        Some(jailer) => jailer.describe(),
        None => "VMs are not jailed, because no jailer is configured".to_owned(),
    };
    let driver = Firecracker::new(found, jailer);
    try_out(&driver, layout).await?;
    let reason = format!("KVM works: a trial machine ran; {confined}");
    Ok((Arc::new(driver), version, reason))
}

/// Boots something small, in a directory that goes away.
async fn try_out(driver: &Firecracker, layout: &Layout) -> Result<(), String> {
    let draft = DraftDir::begin(&layout.vms()).map_err(|error| error.to_string())?;
    let place = layout.vm_in(Path::to_owned(draft.path()));
    power::prepare_sockets(&place).map_err(|error| error.to_string())?;
    let outcome = firecracker::probe::trial(driver, &place).await;
    power::remove_traces(&place);
    outcome
}
