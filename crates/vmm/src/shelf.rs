//! A shelf: named things in directories of their own, each with a description beside its files.
//!
//! Images and kernels are kept alike. A thing appears whole, by a rename, and disappears whole; it
//! never changes in between; and one that a VM uses cannot be taken away.

use std::fs;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::files::{self, Context as _, DraftDir, StorageError};
use crate::name::{ItemName, VmName};
use crate::registry::{Registry, Share};

/// No description is longer, in bytes.
const MAX_DESCRIPTION: u64 = 1024 * 1024;

/// What a shelf holds.
pub(crate) trait Item: Serialize + DeserializeOwned + Send + 'static {
    /// What one is called, in messages.
    const KIND: &'static str;
    /// The name of the file with the description.
    const DESCRIPTION: &'static str;

    fn name(&self) -> &ItemName;

    /// Whether this share of a VM includes the thing of that name.
    fn used_in(share: &Share, name: &ItemName) -> bool;
}

pub(crate) struct Shelf<T> {
    root: PathBuf,
    registry: Arc<Registry>,
    items: PhantomData<fn() -> T>,
}

/// Something could not be taken from its shelf.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// It is not there.
    #[error("there is no {kind} {name:?} on this host; list them to see those that are")]
    NotFound { kind: &'static str, name: String },
    /// VMs use it.
    #[error(
        "{kind} {name} is in use by {}; delete {} first",
        list(users), if users.len() == 1 { "that VM" } else { "those VMs" }
    )]
    InUse {
        kind: &'static str,
        name: ItemName,
        users: Vec<VmName>,
    },
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

fn list(users: &[VmName]) -> String {
    users
        .iter()
        .map(VmName::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

impl<T: Item> Shelf<T> {
    /// A shelf in `root`, which is made if needed and freed of leftovers.
    pub(crate) fn open(root: PathBuf, registry: Arc<Registry>) -> Result<Self, StorageError> {
        files::make_private_dir(&root)?;
        files::sweep_drafts(&root)?;
        Ok(Self {
            root,
            registry,
            items: PhantomData,
        })
    }

    pub(crate) fn directory(&self, name: &ItemName) -> PathBuf {
        self.root.join(name.as_str())
    }

    /// The thing of that name; `None` when it is not there.
    pub(crate) fn get(&self, name: &ItemName) -> Option<T> {
        self.describe(&self.directory(name)).ok().flatten()
    }

    /// All things, by name. One whose description is damaged is left out: it must not take the
    /// others with it.
    pub(crate) fn list(&self) -> Result<Vec<T>, StorageError> {
        let mut items = Vec::new();
        for entry in fs::read_dir(&self.root).context("read", &self.root)? {
            let directory = entry.context("read", &self.root)?.path();
            match self.describe(&directory) {
                Ok(item) => items.extend(item),
                Err(error) => {
                    tracing::warn!(%error, "a damaged {} is left out; delete it", T::KIND);
                }
            }
        }
        items.sort_by(|one, other| one.name().cmp(other.name()));
        Ok(items)
    }

    /// Reads a description. What has none is a draft, or just gone.
    fn describe(&self, directory: &Path) -> Result<Option<T>, StorageError> {
        let path = directory.join(T::DESCRIPTION);
        match files::read_regular(&path, MAX_DESCRIPTION) {
            Ok(bytes) => {
                let item = serde_json::from_slice(&bytes).map_err(io::Error::from);
                item.context("understand", &path).map(Some)
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context("read", &path),
        }
    }

    /// Begins a new thing.
    pub(crate) fn draft(&self) -> Result<DraftDir, StorageError> {
        DraftDir::begin(&self.root)
    }

    /// Puts a finished thing on the shelf, in the place of a damaged one if need be. Fails with
    /// `AlreadyExists` when the name is taken.
    pub(crate) fn put(&self, draft: DraftDir, item: &T) -> Result<(), StorageError> {
        let place = self.directory(item.name());
        if self.describe(&place).is_err() {
            files::remove_dir_atomic(&place)?;
        }
        let bytes = serde_json::to_vec_pretty(item)
            .map_err(io::Error::from)
            .context("write", &place)?;
        files::write_atomic(&draft.path().join(T::DESCRIPTION), &bytes)?;
        draft.appear_as(&place)
    }

    /// Takes a thing away that nobody uses.
    pub(crate) fn remove(&self, name: &str) -> Result<(), RemoveError> {
        let not_found = || RemoveError::NotFound {
            kind: T::KIND,
            name: name.to_owned(),
        };
        let name: ItemName = name.parse().map_err(|_| not_found())?;
        let place = self.directory(&name);
        // What is damaged is there too, and this is how it is got rid of.
        if matches!(self.describe(&place), Ok(None)) {
            return Err(not_found());
        }
        // The rename happens while no VM can be created: one that was asked for before counts as
        // a user, one that is asked for later does not find the thing any more. All else can wait
        // until others may go on: the disk takes its time with a large file.
        let removed = self.registry.with_users(
            |share| T::used_in(share, &name),
            |users| {
                if !users.is_empty() {
                    return Err(RemoveError::InUse {
                        kind: T::KIND,
                        name: name.clone(),
                        users,
                    });
                }
                Ok(files::set_aside(&place)?)
            },
        );
        removed.map(drop)
    }
}

/// The SHA-256 of a file, in hexadecimal.
pub(crate) fn sha256(path: &Path) -> Result<String, StorageError> {
    let mut digest = Sha256::new();
    let mut file = fs::File::open(path).context("read", path)?;
    io::copy(&mut file, &mut digest).context("read", path)?;
    Ok(hex::encode(digest.finalize()))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::capacity::{Capacity, Resources};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Thing {
        name: ItemName,
    }

    impl Item for Thing {
        const KIND: &'static str = "thing";
        const DESCRIPTION: &'static str = "thing.json";

        fn name(&self) -> &ItemName {
            &self.name
        }

        fn used_in(share: &Share, name: &ItemName) -> bool {
            share.image == *name
        }
    }

    fn thing(name: &str) -> Thing {
        Thing {
            name: name.parse().unwrap(),
        }
    }

    /// What a VM takes with this image.
    fn share(image: &str) -> Share {
        Share {
            resources: Resources::default(),
            image: image.parse().unwrap(),
            kernel: "k".parse().unwrap(),
        }
    }

    const HOST: Capacity = Capacity {
        total: Resources {
            cpus: 0,
            memory_mb: 0,
            disk_mb: 0,
        },
        disk_free_mb: 0,
        cpu_overcommit: 1,
    };

    fn shelf() -> (tempfile::TempDir, Arc<Registry>, Shelf<Thing>) {
        let dir = tempfile::tempdir().unwrap();
        let registry = Arc::new(Registry::default());
        let shelf = Shelf::open(dir.path().join("things"), registry.clone()).unwrap();
        (dir, registry, shelf)
    }

    #[test]
    fn a_thing_is_listed_from_when_it_is_whole_until_it_is_removed() {
        let (_dir, _, shelf) = shelf();
        let draft = shelf.draft().unwrap();
        assert_eq!(shelf.list().unwrap(), []);
        shelf.put(draft, &thing("b")).unwrap();
        shelf.put(shelf.draft().unwrap(), &thing("a")).unwrap();
        assert_eq!(shelf.list().unwrap(), [thing("a"), thing("b")]);
        shelf.remove("a").unwrap();
        assert!(matches!(
            shelf.remove("a"),
            Err(RemoveError::NotFound { .. })
        ));
        assert!(matches!(
            shelf.remove("../b"),
            Err(RemoveError::NotFound { .. })
        ));
        assert_eq!(shelf.list().unwrap(), [thing("b")]);
    }

    #[test]
    fn a_damaged_thing_hides_no_other_and_can_be_removed_or_replaced() {
        let (_dir, _, shelf) = shelf();
        for name in ["a", "b"] {
            shelf.put(shelf.draft().unwrap(), &thing(name)).unwrap();
        }
        let damage = || fs::write(shelf.root.join("a").join(Thing::DESCRIPTION), "{").unwrap();
        damage();
        assert_eq!(shelf.list().unwrap(), [thing("b")]);
        shelf.put(shelf.draft().unwrap(), &thing("a")).unwrap();
        assert_eq!(shelf.list().unwrap(), [thing("a"), thing("b")]);
        damage();
        shelf.remove("a").unwrap();
        assert!(!shelf.root.join("a").exists());
    }

    #[test]
    fn a_vm_can_be_created_while_the_disk_is_busy_with_a_removal() {
        let (_dir, registry, shelf) = shelf();
        let draft = shelf.draft().unwrap();
        for number in 0..30_000 {
            fs::File::create(draft.path().join(number.to_string())).unwrap();
        }
        shelf.put(draft, &thing("a")).unwrap();
        let place = shelf.root.join("a");
        let name = "web-1".parse().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| shelf.remove("a").unwrap());
            while place.exists() {
                std::hint::spin_loop();
            }
            let _made = registry.reserve(&name, share("b"), HOST).ok().unwrap();
            let left = fs::read_dir(&shelf.root).unwrap().count();
            assert_eq!(left, 1, "it had to wait until all was removed");
        });
        assert_eq!(fs::read_dir(&shelf.root).unwrap().count(), 0);
    }

    #[test]
    fn a_thing_that_a_vm_uses_stays_and_its_users_are_named() {
        let (_dir, registry, shelf) = shelf();
        shelf.put(shelf.draft().unwrap(), &thing("a")).unwrap();
        let name = "web-1".parse().unwrap();
        let making = registry.reserve(&name, share("a"), HOST).ok().unwrap();
        let error = shelf.remove("a").unwrap_err();
        assert_eq!(
            error.to_string(),
            "thing a is in use by web-1; delete that VM first"
        );
        drop(making);
        shelf.remove("a").unwrap();
    }
}
