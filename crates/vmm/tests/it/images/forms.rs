//! The forms in which an image may lie on a host.

use std::fs;

use hostler_vmm::ImportImageError;

use super::makers::{Disk, Workshop, assert_nothing_left, import, left_in, run};
use super::tarball::Tarball;
use crate::support::Host;

#[tokio::test]
async fn a_layout_and_every_archive_of_it_are_the_same_image() {
    let workshop = Workshop::open();
    workshop.layer(&[
        ("sbin/init", 0o755, b"#!/bin/sh\n"),
        ("etc/x", 0o644, b"content"),
    ]);
    workshop.hide("/etc/nothing");
    let place = |name: &str| workshop.path(name).display().to_string();
    workshop.copy_to(&format!("oci-archive:{}:1", place("oci.tar")));
    workshop.copy_to(&format!(
        "docker-archive:{}:example.org/a:1",
        place("docker.tar")
    ));
    run("gzip", &["-k", &place("docker.tar")]);
    run("zstd", &["-q", &place("oci.tar")]);

    let host = Host::bare().await;
    let mut layers = Vec::new();
    let sources = [
        place("layout"),
        format!("{}:1", place("layout")),
        place("oci.tar"),
        place("docker.tar"),
        format!("{}:example.org/a:1", place("docker.tar")),
        place("docker.tar.gz"),
        place("oci.tar.zst"),
    ];
    for (number, source) in sources.into_iter().enumerate() {
        let name = format!("a{number}");
        let image = import(&host.machines, &source, &name).await.unwrap();
        assert_eq!(Disk::of(&host, &name).read("/etc/x"), "content", "{source}");
        layers.push(image.layers);
    }
    Disk::of(&host, "a0").check();
    assert!(
        layers
            .iter()
            .all(|these| *these == layers[0] && these.len() == 2),
        "{layers:?}"
    );
    assert_eq!(
        Disk::of(&host, "a0").names_on_host(),
        7,
        "the same was stored twice"
    );
    for (wrong, told) in [
        (
            format!("{}:2", place("layout")),
            "no image named \"2\"; it has: 1",
        ),
        (
            format!("{}:b:1", place("docker.tar")),
            "no image named \"b:1\"; it has: example.org/a:1",
        ),
    ] {
        let error = import(&host.machines, wrong, "b").await.unwrap_err();
        assert!(matches!(error, ImportImageError::Image { .. }), "{error}");
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[tokio::test]
async fn a_root_file_system_keeps_owners_devices_links_and_attributes_for_any_user() {
    let dir = tempfile::tempdir().unwrap();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let list = [
        &[2, 0, 0, 0][..],
        &[1, 0, 6, 0, 255, 255, 255, 255],
        &[2, 0, 4, 0, 9, 0, 0, 0],
        &[4, 0, 4, 0, 255, 255, 255, 255],
        &[16, 0, 4, 0, 255, 255, 255, 255],
        &[32, 0, 0, 0, 255, 255, 255, 255],
    ]
    .concat();
    let long = format!("/{}", "t".repeat(90));
    let tarball = Tarball::bootable()
        .pax(&[
            ("uid", b"1234567"),
            ("gid", b"89"),
            ("SCHILY.xattr.security.capability", &capability),
        ])
        .file("bin/ping", b"ping")
        .hard_link("bin/ping6", "bin/ping")
        .pax(&[
            ("SCHILY.xattr.user.long", &[b'v'; 900]),
            ("SCHILY.xattr.system.posix_acl_access", &list),
        ])
        .file("etc/acl", b"listed")
        .device("dev/null", b'3', (1, 3))
        .device("dev/big", b'4', (259, 70000))
        .device("run/pipe", b'6', (0, 0))
        .symlink("etc/long", &long)
        .symlink("etc/out", "../../../../etc/passwd")
        .directory("tmp");
    let source = tarball.packed(&dir.path().join("root.tar.gz"));
    let host = Host::bare().await;
    import(&host.machines, source.to_str().unwrap(), "a")
        .await
        .unwrap();
    let disk = Disk::of(&host, "a");
    disk.check();
    assert_eq!(disk.says("/bin/ping", "User:"), "1234567");
    assert_eq!(disk.says("/bin/ping", "Group:"), "89");
    assert_eq!(disk.says("/bin/ping", "Links:"), "2");
    assert_eq!(
        disk.says("/bin/ping6", "Inode:"),
        disk.says("/bin/ping", "Inode:")
    );
    assert!(
        disk.debugfs("ea_list /bin/ping")
            .contains("security.capability (20)")
    );
    let attributes = disk.debugfs("ea_list /etc/acl");
    assert!(
        attributes.contains("user.long (900)") && attributes.contains("posix_acl_access"),
        "{attributes}"
    );
    assert!(
        disk.debugfs("stat /dev/null")
            .contains("Type: character special")
    );
    assert!(disk.debugfs("stat /dev/null").contains("01:03"));
    assert!(disk.debugfs("stat /run/pipe").contains("FIFO"));
    assert!(
        disk.debugfs("stat /etc/out")
            .contains("../../../../etc/passwd")
    );
    assert_eq!(disk.read("/etc/long"), long);
    assert_eq!(disk.says("/etc", "Mode:"), "0755");
}

#[tokio::test]
async fn what_is_no_image_is_refused_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    fs::write(place("text"), "no archive").unwrap();
    fs::write(place("empty"), "").unwrap();
    fs::create_dir(place("directory")).unwrap();
    run("mkfifo", &[&place("pipe")]);
    Tarball::default()
        .symlink("sbin", "/etc")
        .plain(&dir.path().join("no-init.tar"));
    let host = Host::bare().await;
    for (source, said) in [
        (place("missing"), "cannot be read"),
        (place("text"), "no tar archive"),
        (place("empty"), "no /sbin/init"),
        (place("directory"), "oci-layout"),
        (place("pipe"), "regular file"),
        (place("no-init.tar"), "no /sbin/init"),
        ("relative/../x".to_owned(), "absolute"),
    ] {
        let error = import(&host.machines, &source, "a").await.unwrap_err();
        assert!(error.to_string().contains(said), "{source}: {error}");
    }
    let metadata = import(&host.machines, "http://169.254.169.254/latest:1", "a").await;
    let metadata = metadata.unwrap_err();
    assert!(
        matches!(metadata, ImportImageError::Registry { .. }),
        "{metadata}"
    );
    assert!(metadata.to_string().contains("link-local"), "{metadata}");
    let nobody = import(&host.machines, "127.0.0.1:1/nobody:1", "a").await;
    let away = nobody.unwrap_err();
    assert!(
        matches!(away, ImportImageError::RegistryAway { .. }),
        "{away}"
    );
    assert!(away.to_string().contains("cannot be reached"), "{away}");
    let small = super::makers::request(place("text"), "a");
    for size_mb in [0, 31, 1 << 21] {
        let request = hostler_vmm::ImportImage {
            size_mb: Some(size_mb),
            ..small.clone()
        };
        let error = host
            .machines
            .images()
            .import(request, &|_| {})
            .await
            .unwrap_err();
        assert!(matches!(error, ImportImageError::Size { .. }), "{error}");
    }
    assert_eq!(left_in(&host, "images").len(), 0);
    assert_nothing_left(&host).await;
}

#[tokio::test]
async fn a_path_outside_of_what_the_host_allows_is_refused_whether_it_is_there_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name).display().to_string();
    for name in ["allowed", "elsewhere"] {
        fs::create_dir(place(name)).unwrap();
        Tarball::bootable().plain(&dir.path().join(name).join("root.tar"));
    }
    std::os::unix::fs::symlink("../elsewhere/root.tar", place("allowed/link")).unwrap();
    let allowed = place("allowed");
    let host = Host::configured(|config| config.import_allow = vec![allowed.clone().into()]).await;
    let refused = async |source: &str| {
        let error = import(&host.machines, source, "a").await.unwrap_err();
        error.to_string().replace(source, "SOURCE")
    };
    let told = refused(&place("elsewhere/root.tar")).await;
    assert!(
        told.contains("--import-allow DIR") && told.contains(&allowed),
        "{told}"
    );
    for source in [
        place("elsewhere/nothing.tar"),
        place("elsewhere/nothing:1"),
        place("elsewhere"),
        place("allowed/../elsewhere/root.tar"),
        "oci:/etc".to_owned(),
        "/etc/hostname".to_owned(),
    ] {
        assert_eq!(refused(&source).await, told, "{source}");
    }
    assert!(
        refused(&place("allowed/link"))
            .await
            .contains("symbolic link")
    );
    assert_nothing_left(&host).await;
    import(&host.machines, place("allowed/root.tar"), "a")
        .await
        .unwrap();
    // Nothing is allowed by default.
    let none = Host::configured(|config| config.import_allow = Vec::new()).await;
    let error = import(&none.machines, place("allowed/root.tar"), "a").await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("start the agent with --import-allow DIR"),
        "{error}"
    );
}
