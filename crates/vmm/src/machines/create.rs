//! Making and unmaking VMs.
//!
//! A new VM is put together in a draft directory and appears by a rename, so there never is half
//! of one. Everything that it reserves on the way (its name, its share of the host, its ports) is
//! held by a guard that gives it back when anything fails.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Inner, power};
use crate::blocking::Wanted;
use crate::config::DriverChoice;
use crate::disk;
use crate::driver::Driver;
use crate::errors::{CreateError, DeleteError, NoDriver, Unsupported};
use crate::files::{self, DraftDir};
use crate::layout;
use crate::model::{CreateVm, Vm, VmId, VmState};
use crate::name::ItemName;
use crate::network::{Claim, Home};
use crate::record::Record;
use crate::registry::{ReserveError, Share};
use crate::restart::RestartRule;
use crate::slot::{Presence, Slot};
use crate::spec::{self, Spec};
use crate::{DEFAULT_IMAGE, DEFAULT_KERNEL, fault};

pub(super) async fn create(
    inner: &Inner,
    request: CreateVm,
    wanted: Wanted,
) -> Result<Vm, CreateError> {
    spec::check(&request)?;
    let driver = choose_driver(inner, &request)?;
    check_supported(inner, &request, &*driver)?;
    for mount in &request.mounts {
        inner.hold(mount)?;
    }
    if inner.damaged.contains_key(request.name.as_str()) {
        return Err(CreateError::Exists { name: request.name });
    }
    let forwards = request.port_forwards.clone();
    let id = VmId::generate();
    let claim = inner.networks.claim(id, &request.name)?;
    let spec = decide(request, &*driver, id, &claim)?;

    let share = Share {
        resources: spec.resources(),
        image: spec.image.clone(),
        kernel: spec.kernel.clone(),
    };
    let reservation = inner
        .registry
        .reserve(&spec.name, share, inner.capacity()?)
        .map_err(|refused| match refused {
            ReserveError::Exists => CreateError::Exists {
                name: spec.name.clone(),
            },
            ReserveError::Capacity(short) => short.into(),
        })?;
    // From here on the image and the kernel are in use: if they are there now, they stay.
    let image = inner.images.root_disk(&spec.image)?;
    let format = inner.kernels.files(&spec.kernel)?.format;
    if !driver.boots(format) {
        return Err(Unsupported {
            feature: format!("booting a {format} (kernel {})", spec.kernel),
            driver: driver.kind(),
        }
        .into());
    }
    let ports = inner.ports.claim(&spec.name, &forwards)?;

    inner.networks.save().await?;
    let record = Record::new(spec, forwards);
    let dir = inner.layout.vm(&record.spec.name);
    fault::point("create.reserved");
    let draft = DraftDir::begin(&inner.layout.vms())?;
    fault::point("create.begun");
    disk::make(
        &image,
        &layout::disk_in(draft.path()),
        record.spec.disk_size_mb,
    )
    .await?;
    fault::point("create.disk-made");
    let place = dir.path().to_owned();
    let record = crate::blocking::run(move || {
        record.save(draft.path())?;
        fault::point("create.recorded");
        if !wanted.is_wanted() {
            return Err(CreateError::GivenUp);
        }
        draft.appear_as(&place)?;
        fault::point("create.appeared");
        Ok(record)
    })
    .await?;

    let slot = Arc::new(Slot::new(dir, record));
    let view = slot.view();
    reservation.settle(slot);
    ports.keep();
    claim.keep();
    Ok(view)
}

/// What will run the VM: what the request asks for, where the host was left to choose and it works;
/// else what the host has chosen.
fn choose_driver(inner: &Inner, request: &CreateVm) -> Result<Arc<dyn Driver>, NoDriver> {
    match request.driver {
        Some(wanted) if inner.config.driver == DriverChoice::Auto => {
            inner.driver_of(wanted).or_else(|_| inner.driver())
        }
        _ => inner.driver(),
    }
}

/// Refuses what the driver cannot do, before anything is touched.
fn check_supported(
    inner: &Inner,
    request: &CreateVm,
    driver: &dyn Driver,
) -> Result<(), Unsupported> {
    let can = inner.capabilities(driver);
    let driver = driver.kind();
    let unsupported = |feature: &str| Unsupported {
        feature: feature.to_owned(),
        driver,
    };
    if let Some(wanted) = request.driver.filter(|wanted| *wanted != driver) {
        return Err(unsupported(&format!("driver {wanted}")));
    }
    if !request.mounts.is_empty() && !can.mounts {
        return Err(unsupported(
            "sharing directories (mounts), which needs QEMU, virtiofsd and root,",
        ));
    }
    if !request.port_forwards.is_empty() && !can.port_forwards {
        return Err(unsupported("forwarding ports (port_forwards)"));
    }
    Ok(())
}

/// Fills in everything that the request left open.
fn decide(
    request: CreateVm,
    driver: &dyn Driver,
    id: VmId,
    claim: &Claim,
) -> Result<Spec, CreateError> {
    let Home {
        network,
        address,
        mac,
    } = claim.home.clone();
    Ok(Spec {
        id,
        cpus: request.cpus,
        memory_mb: request.memory_mb,
        disk_size_mb: request.disk_size_mb,
        image: request
            .image
            .unwrap_or_else(|| ItemName::literal(DEFAULT_IMAGE)),
        kernel: request
            .kernel
            .unwrap_or_else(|| ItemName::literal(DEFAULT_KERNEL)),
        driver: driver.kind(),
        network,
        ip_address: address,
        mac_address: mac,
        ssh_public_key: request.ssh_public_key.map(|key| key.parse()).transpose()?,
        dns_servers: request.dns_servers,
        mounts: request.mounts,
        auto_start: request.auto_start,
        restart: RestartRule {
            policy: request.restart_policy,
            limit: request.restart_limit,
        },
        created_at: Timestamp::now(),
        hostname: request.hostname.unwrap_or_else(|| request.name.clone()),
        name: request.name,
    })
}

/// Deletes a VM whose turn the caller has.
pub(super) async fn delete(
    inner: &Inner,
    slot: &Slot,
    presence: &mut Presence,
    force: bool,
) -> Result<Vm, DeleteError> {
    let record = slot.record();
    let name = record.spec.name;
    if record.phase.live().is_some() {
        if !force {
            return Err(DeleteError::Running { name });
        }
        power::kill(slot).await?;
        fault::point("delete.killed");
    }
    let place = slot.dir.path().to_owned();
    let driver = inner.driver_of(record.spec.driver).ok();
    crate::blocking::run(move || {
        files::remove_dir_atomic(&place)?;
        if let Some(driver) = driver {
            driver.forget(record.spec.id);
        }
        Ok::<_, files::StorageError>(())
    })
    .await?;
    fault::point("delete.removed");
    *presence = Presence::Deleted;
    inner.ports.release(&name);
    inner.registry.remove(&name);
    inner.networks.leave(record.spec.id).await;
    let mut last = slot.view();
    debug_assert_ne!(last.state, VmState::Running);
    last.port_forwards.clear();
    Ok(last)
}
