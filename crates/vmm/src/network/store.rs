//! `network.json`: which instance this is, which subnet it has, and who has which address.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::error::NetworkError;
use super::leases::Leases;
use super::links::{self, Route};
use super::names::Instance;
use super::subnet::Subnet;
use super::{host, lock};
use crate::blocking;
use crate::config::NetworkChoice;
use crate::files::{self, Context as _, StorageError};
use crate::name::VmName;
use crate::record::Record;

/// The version of the file's form; a file of another version is not touched.
const VERSION: u32 = 1;

/// What is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    version: u32,
    instance: Instance,
    leases: Leases,
}

impl Page {
    pub(crate) fn instance(&self) -> &Instance {
        &self.instance
    }
}

/// Where it is written down.
pub(crate) struct Store {
    instance: Instance,
    path: PathBuf,
    /// Held while somebody writes, so that what is written last is also what was so last.
    pen: tokio::sync::Mutex<()>,
}

/// Reads the file, if there is one.
pub(crate) fn load(path: &Path) -> Result<Option<Page>, NetworkError> {
    let damaged = |problem: String| NetworkError::Damaged {
        path: path.to_owned(),
        problem,
    };
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.context("read", path)?,
    };
    let page: Page = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    match page.version {
        VERSION => Ok(Some(page)),
        other => Err(damaged(format!(
            "it has form {other}, and {VERSION} is known"
        ))),
    }
}

/// Takes the subnet that was chosen once, or chooses one.
pub(crate) async fn page_for_bridge(
    path: &Path,
    found: Option<Page>,
    range: Subnet,
    records: &[Record],
    damaged: &BTreeSet<VmName>,
) -> Result<Page, NetworkError> {
    match found {
        Some(page) => keep(page, path, range, records, damaged).await,
        None => choose(Instance::generate(), range).await,
    }
}

async fn choose(instance: Instance, range: Subnet) -> Result<Page, NetworkError> {
    let taken = links::routes().await?;
    let taken: Vec<_> = taken.iter().filter_map(Route::subnet).collect();
    let free = host::free_subnets(range, &taken)?;
    // Any, and not the first: another daemon that chooses now should choose another.
    let subnet = free[rand::random_range(0..free.len())];
    tracing::info!(%subnet, "a subnet was chosen for the bridge");
    Ok(Page {
        version: VERSION,
        instance,
        leases: Leases::new(subnet),
    })
}

/// A subnet stays what it is for as long as VMs have addresses of it. Only when none has, it
/// follows the configured range, and gives way to routes that others have made.
async fn keep(
    page: Page,
    path: &Path,
    range: Subnet,
    records: &[Record],
    damaged: &BTreeSet<VmName>,
) -> Result<Page, NetworkError> {
    let subnet = page.leases.subnet();
    let bridge = page.instance.bridge();
    let routes = links::routes().await?;
    let device = routes.iter().find_map(|route| {
        let device = route.dev.clone().unwrap_or_else(|| "another".to_owned());
        // A wider route loses against ours; one that is as narrow or narrower takes guests away.
        let meets = route
            .subnet()
            .is_some_and(|other| other.overlaps(subnet) && other.prefix() >= subnet.prefix());
        (meets && device != bridge).then_some(device)
    });
    let on_bridge = |record: &Record| record.spec.network == NetworkChoice::Bridge;
    let is_used = records.iter().any(on_bridge) || !damaged.is_empty();
    let is_wanted = range.contains(subnet.network()) && range.prefix() <= subnet.prefix();
    match device {
        None if is_wanted => Ok(page),
        None if is_used => {
            tracing::warn!(%subnet, %range, "the bridge keeps its subnet while VMs have addresses");
            Ok(page)
        }
        Some(device) if is_used => Err(NetworkError::Conflict {
            subnet,
            device,
            file: path.to_owned(),
        }),
        _ => choose(page.instance, range).await,
    }
}

impl Store {
    pub(crate) fn new(path: &Path, page: Page) -> (Self, Leases) {
        let store = Self {
            instance: page.instance,
            path: path.to_owned(),
            pen: tokio::sync::Mutex::default(),
        };
        (store, page.leases)
    }

    pub(crate) fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Writes the leases down as they are once it is this caller's turn.
    pub(crate) async fn save(&self, leases: &Mutex<Leases>) -> Result<(), StorageError> {
        let _pen = self.pen.lock().await;
        let page = Page {
            version: VERSION,
            instance: self.instance.clone(),
            leases: lock(leases).clone(),
        };
        let path = self.path.clone();
        blocking::run(move || {
            let bytes = serde_json::to_vec_pretty(&page).map_err(io::Error::from);
            files::write_atomic(&path, &bytes.context("write", &path)?)
        })
        .await
    }
}
