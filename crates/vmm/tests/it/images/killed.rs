//! A daemon that dies in the middle of an import, at each step of it.

use std::process::Command;

use hostler_vmm::{Config, Machines};

use super::makers::{Disk, assert_nothing_left, import, left_in};
use super::stub::{Stub, Trouble};
use super::tarball::Tarball;
use crate::support::Host;

/// Where the process that is to die finds what it is to do.
const SOURCE: &str = "IMAGES_TEST_SOURCE";
const DATA: &str = "IMAGES_TEST_DATA";

/// Not a test of its own: what the one below runs in another process.
#[tokio::test]
async fn import_until_killed() {
    let (Ok(source), Ok(data)) = (std::env::var(SOURCE), std::env::var(DATA)) else {
        return;
    };
    let machines = Machines::open(Config::new(data)).await.unwrap();
    let imported = import(&machines, source, "a").await;
    panic!("it was to die and did not: {imported:?}");
}

#[tokio::test]
async fn a_daemon_killed_during_an_import_leaves_the_whole_image_or_nothing() {
    let layer = Tarball::bootable().file("x", &[3; 100_000]).bytes();
    let stub = Stub::serve(layer, Trouble::None);
    let mut host = Host::bare().await;
    for (point, is_whole) in [
        ("image.fetching", false),
        ("image.fetched", false),
        ("image.read", false),
        ("image.made", false),
        ("image.placed", false),
        ("image.written", false),
        ("image.before-put", false),
        ("image.after-put", true),
    ] {
        let data = host.data_dir();
        host = host
            .restart_after(|| {
                let killed = Command::new(std::env::current_exe().unwrap())
                    .args([
                        "--exact",
                        "images::killed::import_until_killed",
                        "--nocapture",
                    ])
                    .env(SOURCE, stub.name())
                    .env(DATA, &data)
                    .env("HOSTLER_FAULT_POINT", point)
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&killed.stderr).into_owned();
                assert_eq!(killed.status.code(), None, "{point}: {said}");
            })
            .await;
        if is_whole {
            assert_eq!(left_in(&host, "images"), ["a"], "{point}");
            Disk::of(&host, "a").check();
        } else {
            assert_nothing_left(&host).await;
        }
    }
}
