//! Debian packages: asked for by name, fetched by apt, checked, and kept for the next time.
//!
//! apt's lists carry the SHA-256 of every package and are themselves signed, so what is checked
//! against them is what Debian published. A package is kept under its checksum, which is checked
//! again before each use, so a damaged cache costs time and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cache::CacheDraft;
use crate::blocking;
use crate::files::{Context as _, StorageError};
use crate::shelf::sha256;
use crate::tool::{Tool, ToolError};

/// Packages could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// apt does not know them.
    #[error("apt knows no package {}; run `apt-get update`, then try again", names.join(", "))]
    Unknown { names: Vec<String> },
    /// apt could not fetch them.
    #[error(
        "packages could not be fetched: {source}; run `apt-get update`, check the \
         network, then try again"
    )]
    Fetch { source: ToolError },
    /// What was fetched is not what Debian published.
    #[error(
        "package {name} does not have the checksum that Debian published; run \
         `apt-get update`, then try again"
    )]
    Checksum { name: String },
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A package as apt describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) sha256: String,
    /// The first choice of each dependency, by name.
    pub(crate) depends: Vec<String>,
}

/// Where apt keeps its lists (apt-get(8), FILES).
const LISTS: &str = "/var/lib/apt/lists";

/// What apt's answers depend on: as long as this is the same, they are. apt takes most of a second
/// to answer, so it is worth not to ask twice.
pub(crate) fn state_of_lists() -> Option<String> {
    let mut files: Vec<String> = fs::read_dir(LISTS)
        .ok()?
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let metadata = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Some(format!("{name} {} {}", metadata.len(), metadata.mtime()))
        })
        .collect();
    files.sort();
    Some(files.join("\n"))
}

/// Asks apt about packages: the versions that it would install, in the order of the names.
pub(crate) async fn describe(names: &[&str]) -> Result<Vec<Package>, PackageError> {
    let shown = Tool::new("apt-cache")
        .args(["show", "--no-all-versions"])
        .args(names)
        .run()
        .await;
    let text = match shown {
        Ok(text) => text,
        // It fails like this when it knows none of them.
        Err(ToolError::Failed { .. }) => String::new(),
        Err(error) => return Err(error.into()),
    };
    let mut found: BTreeMap<String, Package> = parse(&text)
        .into_iter()
        .map(|package| (package.name.clone(), package))
        .collect();
    let mut unknown = Vec::new();
    let mut packages = Vec::new();
    for name in names {
        match found.remove(*name) {
            Some(package) => packages.push(package),
            None => unknown.push((*name).to_owned()),
        }
    }
    if unknown.is_empty() {
        Ok(packages)
    } else {
        Err(PackageError::Unknown { names: unknown })
    }
}

/// Reads control stanzas (deb-control(5)): fields, one a line, and stanzas between empty lines. One
/// that says what could be anything else than a package, as an option or a path, is left out.
pub(crate) fn parse(text: &str) -> Vec<Package> {
    text.split("\n\n").filter_map(parse_stanza).collect()
}

fn parse_stanza(stanza: &str) -> Option<Package> {
    let field = |name: &str| {
        let value = |line: &'_ str| {
            Some(
                line.strip_prefix(name)?
                    .strip_prefix(':')?
                    .trim()
                    .to_owned(),
            )
        };
        stanza.lines().find_map(value)
    };
    let first_choice = |dependency: &str| {
        let name = dependency
            .split(['|', '(', ':'])
            .next()
            .unwrap_or_default()
            .trim();
        (!name.is_empty()).then(|| name.to_owned())
    };
    let depends = field("Depends").unwrap_or_default();
    let depends: Vec<String> = depends.split(',').filter_map(first_choice).collect();
    Some(Package {
        name: field("Package").filter(|name| is_name(name))?,
        version: field("Version").filter(|version| is_version(version))?,
        sha256: field("SHA256").filter(|sum| is_sha256(sum))?,
        depends: depends
            .iter()
            .all(|name| is_name(name))
            .then_some(depends)?,
    })
}

/// Debian policy, 5.6.1.
fn is_name(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.bytes().next().is_some_and(letter)
        && text.bytes().all(|b| letter(b) || b"+-.".contains(&b))
}

/// Debian policy, 5.6.12.
fn is_version(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"+-.:~".contains(&b);
    !text.is_empty() && text.bytes().all(plain)
}

fn is_sha256(text: &str) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == 64 && text.bytes().all(digit)
}

/// The directory of packages in a cache.
pub(crate) fn store(cache: &Path) -> PathBuf {
    cache.join("packages")
}

/// Which of the packages are not in the cache, or damaged there.
pub(crate) async fn missing(packages: &[Package], cache: &Path) -> Vec<Package> {
    let (packages, store) = (packages.to_vec(), store(cache));
    blocking::run(move || {
        let is_missing = |package: &Package| {
            sha256(&place(&store, package)).ok().as_ref() != Some(&package.sha256)
        };
        packages.into_iter().filter(is_missing).collect()
    })
    .await
}

/// The place of a package in the cache.
pub(crate) fn place(store: &Path, package: &Package) -> PathBuf {
    store.join(format!("{}.deb", package.sha256))
}

/// Fetches packages into the cache.
pub(crate) async fn fetch(packages: &[Package], cache: &Path) -> Result<(), PackageError> {
    if packages.is_empty() {
        return Ok(());
    }
    let store = store(cache);
    let draft = CacheDraft::begin(&store)?;
    Tool::new("apt-get")
        // apt would rather fetch as a user of its own, who cannot write here, and complains.
        .args(["-qq", "-o", "APT::Sandbox::User=root", "download"])
        .args(
            packages
                .iter()
                .map(|package| format!("{}={}", package.name, package.version)),
        )
        .current_dir(draft.path())
        .run()
        .await
        .map_err(|source| PackageError::Fetch { source })?;
    let packages = packages.to_vec();
    blocking::run(move || keep(&packages, &draft, &store)).await
}

/// Moves what was fetched to its place, if it is what it should be.
fn keep(packages: &[Package], draft: &CacheDraft, store: &Path) -> Result<(), PackageError> {
    let mut fetched = BTreeMap::new();
    for entry in fs::read_dir(draft.path()).context("read", draft.path())? {
        let path = entry.context("read", draft.path())?.path();
        fetched.insert(sha256(&path)?, path);
    }
    for package in packages {
        let Some(path) = fetched.get(&package.sha256) else {
            return Err(PackageError::Checksum {
                name: package.name.clone(),
            });
        };
        let place = place(store, package);
        fs::rename(path, &place).context("create", &place)?;
    }
    Ok(())
}

/// Unpacks a package from the cache into a directory.
pub(crate) async fn unpack(
    package: &Package,
    cache: &Path,
    directory: &Path,
) -> Result<(), PackageError> {
    let archive = place(&store(cache), package);
    Tool::new("dpkg-deb")
        .arg("--extract")
        .arg(archive)
        .arg(directory)
        .run()
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHOWN: &str = "Package: linux-image-cloud-amd64\nSource: linux-signed\n\
        Version: 6.1.192-2\n\
        Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2), a | b, c:any\n\
        Description: a kernel\n with a line that says SHA256: nonsense\nSHA256: 00be000000000000000000000000000000000000000000000000000000000000\n\n\
        Package: busybox-static\nVersion: 1:1.35.0\nSHA256: 3d3f000000000000000000000000000000000000000000000000000000000000\n\n";

    #[test]
    fn packages_are_read_with_their_checksums_and_dependencies() {
        let packages = parse(SHOWN);
        assert_eq!(packages.len(), 2);
        assert!(packages[0].sha256.starts_with("00be"));
        assert_eq!(
            packages[0].depends,
            ["linux-image-6.1.0-56-cloud-amd64", "a", "c"]
        );
        assert_eq!(packages[1].version, "1:1.35.0");
        assert!(packages[1].depends.is_empty());
    }

    #[test]
    fn what_could_be_an_option_or_a_path_is_no_package() {
        for (wrong, right) in [
            ("Package: --print-uris", "Package: busybox-static"),
            ("Version: 1 --print-uris", "Version: 1:1.35.0"),
            ("SHA256: ../../../3d3f", "SHA256: 3d3f"),
            ("Depends: -oDebug=1", "Depends: linux"),
        ] {
            let text = SHOWN.replace(right, wrong);
            assert_ne!(text, SHOWN);
            assert_eq!(parse(&text).len(), 1, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_package_that_apt_does_not_know_is_named_with_what_to_do() {
        let error = describe(&["no-such-package-as-this"])
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no-such-package-as-this; run `apt-get update`"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_damaged_package_in_the_cache_is_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let package = parse(SHOWN).remove(1);
        fs::create_dir(store(dir.path())).unwrap();
        fs::write(place(&store(dir.path()), &package), "something else").unwrap();
        assert_eq!(
            missing(std::slice::from_ref(&package), dir.path()).await,
            [package]
        );
    }

    #[test]
    fn what_was_fetched_under_a_wrong_checksum_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let draft = CacheDraft::begin(dir.path()).unwrap();
        fs::write(draft.path().join("busybox-static.deb"), "something else").unwrap();
        let kept = keep(&parse(SHOWN)[1..], &draft, dir.path());
        assert!(matches!(kept, Err(PackageError::Checksum { .. })));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange_to_be_read(text in "(\\PC|\n|:){0,200}") {
            parse(&text);
        }
    }
}
