//! What is refused, and that it leaves nothing behind.

use std::fs;
use std::net::TcpListener;

use hostler_vmm::{
    CreateError, CreateVm, DeleteError, Mount, PortError, PortForwardError, RemoveError,
    StartError, VmState,
};

use crate::support::{Host, forward, free_port, page, processes_of, small};

/// Everything that creating a VM could have left.
fn left_behind(host: &Host) -> usize {
    fs::read_dir(host.data_dir().join("vms")).unwrap().count()
}

async fn refused(host: &Host, request: CreateVm) -> CreateError {
    let before = host.machines.status().await.unwrap().used;
    let error = host.machines.create(request).await.unwrap_err();
    assert_eq!(
        host.machines.status().await.unwrap().used,
        before,
        "it is still reserved"
    );
    error
}

#[tokio::test]
async fn an_impossible_vm_is_refused_and_leaves_nothing() {
    let host = Host::bare().await;
    let error = refused(
        &host,
        CreateVm {
            cpus: 0,
            ..small("a")
        },
    )
    .await;
    assert!(matches!(error, CreateError::Invalid(_)), "{error}");
    let error = refused(
        &host,
        CreateVm {
            disk_size_mb: 1,
            ..small("a")
        },
    )
    .await;
    assert!(matches!(error, CreateError::Invalid(_)), "{error}");
    let error = refused(&host, small("a")).await;
    assert!(matches!(error, CreateError::UnknownImage(_)), "{error}");
    assert!(
        error.to_string().contains("pull the default image"),
        "{error}"
    );
    let mount = Mount {
        host_path: "/srv".into(),
        guest_tag: "srv".into(),
        read_only: true,
    };
    let error = refused(
        &host,
        CreateVm {
            mounts: vec![mount],
            ..small("a")
        },
    )
    .await;
    assert!(matches!(error, CreateError::Mount(_)), "{error}");
    assert_eq!(left_behind(&host), 0);
}

#[tokio::test]
async fn a_vm_that_lacks_something_is_refused_and_leaves_nothing() {
    let host = Host::new().await;
    let kernel = Some("no-such-kernel".parse().unwrap());
    let error = refused(
        &host,
        CreateVm {
            kernel,
            ..small("a")
        },
    )
    .await;
    assert!(matches!(error, CreateError::UnknownKernel(_)), "{error}");
    assert!(
        error.to_string().contains("there are: debian-cloud"),
        "{error}"
    );

    let memory_mb = host.machines.status().await.unwrap().available.memory_mb + 1;
    if memory_mb <= 65_536 {
        let error = refused(
            &host,
            CreateVm {
                memory_mb,
                ..small("a")
            },
        )
        .await;
        assert!(matches!(error, CreateError::Capacity(_)), "{error}");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = forward(listener.local_addr().unwrap().port(), 80);
    let error = refused(
        &host,
        CreateVm {
            port_forwards: vec![taken],
            ..small("a")
        },
    )
    .await;
    assert!(
        matches!(error, CreateError::Port(PortError::Taken { .. })),
        "{error}"
    );
    assert_eq!(left_behind(&host), 0);

    host.machines.create(small("a")).await.unwrap();
    let error = refused(&host, small("a")).await;
    assert!(matches!(error, CreateError::Exists { .. }), "{error}");
    assert_eq!(left_behind(&host), 1);
    host.clear().await;
}

#[tokio::test]
async fn a_storage_failure_in_the_middle_names_the_path_and_leaves_nothing() {
    let host = Host::new().await;
    let image = host.data_dir().join("images/debian-minimal/root.ext4");
    fs::rename(&image, image.with_extension("away")).unwrap();
    let error = refused(&host, small("a")).await;
    let CreateError::Storage(storage) = &error else {
        panic!("{error}")
    };
    assert_eq!(storage.path(), image);
    assert_eq!(left_behind(&host), 0);
    fs::rename(image.with_extension("away"), &image).unwrap();
    host.machines.create(small("a")).await.unwrap();
    host.clear().await;
}

#[tokio::test]
async fn a_port_in_use_is_refused_before_anything_changes() {
    let host = Host::new().await;
    let (port, other) = (free_port(), free_port());
    let request = CreateVm {
        port_forwards: vec![forward(port, 80)],
        ..small("a")
    };
    host.machines.create(request).await.unwrap();
    host.machines.create(small("b")).await.unwrap();
    host.machines.start("b").await.unwrap();

    // Another VM's, although that does not run.
    let error = host
        .machines
        .port_forward("b", forward(port, 80))
        .await
        .unwrap_err();
    let PortForwardError::Port(PortError::Claimed { holder, .. }) = &error else {
        panic!("{error}")
    };
    assert_eq!(holder.as_str(), "a");
    // Another program's.
    let listener = TcpListener::bind(("127.0.0.1", other)).unwrap();
    let error = host
        .machines
        .port_forward("b", forward(other, 80))
        .await
        .unwrap_err();
    assert!(
        matches!(error, PortForwardError::Port(PortError::Taken { .. })),
        "{error}"
    );
    assert!(
        host.machines
            .get("b")
            .await
            .unwrap()
            .port_forwards
            .is_empty()
    );
    drop(listener);
    host.machines
        .port_forward("b", forward(other, 80))
        .await
        .unwrap();
    page(other).await;

    // Taken between create and start: the start fails and says so, and the VM is as it was.
    let thief = TcpListener::bind(("127.0.0.1", port)).unwrap();
    let error = host.machines.start("a").await.unwrap_err();
    assert!(matches!(error, StartError::Launch(_)), "{error}");
    assert!(error.to_string().contains(&port.to_string()), "{error}");
    assert_eq!(
        host.machines.get("a").await.unwrap().state,
        VmState::Created
    );
    assert_eq!(processes_of(&host.data_dir()).len(), 1);
    drop(thief);
    host.machines.start("a").await.unwrap();
    host.clear().await;
}

#[tokio::test]
async fn a_running_vm_is_deleted_only_with_force_and_gives_everything_back() {
    let host = Host::new().await;
    let port = free_port();
    let request = || CreateVm {
        port_forwards: vec![forward(port, 80)],
        ..small("a")
    };
    let first = host.machines.create(request()).await.unwrap();
    host.machines.start("a").await.unwrap();
    let error = host.machines.delete("a", false).await.unwrap_err();
    assert!(matches!(error, DeleteError::Running { .. }), "{error}");
    assert_eq!(
        host.machines.get("a").await.unwrap().state,
        VmState::Running
    );

    host.machines.delete("a", true).await.unwrap();
    assert!(host.machines.get("a").await.is_err());
    assert!(matches!(
        host.machines.delete("a", true).await,
        Err(DeleteError::NotFound(_))
    ));
    assert!(processes_of(&host.data_dir()).is_empty());
    // The name and the port are free again.
    let second = host.machines.create(request()).await.unwrap();
    assert_ne!(first.id, second.id);
    host.clear().await;
}

#[tokio::test]
async fn an_image_and_a_kernel_that_a_vm_uses_cannot_be_deleted() {
    let host = Host::new().await;
    host.machines.create(small("a")).await.unwrap();
    let error = host
        .machines
        .images()
        .delete("debian-minimal")
        .await
        .unwrap_err();
    assert!(matches!(error, RemoveError::InUse { .. }), "{error}");
    let error = host
        .machines
        .kernels()
        .delete("debian-cloud")
        .await
        .unwrap_err();
    assert!(matches!(error, RemoveError::InUse { .. }), "{error}");
    host.machines.delete("a", false).await.unwrap();
    host.machines
        .images()
        .delete("debian-minimal")
        .await
        .unwrap();
    host.machines
        .kernels()
        .delete("debian-cloud")
        .await
        .unwrap();
    assert!(host.machines.images().list().await.unwrap().is_empty());
    // And come back without a download.
    host.machines.images().pull(&|_| {}).await.unwrap();
    assert_eq!(host.machines.kernels().list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_vm_that_waits_for_its_guest_keeps_no_other_waiting() {
    let host = Host::new().await;
    host.machines.create(small("slow")).await.unwrap();
    host.machines.create(small("quick")).await.unwrap();
    host.machines.start("slow").await.unwrap();
    // The guest is asked before it is up, so this takes as long as its boot.
    let machines = host.machines.clone();
    let stopping =
        tokio::spawn(async move { machines.stop("slow", crate::support::PATIENCE).await });
    host.until("slow", |vm| vm.state == VmState::Stopping).await;
    assert_eq!(host.machines.list().await.len(), 2);
    host.machines.delete("quick", false).await.unwrap();
    assert!(
        !stopping.is_finished(),
        "it was over before anything could wait for it"
    );
    assert_eq!(stopping.await.unwrap().unwrap().state, VmState::Stopped);
    host.clear().await;
}
