//! From a real registry.

use std::process::{Command, Stdio};

use futures::StreamExt as _;
use hostler_vmm::{Boots, Credentials, ImportImageError, ImportState};

use super::makers::{Disk, Registry, Workshop, assert_nothing_left, import, left_in, request, run};
use super::tarball::{Documents, digest};
use crate::support::Host;

/// An image with an init, in three layers and one that hides.
fn servant(workshop: &Workshop) {
    workshop.layer(&[
        ("sbin/init", 0o755, b"#!/bin/sh\n"),
        ("bin/su", 0o4755, b"set-id"),
        ("etc/secret", 0o600, b"lower"),
        ("etc/gone", 0o644, b"gone"),
        ("opt/old/a", 0o644, b"a"),
    ]);
    workshop.layer(&[
        ("etc/secret", 0o640, b"upper"),
        ("with space/\u{e9}", 0o644, b"name"),
    ]);
    workshop.hide("/etc/gone");
    workshop.hide("/opt/old");
}

#[tokio::test]
async fn an_image_comes_from_a_registry_with_everything_kept_right() {
    let (registry, workshop) = (Registry::start(), Workshop::open());
    servant(&workshop);
    workshop.copy_to(&format!("docker://{}", registry.name("servant:1")));
    let host = Host::bare().await;
    let mut watched = std::pin::pin!(
        host.machines
            .images()
            .import_progress(Some("a".parse().unwrap()))
    );
    let image = import(&host.machines, registry.name("servant:1"), "a")
        .await
        .unwrap();
    assert_eq!((image.boots, image.layers.len()), (Boots::Init, 4));
    assert!(image.manifest.unwrap().starts_with("sha256:"));
    let mut last = None;
    while let Some(progress) = watched.next().await {
        last = Some(progress);
    }
    assert_eq!(last.unwrap().state, ImportState::Done);

    let disk = Disk::of(&host, "a");
    disk.check();
    assert_eq!(disk.read("/etc/secret"), "upper");
    assert_eq!(disk.read("/with space/\u{e9}"), "name");
    assert!(!disk.has("/etc/gone") && !disk.has("/opt/old") && disk.has("/opt"));
    assert_eq!(
        (disk.says("/bin/su", "Mode:"), disk.says("/bin/su", "User:")),
        ("04755".into(), "0".into())
    );

    // The same under another name: nothing is fetched and nothing stored twice.
    drop(registry);
    import(
        &host.machines,
        format!("oci:{}", workshop.layout().display()),
        "b",
    )
    .await
    .unwrap();
    assert_eq!(disk.names_on_host(), 2);
    assert_eq!(left_in(&host, "blobs").len(), 4);
    host.machines.images().delete("a").await.unwrap();
    assert_eq!(
        left_in(&host, "blobs").len(),
        0,
        "layers of no image were kept"
    );
    Disk::of(&host, "b").check();
    host.machines.images().delete("b").await.unwrap();
    assert_nothing_left(&host).await;
}

/// Puts a document into a registry, as no program at hand does.
fn put(registry: &Registry, path: &str, kind: &str, document: &str) {
    let url = format!("http://{}", registry.name("").trim_end_matches('/'));
    let (url, kind) = (format!("{url}/v2/{path}"), format!("Content-Type: {kind}"));
    run(
        "curl",
        &[
            "-sSf",
            "-X",
            "PUT",
            "-H",
            &kind,
            "--data-binary",
            document,
            &url,
        ],
    );
}

#[tokio::test]
async fn of_an_index_of_platforms_ours_is_taken_and_without_ours_none() {
    let (registry, workshop) = (Registry::start(), Workshop::open());
    workshop.layer(&[("sbin/init", 0o755, b"#!/bin/sh\n")]);
    workshop.copy_to(&format!("docker://{}", registry.name("many:ours")));
    let raw = [
        "--insecure-policy",
        "inspect",
        "--raw",
        "--tls-verify=false",
    ];
    let ours = run(
        "skopeo",
        &[
            &raw[..],
            &[&format!("docker://{}", registry.name("many:ours"))],
        ]
        .concat(),
    );
    let this = serde_json::from_slice::<serde_json::Value>(&Documents::of(&[]).config).unwrap();
    let entry = |architecture: &str| {
        serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(ours.as_bytes()), "size": ours.len(),
            "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let index = |entries: &[serde_json::Value]| {
        let kind = "application/vnd.oci.image.index.v1+json";
        serde_json::json!({ "schemaVersion": 2, "mediaType": kind, "manifests": entries })
            .to_string()
    };
    let kind = "application/vnd.oci.image.index.v1+json";
    let ours = this["architecture"].as_str().unwrap();
    put(
        &registry,
        "many/manifests/all",
        kind,
        &index(&[entry("s390x"), entry(ours)]),
    );
    put(
        &registry,
        "many/manifests/other",
        kind,
        &index(&[entry("s390x")]),
    );

    let host = Host::bare().await;
    import(&host.machines, registry.name("many:all"), "a")
        .await
        .unwrap();
    let error = import(&host.machines, registry.name("many:other"), "b")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("linux/s390x"), "{error}");
    let error = import(&host.machines, registry.name("many:none"), "b")
        .await
        .unwrap_err();
    assert!(
        matches!(error, ImportImageError::Registry { .. }),
        "{error}"
    );
    let error = import(&host.machines, registry.name("nobody:1"), "b")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no such image"), "{error}");
    assert_eq!(left_in(&host, "images"), ["a"]);
}

#[tokio::test]
async fn a_registry_that_wants_a_password_gets_it_and_nobody_else_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    // "open sesame", by bcrypt.
    let hash = "$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW";
    std::fs::write(&users, format!("ali:{hash}\n")).unwrap();
    let registry = Registry::start_with(&format!(
        "auth: {{htpasswd: {{realm: cave, path: {}}}}}\n",
        users.display()
    ));
    let workshop = Workshop::open();
    workshop.layer(&[("sbin/init", 0o755, b"#!/bin/sh\n")]);
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
        .args(["--dest-creds", "ali:open sesame"])
        .arg(format!("oci:{}:1", workshop.layout().display()))
        .arg(format!("docker://{}", registry.name("cave:1")))
        .stdout(Stdio::null())
        .status();
    assert!(copied.unwrap().success());

    let host = Host::bare().await;
    let with = |password: Option<&str>| {
        let mut request = request(registry.name("cave:1"), "a");
        request.credentials = password.map(|password| Credentials {
            username: "ali".to_owned(),
            password: password.to_owned(),
        });
        host.machines.images().import(request, &|_| {})
    };
    for wrong in [None, Some("open barley")] {
        let error = with(wrong).await.unwrap_err();
        assert!(error.to_string().contains("give credentials"), "{error}");
        assert!(!error.to_string().contains("barley"), "{error}");
    }
    assert_nothing_left(&host).await;
    with(Some("open sesame")).await.unwrap();
}

#[tokio::test]
async fn of_two_imports_of_one_name_one_wins_and_one_that_is_given_up_leaves_nothing() {
    let (registry, workshop) = (Registry::start(), Workshop::open());
    let large = vec![7; 8 << 20];
    workshop.layer(&[
        ("sbin/init", 0o755, b"#!/bin/sh\n"),
        ("large", 0o644, &large),
    ]);
    workshop.copy_to(&format!("docker://{}", registry.name("twice:1")));
    let host = Host::bare().await;
    let one = || import(&host.machines, registry.name("twice:1"), "a");

    // Given up at every moment that there is, in time and in steps.
    for steps in 0..4 {
        let images = host.machines.images().clone();
        let (told, mut telling) = tokio::sync::mpsc::unbounded_channel();
        let request = request(registry.name("twice:1"), "a");
        let importing = tokio::spawn(async move {
            let tell =
                |progress: hostler_vmm::Progress| told.send(progress.step).unwrap_or_default();
            images.import(request, &tell).await
        });
        while telling.recv().await.is_some_and(|step| step < steps) {}
        importing.abort();
        let _ = importing.await;
        if left_in(&host, "images") == ["a"] {
            // It was faster than we were.
            host.machines.images().delete("a").await.unwrap();
        }
        assert_nothing_left(&host).await;
    }

    let (first, second) = tokio::join!(one(), one());
    let lost = [first, second]
        .into_iter()
        .filter_map(Result::err)
        .collect::<Vec<_>>();
    assert!(
        matches!(lost[..], [ImportImageError::Exists { .. }]),
        "{lost:?}"
    );
    assert_eq!(left_in(&host, "images"), ["a"]);
    Disk::of(&host, "a").check();
}
