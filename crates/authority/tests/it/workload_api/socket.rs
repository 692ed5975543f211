//! The socket in the file system, at the beginning, at the end, and after a crash.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use hostler_authority::FileError;
use hostler_authority::workload_api::{Entries, SocketError, WorkloadApi};
use hostler_identity::{Source, WorkloadApiFailure};
use tokio::sync::watch;
use tokio_stream::StreamExt;

use super::{Running, soon, web};
use crate::support::new;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn bind(path: &Path) -> Result<WorkloadApi<hostler_authority::Authority>, SocketError> {
    let (authority, _dir) = new();
    let (_, entries) = watch::channel(Entries::default());
    WorkloadApi::bind(path, authority, entries)
}

#[tokio::test]
async fn anybody_may_connect_and_only_the_owner_may_change_the_socket() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    assert!(fs::metadata(&running.path).unwrap().file_type().is_socket());
    assert_eq!(mode(&running.path), 0o666);
    assert_eq!(mode(running.path.parent().unwrap()), 0o755);
    assert_eq!(mode(&running.path.with_extension("sock.lock")), 0o600);
    let mut names: Vec<_> = fs::read_dir(running.path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(
        names,
        ["api.sock", "api.sock.lock"],
        "and nothing temporary"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_directory_where_anybody_may_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o777, 0o1777] {
        fs::set_permissions(dir.path(), Permissions::from_mode(mode)).unwrap();
        let refused = bind(&dir.path().join("api.sock")).unwrap_err();
        assert!(
            matches!(refused, SocketError::PublicDirectory { .. }),
            "{refused}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
    let refused = bind("/tmp/api.sock".as_ref()).unwrap_err();
    assert!(
        matches!(refused, SocketError::PublicDirectory { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn what_a_crash_left_behind_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    // A listener that is closed leaves its socket, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("api.sock.new")).unwrap());
    assert!(std::os::unix::net::UnixStream::connect(&path).is_err());
    let api = bind(&path).unwrap();
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    drop(api);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_living_server_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let first = bind(&path).unwrap();
    let refused = bind(&path).unwrap_err();
    assert!(
        matches!(refused, SocketError::File(FileError::InUse { .. })),
        "{refused}"
    );
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    drop(first);
    assert!(bind(&path).is_ok());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    fs::write(&path, "precious").unwrap();
    let refused = bind(&path).unwrap_err();
    assert!(
        matches!(refused, SocketError::NotASocket { .. }),
        "{refused}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_path_that_cannot_be_a_sockets_is_refused_with_the_path() {
    let dir = tempfile::tempdir().unwrap();
    for path in [Path::new("api.sock"), Path::new("/")] {
        let refused = bind(path).unwrap_err();
        assert!(matches!(refused, SocketError::Path { .. }), "{refused}");
    }
    // The kernel takes 108 bytes.
    let long = dir.path().join("x".repeat(120));
    let refused = bind(&long).unwrap_err();
    assert!(matches!(refused, SocketError::Listen { .. }), "{refused}");
    assert!(refused.to_string().contains(long.to_str().unwrap()));
}

#[tokio::test]
async fn a_server_that_stops_ends_its_streams_and_takes_nothing_back() {
    let (authority, _dir) = new();
    let running = Running::new(&authority, web());
    let source = soon(Source::workload_api(&running.endpoint)).await.unwrap();
    let client = running.client().await;
    let mut stream = soon(client.stream_x509_svids()).await.unwrap();
    soon(stream.next()).await.unwrap().unwrap();
    let endpoint = running.endpoint.clone();
    running.stop().await;
    let ended = soon(stream.next()).await.expect("a reason").unwrap_err();
    assert!(ended.to_string().contains("stopping"), "{ended}");
    assert!(
        source.svid().is_ok(),
        "what was given stays until it expires"
    );
    let gone = soon(Source::workload_api(&endpoint)).await.unwrap_err();
    assert!(
        matches!(gone, WorkloadApiFailure::Unreachable { .. }),
        "{gone}"
    );
}
