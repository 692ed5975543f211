//! First starts, later starts, and starts that must not be.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use hostler_authority::{Authority, FileError, OpenError};
use hostler_identity::TrustDomain;
use jiff::Timestamp;

use crate::support::{enrol, new, open};

#[test]
fn an_authority_is_the_same_after_a_restart() {
    let (authority, dir) = new();
    let bundle = authority.bundle_pem();
    drop(authority);
    let again = open(dir.path()).unwrap();
    assert_eq!(again.bundle_pem(), bundle);
    enrol(&again, "/host/h1", Timestamp::now());
}

#[test]
fn the_key_is_readable_by_its_owner_alone() {
    let (_authority, dir) = new();
    let mode = |name: &str| {
        fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("authority.json"), 0o600);
    let names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(
        names.len(),
        2,
        "state and lock, and nothing temporary: {names:?}"
    );
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let (authority, dir) = new();
    drop(authority);
    fs::set_permissions(
        dir.path().join("authority.json"),
        Permissions::from_mode(0o640),
    )
    .unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::File(FileError::Exposed { mode: 0o640, .. })
        ),
        "{refused}"
    );
    assert!(refused.to_string().contains("chmod 600"));
}

#[test]
fn a_damaged_or_half_written_state_is_refused_and_left_alone() {
    let (authority, dir) = new();
    drop(authority);
    let path = dir.path().join("authority.json");
    let good = fs::read_to_string(&path).unwrap();
    let other_key = {
        let (other, other_dir) = new();
        drop(other);
        let other = fs::read_to_string(other_dir.path().join("authority.json")).unwrap();
        let key = |text: &str| {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            value["active"]["key"].to_string()
        };
        good.replace(&key(&good), &key(&other))
    };
    for damaged in [
        String::new(),
        good[..good.len() / 2].to_owned(),
        good.replace("BEGIN CERTIFICATE", "BEGIN CERTIFICAT"),
        good.replace("\"layout\": 1", "\"layout\": 2"),
        good.replace("\"sequence\"", "\"sequenz\""),
        other_key,
    ] {
        fs::write(&path, &damaged).unwrap();
        let refused = open(dir.path()).unwrap_err();
        assert!(
            matches!(refused, OpenError::Damaged { .. }),
            "{damaged}: {refused}"
        );
        assert!(!refused.to_string().contains("PRIVATE KEY"));
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            damaged,
            "it is evidence"
        );
    }
    fs::write(&path, &good).unwrap();
    open(dir.path()).unwrap();
}

#[test]
fn a_leftover_of_a_crash_is_in_nobodys_way() {
    let (authority, dir) = new();
    drop(authority);
    let leftover = dir.path().join("authority.json.tmp");
    fs::write(&leftover, "half").unwrap();
    let later = Timestamp::now() + crate::support::DAY * 16;
    let authority = crate::support::open_at(dir.path(), later).unwrap();
    assert!(!leftover.exists(), "the next change has taken its place");
    assert_eq!(authority.bundle_pem().matches("BEGIN").count(), 2);
}

#[test]
fn another_trust_domain_in_the_same_directory_is_refused() {
    let (authority, dir) = new();
    drop(authority);
    let refused = Authority::open(dir.path(), TrustDomain::new("b.example").unwrap()).unwrap_err();
    assert!(
        matches!(refused, OpenError::OtherTrustDomain { .. }),
        "{refused}"
    );
    assert!(refused.to_string().contains("a.example"));
}

#[test]
fn two_authorities_do_not_share_a_directory() {
    let (authority, dir) = new();
    let refused = open(dir.path()).unwrap_err();
    assert!(
        matches!(refused, OpenError::File(FileError::InUse { .. })),
        "{refused}"
    );
    drop(authority);
    open(dir.path()).unwrap();
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = open(&file.join("authority")).unwrap_err();
    assert!(
        matches!(
            refused,
            OpenError::File(FileError::Io {
                action: "create",
                ..
            })
        ),
        "{refused}"
    );
    assert!(refused.to_string().contains("file/authority"));
}
