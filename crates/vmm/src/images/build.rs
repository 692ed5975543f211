//! The default image and its kernel: built once per set of packages, then taken from the cache.
//!
//! A finished build is kept under a key made of the recipe's version and every package's checksum.
//! A second data directory on the same machine, or a fresh one tomorrow, takes a second instead of
//! a download.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cache::{self, CacheDraft};
use super::packages::{self, Package, PackageError};
use super::recipe::{self, RecipeError};
use super::{Boots, Image, Progress, ProgressSink, Pulled, ROOT_DISK, ext4, kernel};
use crate::driver::Bus;
use crate::files::{self, Context as _, StorageError};
use crate::kernel_file::{KernelFormat, NotBootable};
use crate::kernels::{KERNEL_FILE, Kernel, Kernels, MODULES_FILE, MOUNT_MODULES_FILE};
use crate::name::ItemName;
use crate::shelf::{Shelf, sha256};
use crate::tool::{Tool, ToolError};
use crate::{DEFAULT_IMAGE, DEFAULT_KERNEL, blocking, disk};

/// The default image was not built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    #[error(transparent)]
    Packages(#[from] PackageError),
    /// A package is not as the recipe expects.
    #[error(
        "the default image does not fit this version of Debian: {problem}; \
         import an image and a kernel instead"
    )]
    Recipe { problem: String },
    /// The packaged kernel does not boot here.
    #[error("the kernel of package {package} cannot be used: {problem}")]
    Kernel {
        package: String,
        problem: NotBootable,
    },
    #[error(transparent)]
    Ext4(#[from] ext4::Ext4Error),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<RecipeError> for BuildError {
    fn from(error: RecipeError) -> Self {
        Self::Recipe {
            problem: error.to_string(),
        }
    }
}

/// The steps of a build from scratch, for progress.
const STEPS: u32 = 5;

/// What is known of a finished build; beside its files in the cache.
#[derive(Debug, Serialize, Deserialize)]
struct Build {
    image_sha256: String,
    image_source: String,
    kernel_sha256: String,
    kernel_source: String,
    kernel_format: KernelFormat,
    modules: BTreeMap<Bus, Vec<String>>,
    mount_modules: Vec<String>,
}

const BUILD: &str = "build.json";

/// The directory of builds in a cache.
pub(super) fn store(cache: &Path) -> PathBuf {
    cache.join("builds")
}

/// Makes the default image and kernel present.
pub(super) async fn default_image(
    images: &Arc<Shelf<Image>>,
    kernels: &Kernels,
    cache: &Path,
    progress: ProgressSink<'_>,
) -> Result<Pulled, BuildError> {
    let (image_name, kernel_name) = (
        ItemName::literal(DEFAULT_IMAGE),
        ItemName::literal(DEFAULT_KERNEL),
    );
    if let (Some(image), Some(kernel)) = (images.get(&image_name), kernels.get(&kernel_name)) {
        return Ok(Pulled { image, kernel });
    }
    let report = |step, message: String| progress(Progress::at(step, STEPS, message));
    report(1, "asking apt which packages are current".to_owned());
    let ingredients = ingredients(cache).await?;
    let place = store(cache).join(key(&ingredients));
    let build = match finished(&place).await? {
        Some(build) => build,
        None => build(&ingredients, cache, &place, &report).await?,
    };
    report(
        STEPS,
        format!("placing image {image_name} and kernel {kernel_name}"),
    );
    let (images, kernels) = (images.clone(), kernels.clone());
    let pulled = blocking::run(move || {
        let kernel = match kernels.get(&kernel_name) {
            Some(kernel) => kernel,
            None => put_kernel(&kernels, kernel_name, &build, &place)?,
        };
        let image = match images.get(&image_name) {
            Some(image) => image,
            None => put_image(&images, image_name, &build, &place)?,
        };
        Ok::<_, StorageError>(Pulled { image, kernel })
    });
    Ok(pulled.await?)
}

/// What apt answered, and what its answer depended on.
#[derive(Serialize, Deserialize)]
struct Answer {
    recipe: u32,
    lists: String,
    packages: Vec<Package>,
}

/// The packages that a build is made from; the kernel's is the last. apt is asked again only when
/// its lists have changed.
async fn ingredients(cache: &Path) -> Result<Vec<Package>, BuildError> {
    let memory = cache.join("packages.json");
    let lists = blocking::run(packages::state_of_lists).await;
    let remembered: Option<Answer> = fs::read(&memory)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(answer) = remembered
        && answer.recipe == recipe::VERSION
        && Some(&answer.lists) == lists.as_ref()
    {
        return Ok(answer.packages);
    }
    let packages = ask_apt().await?;
    if let Some(lists) = lists {
        let answer = Answer {
            recipe: recipe::VERSION,
            lists,
            packages: packages.clone(),
        };
        let bytes = serde_json::to_vec(&answer).map_err(io::Error::from);
        let bytes = bytes.context("write", &memory)?;
        cache::write(&memory, &bytes)?;
    }
    Ok(packages)
}

async fn ask_apt() -> Result<Vec<Package>, PackageError> {
    let mut names: Vec<&str> = recipe::INGREDIENTS
        .iter()
        .map(|(package, _)| *package)
        .collect();
    names.push(recipe::KERNEL_PACKAGE);
    let mut packages = packages::describe(&names).await?;
    let unknown = || PackageError::Unknown {
        names: vec![recipe::KERNEL_PACKAGE.to_owned()],
    };
    let meta = packages.pop().ok_or_else(unknown)?;
    let kernel = meta
        .depends
        .iter()
        .find(|name| name.starts_with("linux-image-"));
    packages.extend(packages::describe(&[kernel.ok_or_else(unknown)?]).await?);
    Ok(packages)
}

fn key(ingredients: &[Package]) -> String {
    let mut digest = Sha256::new();
    digest.update(format!("recipe {}\n", recipe::VERSION));
    for Package {
        name,
        version,
        sha256,
        ..
    } in ingredients
    {
        digest.update(format!("{name} {version} {sha256}\n"));
    }
    hex::encode(digest.finalize())
}

/// A finished build in the cache, if it is there and whole.
async fn finished(place: &Path) -> Result<Option<Build>, StorageError> {
    let place = place.to_owned();
    blocking::run(move || {
        let Ok(bytes) = fs::read(place.join(BUILD)) else {
            return Ok(None);
        };
        let whole = serde_json::from_slice(&bytes).ok().filter(|build: &Build| {
            sha256(&place.join(ROOT_DISK)).is_ok_and(|sum| sum == build.image_sha256)
                && sha256(&place.join(KERNEL_FILE)).is_ok_and(|sum| sum == build.kernel_sha256)
        });
        if whole.is_none() {
            tracing::warn!(path = %place.display(), "a damaged build in the cache is made anew");
            files::remove_dir_atomic(&place)?;
        }
        Ok(whole)
    })
    .await
}

/// Builds the image and the kernel and leaves them at `place`.
async fn build(
    ingredients: &[Package],
    cache: &Path,
    place: &Path,
    report: &(impl Fn(u32, String) + Sync),
) -> Result<Build, BuildError> {
    let missing = packages::missing(ingredients, cache).await;
    report(
        2,
        format!("fetching {} packages from Debian", missing.len()),
    );
    packages::fetch(&missing, cache).await?;

    report(3, "unpacking packages".to_owned());
    let builds = store(cache);
    let work = CacheDraft::begin(&builds)?;
    for package in ingredients {
        packages::unpack(package, cache, &work.path().join(&package.name)).await?;
    }

    report(4, "making the image and the kernel".to_owned());
    let draft = CacheDraft::begin(&builds)?;
    let disk = draft.path().join(ROOT_DISK);
    make_image(work.path(), &disk).await?;
    let (unpacked, target) = (work.path().to_owned(), draft.path().to_owned());
    let kernel_package = ingredients
        .last()
        .map(|package| package.name.clone())
        .unwrap_or_default();
    let made = blocking::run(move || {
        let package = unpacked.join(&kernel_package);
        let kernel = kernel::make(&package, &target, kernel_package)?;
        // Large: removed here, not on a thread that others wait for.
        drop(work);
        let image_sha256 = sha256(&target.join(ROOT_DISK))?;
        let kernel_sha256 = sha256(&target.join(KERNEL_FILE))?;
        Ok::<_, BuildError>((kernel, image_sha256, kernel_sha256))
    });
    let (made, image_sha256, kernel_sha256) = made.await?;

    let source = |packages: &[Package]| {
        let named = packages
            .iter()
            .map(|package| format!("{} {}", package.name, package.version));
        format!("Debian: {}", named.collect::<Vec<_>>().join(", "))
    };
    let (userland, kernel) = ingredients.split_at(ingredients.len().saturating_sub(1));
    let build = Build {
        image_sha256,
        image_source: source(userland),
        kernel_sha256,
        kernel_source: source(kernel),
        kernel_format: made.format,
        modules: made.modules,
        mount_modules: made.mount_modules,
    };
    let bytes = serde_json::to_vec_pretty(&build)
        .map_err(io::Error::from)
        .context("write", place)?;
    files::write_atomic(&draft.path().join(BUILD), &bytes)?;
    match draft.appear_as(place) {
        // Another daemon that shares the cache was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        appeared => appeared?,
    }
    Ok(build)
}

async fn make_image(unpacked: &Path, disk: &Path) -> Result<(), BuildError> {
    let missing = || {
        BuildError::from(RecipeError::Missing {
            package: "busybox-static",
            file: "busybox",
        })
    };
    let busybox = recipe::find(&unpacked.join("busybox-static"), "busybox").ok_or_else(missing)?;
    let applets = Tool::new(busybox).arg("--list").run().await?;
    let tree = unpacked.join("tree");
    let (from, to) = (unpacked.to_owned(), tree.clone());
    blocking::run(move || recipe::assemble(&from, &to, &applets)).await?;
    Ok(ext4::make(&tree, disk, recipe::SIZE_MB).await?)
}

fn put_kernel(
    kernels: &Kernels,
    name: ItemName,
    build: &Build,
    place: &Path,
) -> Result<Kernel, StorageError> {
    let draft = kernels.shelf().draft()?;
    let path = draft.path().join(KERNEL_FILE);
    disk::place(&place.join(KERNEL_FILE), path.clone())?;
    for file in [MODULES_FILE, MOUNT_MODULES_FILE] {
        disk::place(&place.join(file), draft.path().join(file))?;
    }
    let kernel = Kernel {
        name,
        format: build.kernel_format,
        arch: "x86_64".to_owned(),
        size_bytes: path.metadata().context("read", &path)?.len(),
        sha256: build.kernel_sha256.clone(),
        source: build.kernel_source.clone(),
        created_at: Timestamp::now(),
        modules: build.modules.clone(),
        mount_modules: build.mount_modules.clone(),
    };
    kernels.shelf().put(draft, &kernel).map(|()| kernel)
}

fn put_image(
    images: &Shelf<Image>,
    name: ItemName,
    build: &Build,
    place: &Path,
) -> Result<Image, StorageError> {
    let draft = images.draft()?;
    disk::place(&place.join(ROOT_DISK), draft.path().join(ROOT_DISK))?;
    let image = Image {
        name,
        size_mb: recipe::SIZE_MB,
        sha256: build.image_sha256.clone(),
        source: build.image_source.clone(),
        created_at: Timestamp::now(),
        manifest: None,
        layers: Vec::new(),
        blobs: Vec::new(),
        boots: Boots::Init,
        program: None,
    };
    images.put(draft, &image).map(|()| image)
}
