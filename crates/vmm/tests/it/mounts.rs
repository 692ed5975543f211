//! Directories of the host in a guest.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use hostler_vmm::{
    Config, CreateError, CreateVm, Machines, Mount, MountError, OpenError, SnapshotError,
    StartError,
};

use crate::network::shell::Shell;
use crate::support::{Host, PATIENCE, forward, free_port, small};

/// A directory of which everything may be mounted, with one for each mount.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let allowed = fs::canonicalize(dir.path()).unwrap().join("allowed");
    for name in ["work", "books"] {
        fs::create_dir_all(allowed.join(name)).unwrap();
    }
    fs::create_dir(allowed.with_file_name("secret")).unwrap();
    fs::write(allowed.with_file_name("secret").join("key"), "secret").unwrap();
    (dir, allowed)
}

fn mount(path: PathBuf, tag: &str, read_only: bool) -> Mount {
    Mount {
        host_path: path,
        guest_tag: tag.to_owned(),
        read_only,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_shares_what_it_may_reads_what_it_may_only_read_and_gets_out_of_neither() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: mounts need root");
        return;
    }
    let (_dir, allowed) = place();
    fs::write(allowed.join("books/page"), "read me").unwrap();
    fs::write(allowed.join("work/page"), "change me").unwrap();
    symlink(allowed.with_file_name("secret"), allowed.join("work/out")).unwrap();
    let host = Host::configured(|config| config.mount_allow = vec![allowed.clone()]).await;
    host.machines.images().pull(&|_| {}).await.unwrap();
    let (shell, port) = (Shell::new(), free_port());
    let request = CreateVm {
        ssh_public_key: Some(shell.public_key()),
        port_forwards: vec![forward(port, 22)],
        mounts: vec![
            mount(allowed.join("work"), "work", false),
            mount(allowed.join("books"), "books", true),
        ],
        ..small("web-1")
    };
    let created = host.machines.create(request).await.unwrap();
    assert_eq!(created.mounts.len(), 2);
    host.machines.start("web-1").await.unwrap();
    host.until_ready("web-1").await;

    let run = |script: &'static str| tokio::task::block_in_place(|| shell.run_at(port, script));
    let said = run("cat /mnt/books/page; echo; cat /mnt/work/page; echo
         echo changed >/mnt/work/page; mkdir /mnt/work/made; echo new >/mnt/work/made/file
         echo no 2>&1 >/mnt/books/new; mount -o remount,rw /mnt/books 2>&1
         echo no 2>&1 >/mnt/books/new; rm /mnt/books/page 2>&1
         cat /mnt/work/out/key 2>&1; cat /mnt/work/../../../../../../../../etc/hostname
         mknod /mnt/work/node c 1 3 2>&1; sync; echo done");
    assert!(
        said.contains("read me\nchange me\n") && said.contains("done"),
        "{said}"
    );
    assert!(!said.contains("secret\n"), "{said}");
    assert!(said.contains("web-1"), "{said}");
    let text = |path: &str| fs::read_to_string(allowed.join(path)).unwrap();
    assert_eq!(text("work/page"), "changed\n");
    assert_eq!(text("work/made/file"), "new\n");
    assert!(!allowed.join("books/new").exists() && text("books/page") == "read me");
    assert!(
        !allowed.join("work/node").exists(),
        "a guest made a device on its host"
    );
    // What the host changes the guest sees.
    fs::write(allowed.join("books/page"), "another page").unwrap();

    let error = host.machines.snapshot("web-1", None).await.unwrap_err();
    assert!(matches!(error, SnapshotError::Unsupported(_)), "{error}");

    // The mounts are the VM's, not the daemon's, and those of the next start too.
    let host = host.restart().await;
    host.until_ready("web-1").await;
    assert!(run("cat /mnt/books/page").contains("another page"));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(
        !mounts.contains(allowed.to_str().unwrap()),
        "a mount is left on the host"
    );
    host.machines.stop("web-1", PATIENCE).await.unwrap();

    // Allowed once is not allowed for ever: a link in the place of a directory is noticed.
    fs::rename(allowed.join("work"), allowed.join("moved")).unwrap();
    symlink(allowed.with_file_name("secret"), allowed.join("work")).unwrap();
    let error = host.machines.start("web-1").await.unwrap_err();
    assert!(
        matches!(error, StartError::Mount(MountError::Link { .. })),
        "{error}"
    );
    fs::remove_file(allowed.join("work")).unwrap();
    fs::rename(allowed.join("moved"), allowed.join("work")).unwrap();
    host.machines.start("web-1").await.unwrap();
    host.until_ready("web-1").await;
    assert!(run("cat /mnt/work/page").contains("changed"));
    host.clear().await;
    assert_eq!(
        text("work/page"),
        "changed\n",
        "a VM took its mount with it"
    );
}

#[tokio::test]
async fn a_mount_that_is_not_allowed_is_refused_with_what_to_do_and_leaves_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("left out: mounts need root");
        return;
    }
    let (_dir, allowed) = place();
    symlink(allowed.with_file_name("secret"), allowed.join("out")).unwrap();
    let host = Host::configured(|config| config.mount_allow = vec![allowed.clone()]).await;
    let refused = async |path: PathBuf| {
        let request = CreateVm {
            mounts: vec![mount(path, "work", false)],
            ..small("web-1")
        };
        let error = host.machines.create(request).await.unwrap_err();
        assert!(matches!(error, CreateError::Mount(_)), "{error}");
        error.to_string()
    };
    let told = refused(allowed.with_file_name("secret")).await;
    assert!(told.contains("--mount-allow DIR"), "{told}");
    let told = refused(allowed.join("out")).await;
    assert!(told.contains("symbolic link"), "{told}");
    let told = refused(allowed.join("nothing")).await;
    assert!(told.contains("nothing cannot be mounted"), "{told}");
    assert!(host.machines.list().await.is_empty());
    host.clear().await;

    let data = tempfile::tempdir().unwrap();
    let mut config = Config::new(data.path());
    config.mount_allow = vec![allowed.join("nothing")];
    let error = Machines::open(config).await.err().unwrap();
    assert!(matches!(error, OpenError::MountAllow(_)), "{error}");
}
