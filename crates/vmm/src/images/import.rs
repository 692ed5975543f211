//! Images from somebody's own archive of a root file system.
//!
//! So far that is one tar file on the host, packed or not. What comes later (registries, OCI
//! layouts, `docker save`) is refused by name instead of half understood.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Image, Progress, ProgressSink, ROOT_DISK, ext4};
use crate::blocking;
use crate::files::{self, Context as _, DraftDir, StorageError};
use crate::name::ItemName;
use crate::shelf::{Shelf, sha256};
use crate::tool::{Tool, ToolError};

/// A request to import an image.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportImage {
    /// The absolute path, on the host, of a tar archive with a root file system.
    pub source: String,
    /// What to call the image.
    pub name: ItemName,
    /// Size of its file system in MiB; absent: as much as it needs, and some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 32, max = 1048576))]
    pub size_mb: Option<u64>,
}

/// An image was not imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportImageError {
    /// The source cannot be read.
    #[error(
        "{} cannot be read: {problem}; give the absolute path of a tar archive on the host",
        path.display()
    )]
    Source { path: PathBuf, problem: String },
    /// The source is of a kind that cannot be imported so far.
    #[error(
        "{source_text}: {kind} cannot be imported yet; give a tar archive of the root \
         file system, such as `docker export` writes"
    )]
    Unsupported {
        source_text: String,
        kind: &'static str,
    },
    /// No program would run in it.
    #[error("{} has no /sbin/init; give an image that can boot by itself", path.display())]
    NoInit { path: PathBuf },
    /// A size that makes no sense.
    #[error("size_mb is {size_mb}; it must be between 32 and 1048576")]
    Size { size_mb: u64 },
    /// An image of that name is there.
    #[error("an image named {name} is on this host already; choose another name, or delete it")]
    Exists { name: ItemName },
    /// It could not be unpacked.
    #[error("{} is not a tar archive that can be unpacked: {source}", path.display())]
    Archive { path: PathBuf, source: ToolError },
    #[error(transparent)]
    Ext4(#[from] ext4::Ext4Error),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

const STEPS: u32 = 2;

pub(super) async fn import(
    shelf: &Shelf<Image>,
    request: ImportImage,
    progress: ProgressSink<'_>,
) -> Result<Image, ImportImageError> {
    let report = |step, message: &str| {
        progress(Progress {
            step,
            steps: STEPS,
            message: message.into(),
        })
    };
    let ImportImage {
        source,
        name,
        size_mb,
    } = request;
    if let Some(size_mb) = size_mb.filter(|size| !(32..=1_048_576).contains(size)) {
        return Err(ImportImageError::Size { size_mb });
    }
    let path = check_source(&source)?;
    if shelf.get(&name).is_some() {
        return Err(ImportImageError::Exists { name });
    }

    report(1, "unpacking the archive");
    let work = shelf.draft()?;
    let tree = work.path().join("tree");
    files::make_private_dir(&tree)?;
    unpack(&path, &tree).await?;
    check_tree(&path, &tree)?;

    report(2, "making the file system");
    let draft = shelf.draft()?;
    let disk = draft.path().join(ROOT_DISK);
    let size_mb = match size_mb {
        Some(size_mb) => size_mb,
        None => size_of(&tree).await?,
    };
    ext4::make(&tree, &disk, size_mb).await?;
    finish(
        shelf,
        draft,
        Draft {
            name,
            source,
            size_mb,
            disk,
        },
        work,
    )
    .await
}

/// An image that only lacks its description.
struct Draft {
    name: ItemName,
    source: String,
    size_mb: u64,
    disk: PathBuf,
}

async fn finish(
    shelf: &Shelf<Image>,
    directory: DraftDir,
    Draft {
        name,
        source,
        size_mb,
        disk,
    }: Draft,
    work: DraftDir,
) -> Result<Image, ImportImageError> {
    let sha256 = blocking::run(move || {
        // The tree may be large: removed here, not on a thread that others wait for.
        drop(work);
        sha256(&disk)
    })
    .await?;
    let image = Image {
        name,
        size_mb,
        sha256,
        source,
        created_at: Timestamp::now(),
    };
    match shelf.put(directory, &image) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(ImportImageError::Exists { name: image.name })
        }
        put => Ok(put.map(|()| image)?),
    }
}

async fn size_of(tree: &Path) -> Result<u64, StorageError> {
    let tree = tree.to_owned();
    blocking::run(move || ext4::size_for(&tree)).await
}

/// Tells a file of the host from everything else that a source may be one day.
fn check_source(source: &str) -> Result<PathBuf, ImportImageError> {
    let unsupported = |kind| {
        Err(ImportImageError::Unsupported {
            source_text: source.to_owned(),
            kind,
        })
    };
    if !source.starts_with('/') {
        return unsupported("a reference to a registry");
    }
    let path = PathBuf::from(source);
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(metadata) if metadata.is_dir() => unsupported("a directory"),
        Ok(_) => {
            let problem = "it is not a regular file".to_owned();
            Err(ImportImageError::Source { path, problem })
        }
        Err(error) => Err(ImportImageError::Source {
            path,
            problem: error.to_string(),
        }),
    }
}

async fn unpack(archive: &Path, tree: &Path) -> Result<(), ImportImageError> {
    let is_root = rustix::process::geteuid().is_root();
    Tool::new("tar")
        .args([
            "--extract",
            "--numeric-owner",
            "--preserve-permissions",
            "--xattrs",
        ])
        .args([
            "--xattrs-include=security.capability",
            "--delay-directory-restore",
        ])
        .arg(if is_root {
            "--same-owner"
        } else {
            "--no-same-owner"
        })
        // The guest's kernel makes its own devices.
        .args(["--exclude=dev/*", "--exclude=./dev/*", "--directory"])
        .arg(tree)
        .arg("--file")
        .arg(archive)
        .run()
        .await
        .map(drop)
        .map_err(|source| ImportImageError::Archive {
            path: archive.to_owned(),
            source,
        })
}

/// Checks that a tree can boot. Links are followed as the guest would, never out of the tree.
fn check_tree(archive: &Path, tree: &Path) -> Result<(), ImportImageError> {
    let root = fs::File::open(tree).context("read", tree)?;
    let inside = |path: &str| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).is_ok()
    };
    if inside("sbin/init") {
        return Ok(());
    }
    if inside("oci-layout") || inside("manifest.json") {
        return Err(ImportImageError::Unsupported {
            source_text: archive.display().to_string(),
            kind: "an archive of container layers",
        });
    }
    Err(ImportImageError::NoInit {
        path: archive.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    /// A tar archive of what `fill` puts into a directory.
    fn archive(dir: &Path, fill: impl FnOnce(&Path)) -> PathBuf {
        let tree = dir.join("source");
        fs::create_dir_all(tree.join("etc")).unwrap();
        fill(&tree);
        let path = dir.join("archive.tar.gz");
        let packed = Command::new("tar")
            .arg("-czf")
            .arg(&path)
            .arg("-C")
            .arg(&tree)
            .arg(".")
            .status();
        assert!(packed.unwrap().success());
        path
    }

    async fn import_of(dir: &Path, source: &str) -> Result<Image, ImportImageError> {
        let shelf = Shelf::open(dir.join("images"), Default::default()).unwrap();
        let request = ImportImage {
            source: source.to_owned(),
            name: "mine".parse().unwrap(),
            size_mb: None,
        };
        import(&shelf, request, &|_| {}).await
    }

    fn left_behind(dir: &Path) -> usize {
        fs::read_dir(dir.join("images")).unwrap().count()
    }

    #[tokio::test]
    async fn an_archive_with_an_init_becomes_an_image() {
        let dir = tempfile::tempdir().unwrap();
        let source = archive(dir.path(), |tree| {
            // As a distribution with a merged /usr has it, with absolute links.
            fs::create_dir_all(tree.join("usr/sbin")).unwrap();
            fs::create_dir_all(tree.join("lib/systemd")).unwrap();
            fs::write(tree.join("lib/systemd/systemd"), "init").unwrap();
            symlink("/usr/sbin", tree.join("sbin")).unwrap();
            symlink("/lib/systemd/systemd", tree.join("usr/sbin/init")).unwrap();
        });
        let image = import_of(dir.path(), source.to_str().unwrap())
            .await
            .unwrap();
        assert!(image.size_mb >= 32);
        assert_eq!(image.sha256.len(), 64);
        assert_eq!(left_behind(dir.path()), 1);
        let again = import_of(dir.path(), source.to_str().unwrap()).await;
        assert!(matches!(again, Err(ImportImageError::Exists { .. })));
    }

    #[tokio::test]
    async fn an_archive_that_cannot_boot_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // A link out of the tree is no init, although the host has one there.
        let source = archive(dir.path(), |tree| {
            symlink("/etc", tree.join("sbin")).unwrap()
        });
        let error = import_of(dir.path(), source.to_str().unwrap())
            .await
            .unwrap_err();
        assert!(matches!(error, ImportImageError::NoInit { .. }), "{error}");
        assert_eq!(left_behind(dir.path()), 0);
    }

    #[tokio::test]
    async fn what_cannot_be_imported_yet_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let layers = archive(dir.path(), |tree| {
            fs::write(tree.join("manifest.json"), "[]").unwrap()
        });
        for source in [
            "alpine:3.20",
            dir.path().to_str().unwrap(),
            layers.to_str().unwrap(),
        ] {
            let error = import_of(dir.path(), source).await.unwrap_err();
            assert!(
                matches!(error, ImportImageError::Unsupported { .. }),
                "{error}"
            );
        }
        let text = dir.path().join("text");
        fs::write(&text, "no archive").unwrap();
        let error = import_of(dir.path(), text.to_str().unwrap())
            .await
            .unwrap_err();
        assert!(matches!(error, ImportImageError::Archive { .. }), "{error}");
        assert_eq!(left_behind(dir.path()), 0);
    }
}
