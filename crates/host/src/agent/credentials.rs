//! What an enrolled host keeps: one file, `DATA/agent/credentials.json`, readable by its owner
//! alone and replaced as a whole, so that a key is never found without its certificate.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hostler_identity::{BundleError, Svid, SvidError, TrustBundles};
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, Serialize};
use url::Url;

/// The version of the file's form.
pub(crate) const VERSION: u32 = 1;
const FILE: &str = "credentials.json";
/// The next file while it is being written. One name, so that a crash leaves one at most.
const NEXT: &str = "credentials.json.new";

/// Everything that makes this machine the host that it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    /// [`VERSION`].
    pub(crate) version: u32,
    /// The host's id at the control plane, `host-...`.
    pub(crate) host_id: String,
    /// The long-lived proof for when the certificate has lapsed.
    #[serde(with = "secret_text")]
    pub(crate) host_token: SecretString,
    /// The private key, PEM. It was made here and has been nowhere else.
    #[serde(with = "secret_text")]
    pub(crate) key_pem: SecretString,
    /// The certificate chain, PEM, leaf first.
    pub(crate) svid_pem: String,
    /// The roots of the trust domain, PEM.
    pub(crate) bundle_pem: String,
    /// The machines' door of the control plane.
    pub(crate) machines_url: Url,
    /// SHA-256 of the registration token that was used up, in hexadecimal.
    pub(crate) registered_with: String,
}

/// What a file of any version has.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

mod secret_text {
    use secrecy::{ExposeSecret, SecretString};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        secret: &SecretString,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose_secret())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SecretString, D::Error> {
        String::deserialize(deserializer).map(SecretString::from)
    }
}

/// Certificate, key and roots do not make an identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MaterialError {
    /// The certificate or its key.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// The roots.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The certificate names somebody else.
    #[error("the certificate is for {found}, this host is {host_id}")]
    #[allow(missing_docs)]
    AnotherHost { found: String, host_id: String },
}

impl Credentials {
    /// The identity and the roots that go with it.
    pub(crate) fn material(&self) -> Result<(Svid, TrustBundles), MaterialError> {
        let svid = Svid::from_pem(&self.svid_pem, &self.key_pem)?;
        if svid.id().path() != format!("/host/{}", self.host_id) {
            return Err(MaterialError::AnotherHost {
                found: svid.id().to_string(),
                host_id: self.host_id.clone(),
            });
        }
        let bundles = TrustBundles::from_pem(svid.id().trust_domain().clone(), &self.bundle_pem)?;
        Ok((svid, bundles))
    }
}

/// The directory that keeps the credentials.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    directory: PathBuf,
}

/// The credentials could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused.
    #[error(
        "cannot {doing} {}: {source}; see that the disk has room and that the directory belongs \
         to this user", path.display()
    )]
    #[allow(missing_docs)]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "{} is damaged ({reason}); restore it from a backup, or delete it and enrol the host anew \
         with a fresh registration token", path.display()
    )]
    #[allow(missing_docs)]
    Damaged { path: PathBuf, reason: String },
    /// The file comes from another version of this program.
    #[error(
        "{} has form {version}, this program knows form {VERSION}; run the version of the program \
         that wrote it", path.display()
    )]
    #[allow(missing_docs)]
    Version { path: PathBuf, version: u32 },
    /// Others than the owner may read the file.
    #[error(
        "{} holds secrets and others may read it (mode {mode:o}); run chmod 600 on it if you are \
         sure that nobody did", path.display()
    )]
    #[allow(missing_docs)]
    Exposed { path: PathBuf, mode: u32 },
}

impl Store {
    /// Makes the directory, and makes sure that it can be written: a registration token must not
    /// be spent on credentials that cannot be kept.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let directory = data_dir.join("agent");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(io_error("make", &directory))?;
        let store = Self { directory };
        let trial = store.directory.join(NEXT);
        store.write_next(b"{}")?;
        fs::remove_file(&trial).map_err(io_error("remove", &trial))?;
        Ok(store)
    }

    /// Where the credentials are, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// The credentials, if this host is enrolled.
    pub(crate) fn load(&self) -> Result<Option<Credentials>, StoreError> {
        let path = self.path();
        let text = match fs::read(&path) {
            Ok(text) => Zeroizing::new(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        let metadata = fs::metadata(&path).map_err(io_error("read", &path))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StoreError::Exposed { path, mode });
        }
        let damaged = |error: serde_json::Error| StoreError::Damaged {
            path: path.clone(),
            // A position only: the message of a JSON error may quote what it stumbled over.
            reason: format!("line {}, column {}", error.line(), error.column()),
        };
        let AnyVersion { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version != VERSION {
            return Err(StoreError::Version { path, version });
        }
        serde_json::from_slice(&text).map(Some).map_err(damaged)
    }

    /// Keeps these credentials instead of those before: all of them, or none.
    pub(crate) fn save(&self, credentials: &Credentials) -> Result<(), StoreError> {
        let path = self.path();
        let text = serde_json::to_vec_pretty(credentials)
            .map(Zeroizing::new)
            .map_err(|error| io_error("write", &path)(error.into()))?;
        self.write_next(&text)?;
        fs::rename(self.directory.join(NEXT), &path).map_err(io_error("replace", &path))?;
        self.sync_directory()
    }

    /// Removes the credentials: this machine is no host any more.
    pub(crate) fn forget(&self) -> Result<(), StoreError> {
        let path = self.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_error("remove", &path)(error))
            }
            _ => self.sync_directory(),
        }
    }

    fn write_next(&self, text: &[u8]) -> Result<(), StoreError> {
        let path = self.directory.join(NEXT);
        let write = || {
            // What a crash left behind may have another mode, so it is not written into.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(text)?;
            file.sync_all()
        };
        write().map_err(io_error("write", &path))
    }

    fn sync_directory(&self) -> Result<(), StoreError> {
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(io_error("sync", &self.directory))
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            version: VERSION,
            host_id: "host-1".into(),
            host_token: "the token".into(),
            key_pem: "the key".into(),
            svid_pem: "the chain".into(),
            bundle_pem: "the roots".into(),
            machines_url: "https://127.0.0.1:8444".parse().unwrap(),
            registered_with: "00".into(),
        }
    }

    #[test]
    fn credentials_come_back_as_they_were_and_only_their_owner_may_read_them() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path()).unwrap();
        assert!(store.load().unwrap().is_none());
        store.save(&credentials()).unwrap();
        let loaded = store.load().unwrap().unwrap();
        assert_eq!(loaded.host_token.expose_secret(), "the token");
        assert_eq!(loaded.key_pem.expose_secret(), "the key");
        assert_eq!(loaded.machines_url, credentials().machines_url);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&store.path()), 0o600);
        assert_eq!(mode(&data.path().join("agent")), 0o700);
        store.forget().unwrap();
        assert!(store.load().unwrap().is_none());
        store.forget().unwrap();
    }

    #[test]
    fn half_a_file_is_never_taken_for_credentials_and_its_error_quotes_no_secret() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path()).unwrap();
        store.save(&credentials()).unwrap();
        let whole = fs::read(store.path()).unwrap();
        for cut in 0..whole.len() {
            fs::write(store.path(), &whole[..cut]).unwrap();
            let error = store.load().unwrap_err();
            assert!(
                matches!(error, StoreError::Damaged { .. }),
                "{cut}: {error}"
            );
            assert!(!error.to_string().contains("the token"), "{error}");
        }
    }

    #[test]
    fn credentials_of_another_version_are_left_alone() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path()).unwrap();
        store
            .save(&Credentials {
                version: 2,
                ..credentials()
            })
            .unwrap();
        assert!(matches!(
            store.load(),
            Err(StoreError::Version { version: 2, .. })
        ));
    }

    #[test]
    fn a_crash_while_writing_leaves_the_old_credentials_in_force() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path()).unwrap();
        store.save(&credentials()).unwrap();
        fs::write(
            data.path().join("agent").join(NEXT),
            "{\"version\":1,\"host_",
        )
        .unwrap();
        let store = Store::open(data.path()).unwrap();
        assert_eq!(store.load().unwrap().unwrap().host_id, "host-1");
        store.save(&credentials()).unwrap();
        assert_eq!(store.load().unwrap().unwrap().host_id, "host-1");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path()).unwrap();
        store.save(&credentials()).unwrap();
        fs::set_permissions(store.path(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            store.load(),
            Err(StoreError::Exposed { mode: 0o640, .. })
        ));
    }

    #[test]
    fn an_unusable_data_directory_is_an_error_that_names_it() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Store::open(&file).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
    }
}
