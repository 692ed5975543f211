//! A guest that starts from what somebody else made.

use hostler_vmm::{Boots, CreateVm};

use super::makers::{Registry, Workshop, busybox, import};
use crate::support::{Host, PATIENCE, small};

#[tokio::test]
async fn an_image_without_an_init_boots_runs_its_program_and_stays() {
    let (registry, workshop) = (Registry::start(), Workshop::open());
    busybox(&workshop);
    let script = "echo \"program says $WORD from $PWD as $(/bin/busybox id -u)\"";
    workshop.configure(&[
        "--config.entrypoint",
        "/bin/sh",
        "--config.entrypoint",
        "-c",
        "--config.cmd",
        script,
        "--config.env",
        "WORD=hello",
        "--config.workingdir",
        "/srv/here",
        "--config.user",
        "12:34",
    ]);
    workshop.copy_to(&format!("docker://{}", registry.name("alpine-like:1")));
    let host = Host::new().await;
    let image = import(&host.machines, registry.name("alpine-like:1"), "a")
        .await
        .unwrap();
    assert_eq!(image.boots, Boots::Program);
    assert_eq!(image.program.as_ref().unwrap().working_dir, "/srv/here");
    let request = CreateVm {
        image: Some("a".parse().unwrap()),
        ..small("web-1")
    };
    host.machines.create(request).await.unwrap();
    host.machines.start("web-1").await.unwrap();
    host.until_ready("web-1").await;
    let console = host.data_dir().join("vms/web-1/console.log");
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let said = String::from_utf8_lossy(&std::fs::read(&console).unwrap()).into_owned();
        if said.contains("has ended") {
            assert!(
                said.contains("program says hello from /srv/here as 12"),
                "{said}"
            );
            assert!(said.contains("the guest stays up"), "{said}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{said}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    host.machines.stop("web-1", PATIENCE).await.unwrap();
    host.clear().await;
}
