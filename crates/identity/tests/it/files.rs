//! Identities from files, while somebody replaces the files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use hostler_identity::{
    Authorizer, Client, FilesError, Source, SvidError, SvidFiles, TrustBundles, TrustDomain,
    Unavailable,
};
use jiff::SignedDuration;
use rcgen::KeyPair;
use tempfile::TempDir;

use crate::certs::{Ca, Raw};
use crate::support::{Running, soon, source};

/// A directory with a set of files in it, and whoever renews them.
struct Disk {
    dir: TempDir,
    files: SvidFiles,
}

impl Disk {
    fn new(ca: &Ca, svid: &Raw) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = SvidFiles {
            chain: dir.path().join("svid.pem"),
            key: dir.path().join("svid.key"),
            bundle: dir.path().join("bundle.pem"),
        };
        let disk = Self { dir, files };
        disk.put_svid(svid);
        disk.put(&disk.files.bundle, &pem("CERTIFICATE", &ca.certificate));
        disk
    }

    fn put_svid(&self, svid: &Raw) {
        self.put(&self.files.key, &pem("PRIVATE KEY", svid.key.secret_der()));
        self.put(&self.files.chain, &pem("CERTIFICATE", &svid.chain[0]));
    }

    /// As a careful program does it: a neighbour, renamed over the file.
    fn put(&self, path: &Path, contents: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, contents).unwrap();
        fs::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        fs::rename(&new, path).unwrap();
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// Long enough for the watcher to have looked at the files several times.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(3500)).await;
}

#[tokio::test]
async fn an_identity_in_files_is_presented_and_followed() {
    let ca = Ca::new("a.example");
    let first = ca.raw("/web", |_| {});
    let disk = Disk::new(&ca, &first);
    let mut web = Source::files(disk.files.clone()).await.unwrap();
    assert_eq!(web.svid().unwrap().chain(), first.chain);
    let (api, _a) = source(&ca, "/api");
    let running = Running::new(&api, Authorizer::any()).await;
    let url = running.url("/");

    let second = ca.raw("/renewed", |_| {});
    disk.put_svid(&second);
    soon(web.changed()).await.unwrap();
    assert_eq!(web.svid().unwrap().chain(), second.chain);
    let answer = Client::new(&web, Authorizer::any()).get(&url).await;
    assert_eq!(answer.unwrap().body(), "spiffe://a.example/renewed");
}

#[tokio::test]
async fn a_new_bundle_alone_is_a_change() {
    let (ca, next) = (Ca::new("a.example"), Ca::new("a.example"));
    let disk = Disk::new(&ca, &ca.raw("/web", |_| {}));
    let mut web = Source::files(disk.files.clone()).await.unwrap();
    let both = pem("CERTIFICATE", &ca.certificate) + &pem("CERTIFICATE", &next.certificate);
    disk.put(&disk.files.bundle, &both);
    soon(web.changed()).await.unwrap();
    let expected = TrustBundles::from_pem(TrustDomain::new("a.example").unwrap(), &both);
    assert_eq!(web.bundles().unwrap(), expected.unwrap());
}

#[tokio::test]
async fn a_half_written_set_keeps_the_last_good_one_until_it_fits_again() {
    let ca = Ca::new("a.example");
    let (first, second) = (ca.raw("/web", |_| {}), ca.raw("/web", |_| {}));
    let disk = Disk::new(&ca, &first);
    let mut web = Source::files(disk.files.clone()).await.unwrap();
    // The key of the next set, with the chain of the last one; then half of the chain; then none.
    disk.put(
        &disk.files.key,
        &pem("PRIVATE KEY", second.key.secret_der()),
    );
    a_while().await;
    let whole = pem("CERTIFICATE", &second.chain[0]);
    fs::write(&disk.files.chain, &whole[..whole.len() / 2]).unwrap();
    a_while().await;
    fs::remove_file(&disk.files.chain).unwrap();
    a_while().await;
    assert_eq!(web.svid().unwrap().chain(), first.chain);
    let quiet = tokio::time::timeout(Duration::from_millis(1), web.changed());
    assert!(quiet.await.is_err(), "nothing has changed so far");

    disk.put(&disk.files.chain, &whole);
    soon(web.changed()).await.unwrap();
    assert_eq!(web.svid().unwrap().chain(), second.chain);
}

#[tokio::test]
async fn files_that_nobody_renews_expire() {
    let ca = Ca::new("a.example");
    let expired = ca.raw("/web", |params| {
        let now = jiff::Timestamp::now() - SignedDuration::from_secs(1);
        params.not_after = time::OffsetDateTime::from_unix_timestamp(now.as_second()).unwrap();
    });
    let disk = Disk::new(&ca, &expired);
    let mut web = Source::files(disk.files.clone()).await.unwrap();
    assert!(matches!(web.svid(), Err(Unavailable::Expired(_))));
    disk.put_svid(&ca.raw("/web", |_| {}));
    soon(web.changed()).await.unwrap();
    assert!(web.svid().is_ok(), "and come back when somebody does");
}

#[tokio::test]
async fn a_directory_behind_a_symlink_may_be_switched() {
    // How a secret volume is renewed: `data` is a symlink to a directory of the day.
    let ca = Ca::new("a.example");
    let (first, second) = (ca.raw("/web", |_| {}), ca.raw("/web", |_| {}));
    let (old, new) = (Disk::new(&ca, &first), Disk::new(&ca, &second));
    let volume = tempfile::tempdir().unwrap();
    let data = volume.path().join("data");
    std::os::unix::fs::symlink(old.dir.path(), &data).unwrap();
    let files = SvidFiles {
        chain: data.join("svid.pem"),
        key: data.join("svid.key"),
        bundle: data.join("bundle.pem"),
    };
    let mut web = Source::files(files).await.unwrap();
    std::os::unix::fs::symlink(new.dir.path(), volume.path().join("next")).unwrap();
    fs::rename(volume.path().join("next"), &data).unwrap();
    soon(web.changed()).await.unwrap();
    assert_eq!(web.svid().unwrap().chain(), second.chain);
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused_and_one_for_the_group_is_not() {
    let ca = Ca::new("a.example");
    let disk = Disk::new(&ca, &ca.raw("/web", |_| {}));
    for (mode, accepted) in [
        (0o644, false),
        (0o604, false),
        (0o660, false),
        (0o640, true),
    ] {
        fs::set_permissions(&disk.files.key, Permissions::from_mode(mode)).unwrap();
        match Source::files(disk.files.clone()).await {
            Ok(_) => assert!(accepted, "{mode:o}"),
            Err(FilesError::Exposed { mode: found, path }) => {
                assert!(
                    !accepted && found == mode && path == disk.files.key,
                    "{mode:o}"
                );
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_set_that_is_no_identity_is_refused_with_the_file_and_the_reason() {
    let ca = Ca::new("a.example");
    let disk = Disk::new(&ca, &ca.raw("/web", |_| {}));
    let SvidFiles { chain, key, bundle } = &disk.files;
    let refused = async |path: &Path, contents: &[u8]| {
        let good = fs::read(path).unwrap();
        fs::write(path, contents).unwrap();
        let refused = Source::files(disk.files.clone()).await.unwrap_err();
        fs::write(path, good).unwrap();
        assert!(refused.to_string().contains(path.to_str().unwrap()));
        refused
    };
    let other = pem("PRIVATE KEY", &KeyPair::generate().unwrap().serialize_der());
    let error = refused(key, other.as_bytes()).await;
    assert!(
        matches!(
            error,
            FilesError::Svid {
                source: SvidError::Key(_),
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.to_string().contains(&other[40..60]));
    let error = refused(chain, b"").await;
    assert!(
        matches!(
            error,
            FilesError::Svid {
                source: SvidError::EmptyChain,
                ..
            }
        ),
        "{error}"
    );
    let error = refused(chain, &[0xff, 0xfe]).await;
    assert!(matches!(error, FilesError::NotText { .. }), "{error}");
    let error = refused(bundle, b"# nothing yet\n").await;
    assert!(matches!(error, FilesError::EmptyBundle { .. }), "{error}");
    let error = refused(bundle, &vec![b'x'; 1024 * 1024 + 1]).await;
    assert!(matches!(error, FilesError::TooLarge { .. }), "{error}");
    assert!(Source::files(disk.files.clone()).await.is_ok());

    let missing = SvidFiles {
        bundle: disk.dir.path().join("none"),
        ..disk.files.clone()
    };
    let error = Source::files(missing).await.unwrap_err();
    assert!(matches!(error, FilesError::Read { .. }), "{error}");
    let directory = SvidFiles {
        chain: disk.dir.path().to_owned(),
        ..disk.files.clone()
    };
    let error = Source::files(directory).await.unwrap_err();
    assert!(matches!(error, FilesError::NotAFile { .. }), "{error}");
}
