//! The people's door, as a web client sees it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use hostler_authority::{FileError, WebAuthority, WebAuthorityError};
use hostler_identity::crypto_provider;
use jiff::Timestamp;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::support::DAY;

fn open(dir: &Path) -> Result<WebAuthority, WebAuthorityError> {
    let names = [
        "door.example".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ];
    WebAuthority::open(dir, &names, Timestamp::now())
}

fn new() -> (WebAuthority, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (open(dir.path()).unwrap(), dir)
}

/// A handshake in memory between the door and a client that trusts `ca_pem` and nothing else.
/// Answers with what the client was shown.
fn visit(
    door: &WebAuthority,
    ca_pem: &str,
    name: &str,
    version: &'static rustls::SupportedProtocolVersion,
) -> Result<Vec<CertificateDer<'static>>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap())
        .unwrap();
    let config = ClientConfig::builder_with_provider(crypto_provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut server =
        ServerConnection::new(Arc::new(door.server_config(&[b"h2", b"http/1.1"]))).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    Ok(client.peer_certificates().unwrap().to_vec())
}

#[test]
fn whoever_trusts_the_ca_recognises_the_door_by_every_name() {
    let (door, _dir) = new();
    for name in ["door.example", "127.0.0.1", "::1"] {
        let shown = visit(&door, door.ca_pem(), name, &TLS13);
        assert_eq!(
            shown.unwrap().len(),
            2,
            "the leaf and the CA that may be pinned"
        );
    }
    assert!(visit(&door, door.ca_pem(), "other.example", &TLS13).is_err());
    let (stranger, _other_dir) = new();
    assert!(visit(&door, stranger.ca_pem(), "door.example", &TLS13).is_err());
}

#[test]
fn the_door_speaks_tls_1_3_only() {
    let (door, _dir) = new();
    assert!(visit(&door, door.ca_pem(), "door.example", &TLS12).is_err());
}

#[test]
fn the_ca_is_the_same_after_a_restart_and_the_leaf_is_not() {
    let (door, dir) = new();
    let again = open(dir.path()).unwrap();
    assert_eq!(again.ca_pem(), door.ca_pem());
    assert_eq!(again.ca_der(), door.ca_der());
    assert_eq!(fs::read_to_string(again.ca_path()).unwrap(), again.ca_pem());
    let leaf = |door: &WebAuthority| {
        visit(door, door.ca_pem(), "door.example", &TLS13)
            .unwrap()
            .remove(0)
    };
    assert_ne!(leaf(&door), leaf(&again));
    assert_eq!(
        leaf(&again),
        leaf(&again),
        "one certificate serves many handshakes"
    );
}

#[test]
fn the_ca_key_is_private_and_the_certificate_is_not() {
    let (_door, dir) = new();
    let mode = |name: &str| {
        fs::metadata(dir.path().join(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!((mode("ca.key"), mode("ca.pem")), (0o600, 0o644));
    fs::set_permissions(dir.path().join("ca.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(
        matches!(refused, WebAuthorityError::File(FileError::Exposed { .. })),
        "{refused}"
    );
}

#[test]
fn a_leaf_near_its_end_is_renewed_by_the_next_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let names = ["door.example".to_owned()];
    let shown_after = |days: i32| {
        let then = Timestamp::now() - DAY * days;
        let door = WebAuthority::open(dir.path(), &names, then).unwrap();
        let first = visit(&door, door.ca_pem(), "door.example", &TLS13)
            .unwrap()
            .remove(0);
        let until = {
            use x509_parser::prelude::{FromDer, X509Certificate};
            let (_, cert) = X509Certificate::from_der(&first).unwrap();
            cert.validity().not_after.timestamp()
        };
        (until - Timestamp::now().as_second() + 43_200) / 86_400 // to the nearest day
    };
    assert_eq!(shown_after(100), 90, "an expired leaf is replaced");
    assert_eq!(
        shown_after(61),
        90,
        "and so is one with less than a third of its life left"
    );
    assert_eq!(shown_after(59), 31, "a younger one is kept");
}

#[test]
fn a_missing_or_wrong_key_is_refused_and_says_what_to_do() {
    let (_door, dir) = new();
    let key = dir.path().join("ca.key");
    let good = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(
        matches!(refused, WebAuthorityError::KeyMissing { .. }),
        "{refused}"
    );
    let (_other, other_dir) = new();
    let foreign = fs::read(other_dir.path().join("ca.key")).unwrap();
    for wrong in [&foreign[..], b"", &good[..50]] {
        fs::write(&key, wrong).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let refused = open(dir.path()).unwrap_err();
        assert!(
            matches!(refused, WebAuthorityError::Damaged { .. }),
            "{refused}"
        );
    }
    fs::write(&key, good).unwrap();
    open(dir.path()).unwrap();
}

#[test]
fn a_first_start_that_was_cut_off_between_the_two_files_begins_again() {
    let (_door, dir) = new();
    fs::remove_file(dir.path().join("ca.pem")).unwrap();
    let door = open(dir.path()).unwrap();
    assert!(visit(&door, door.ca_pem(), "door.example", &TLS13).is_ok());
}

#[test]
fn names_that_cannot_stand_in_a_certificate_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for names in [
        vec![],
        vec!["".to_owned()],
        vec!["two words".to_owned()],
        vec!["ü".to_owned()],
    ] {
        let refused = WebAuthority::open(dir.path(), &names, Timestamp::now()).unwrap_err();
        assert!(
            matches!(refused, WebAuthorityError::Name(_)),
            "{names:?}: {refused}"
        );
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left behind"
    );
}
