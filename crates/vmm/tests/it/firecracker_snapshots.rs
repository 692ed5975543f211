//! Snapshots of VMs on Firecracker, in the open and in a jail.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use hostler_vmm::{RestoreError, SnapshotError, VmState};

use crate::firecracker::{Site, program, skipped};
use crate::jail::{confine, jailer};
use crate::support::processes_of;

const START: u64 = 100 * 1024 * 1024;

/// Writes something far behind everything that a guest of this image has on its disk.
fn scribble(disk: &Path, text: &[u8]) {
    let disk = fs::File::options().write(true).open(disk).unwrap();
    disk.write_all_at(text, START).unwrap();
}

fn scribbled(disk: &Path) -> Vec<u8> {
    let mut text = vec![0; 3];
    let disk = fs::File::open(disk).unwrap();
    disk.read_exact_at(&mut text, START).unwrap();
    text
}

/// A VM is paused, saved and restored, whatever its process sits in.
async fn goes_back(site: Site) {
    let host = site.host;
    host.machines
        .create(crate::support::small("web-1"))
        .await
        .unwrap();
    host.machines.start("web-1").await.unwrap();
    host.until_ready("web-1").await;
    let paused = host.machines.pause("web-1").await.unwrap();
    assert_eq!(paused.state, VmState::Paused);
    let host = host.restart().await;
    assert_eq!(
        host.machines.get("web-1").await.unwrap().state,
        VmState::Paused
    );
    host.machines.resume("web-1").await.unwrap();

    let directory = host.data_dir().join("vms/web-1");
    let disk = directory.join("disk.ext4");
    scribble(&disk, b"old");
    let name = Some("a".parse().unwrap());
    let taken = host.machines.snapshot("web-1", name).await.unwrap();
    assert!(taken.memory, "{taken:?}");
    for file in ["memory", "state", "disk.ext4", "snapshot.json"] {
        let metadata = fs::metadata(directory.join("snapshots/a").join(file)).unwrap();
        let owner = rustix::process::geteuid().as_raw();
        assert_eq!(
            (metadata.mode() & 0o777, metadata.uid()),
            (0o600, owner),
            "{file}"
        );
    }
    let before = host.machines.get("web-1").await.unwrap();
    assert_eq!(before.state, VmState::Running);
    scribble(&disk, b"new");
    let process = processes_of(&host.data_dir());
    let error = host
        .machines
        .restore("web-1", "a", false)
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::Running { .. }), "{error}");

    host.machines.restore("web-1", "a", true).await.unwrap();
    let restored = host.until_ready("web-1").await;
    assert!(restored.started_at > before.started_at);
    assert_ne!(processes_of(&host.data_dir()), process);
    assert_eq!(scribbled(&disk), b"old");

    // What runs reads its memory from the snapshot, and does not need its name.
    host.machines.delete_snapshot("web-1", "a").await.unwrap();
    let host = host.restart().await;
    host.until_ready("web-1").await;
    host.machines.snapshot("web-1", None).await.unwrap();
    host.clear().await;
}

#[tokio::test]
async fn a_vm_on_firecracker_goes_back_to_its_snapshot_and_runs_on() {
    goes_back(Site::new().await).await;
}

#[tokio::test]
async fn a_jailed_vm_goes_back_to_its_snapshot_and_runs_on() {
    let Some(jailer) = jailer() else { return };
    let site = Site::with(|config| confine(config, jailer)).await;
    site.host.machines.images().pull(&|_| {}).await.unwrap();
    goes_back(site).await;
}

#[tokio::test]
async fn a_firecracker_that_refuses_leaves_no_snapshot_and_no_half_restored_vm() {
    if program().1 {
        return skipped("it cannot be made to refuse");
    }
    let site = Site::new().await;
    let machines = &site.host.machines;
    machines
        .create(crate::support::small("web-1"))
        .await
        .unwrap();
    machines.start("web-1").await.unwrap();
    site.host.until_ready("web-1").await;
    let snapshots = site.host.data_dir().join("vms/web-1/snapshots");
    for fault in ["refuse", "garbage", "nonsense"] {
        site.go_wrong(&format!("{fault} PUT /snapshot/create"));
        let error = machines.snapshot("web-1", None).await.unwrap_err();
        assert!(matches!(error, SnapshotError::Link(_)), "{error}");
        assert_eq!(machines.get("web-1").await.unwrap().state, VmState::Running);
        assert_eq!(fs::read_dir(&snapshots).unwrap().count(), 0);
    }
    site.go_wrong("");
    let name = Some("a".parse().unwrap());
    machines.snapshot("web-1", name).await.unwrap();
    let disk = site.host.data_dir().join("vms/web-1/disk.ext4");
    scribble(&disk, b"new");
    for fault in ["refuse", "die"] {
        site.go_wrong(&format!("{fault} PUT /snapshot/load"));
        let error = machines.restore("web-1", "a", true).await.unwrap_err();
        assert!(matches!(error, RestoreError::Start { .. }), "{error}");
        assert_eq!(machines.get("web-1").await.unwrap().state, VmState::Stopped);
        assert_eq!(scribbled(&disk), b"new", "its disk is not what it was");
        site.assert_at_rest("web-1").await;
    }
    site.go_wrong("");
    machines.restore("web-1", "a", false).await.unwrap();
    site.host.until_ready("web-1").await;
    site.host.clear().await;
}
