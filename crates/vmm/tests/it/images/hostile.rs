//! Archives of strangers: whatever they hold, nothing happens outside of the image, memory and disk
//! stay bounded, and nothing is left.

use std::fs;
use std::path::Path;

use hostler_vmm::{ImportImage, ImportImageError};
use serde_json::json;

use super::makers::{Disk, assert_nothing_left, import, request};
use super::tarball::{Documents, Tarball, digest, layout};
use crate::support::Host;

async fn refused(host: &Host, source: &Path, said: &str) {
    let error = import(&host.machines, source.to_str().unwrap(), "a")
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ImportImageError::Image { .. }
                | ImportImageError::Source { .. }
                | ImportImageError::Registry { .. }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains(said), "{said}: {error}");
    assert_nothing_left(host).await;
}

#[tokio::test]
async fn no_path_and_no_link_leads_out_of_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    let place = dir.path().join("evil.tar");
    let host = Host::bare().await;
    let evil = Tarball::bootable;
    let target = outside.to_str().unwrap();
    for (tarball, said) in [
        (evil().file("../outside", b"theirs"), "leads out"),
        (evil().file("a/../../outside", b"theirs"), "leads out"),
        (evil().hard_link("a", "../../outside"), "leads out"),
        (evil().hard_link("a", target), "no file in the image"),
        (
            evil().symlink("loop", "loop").file("loop/a", b""),
            "no directory",
        ),
        (evil().file("f", b"").file("f/x", b""), "no directory"),
    ] {
        refused(&host, &tarball.plain(&place), said).await;
    }
    // Absolute paths, and links that lead out of a host's directory, stay within the image.
    let up = "../".repeat(30) + target.trim_start_matches('/');
    let tarball = evil()
        .symlink("abs", target)
        .symlink("up", &up)
        .file(target, b"theirs")
        .symlink("etc", "/")
        .file("etc/through", b"in");
    let source = tarball.plain(&place);
    import(&host.machines, source.to_str().unwrap(), "a")
        .await
        .unwrap();
    let disk = Disk::of(&host, "a");
    disk.check();
    assert_eq!(disk.read(target), "theirs");
    assert_eq!(disk.read("/through"), "in");
    assert_eq!(fs::read_to_string(&outside).unwrap(), "mine");
}

#[tokio::test]
async fn a_bomb_is_refused_before_anything_of_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::bare().await;
    // 100 MiB of zeros in 100 KiB, under a size of 40 MiB.
    let zeros = vec![0; 100 << 20];
    let bomb = Tarball::bootable()
        .file("zeros", &zeros)
        .packed(&dir.path().join("bomb.tar.gz"));
    let sized = |source: &Path, size_mb| ImportImage {
        size_mb: Some(size_mb),
        ..request(source.to_str().unwrap(), "a")
    };
    let images = host.machines.images();
    let error = images.import(sized(&bomb, 40), &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("more than 80 MiB"), "{error}");
    let error = images.import(sized(&bomb, 64), &|_| {}).await.unwrap_err();
    assert!(
        matches!(error, ImportImageError::TooSmall { needed_mb: 101, .. }),
        "{error}"
    );
    // One that does not say how much it is: garbage behind the end of the archive.
    let endless = [Tarball::bootable().bytes(), vec![0; 100 << 20]].concat();
    let place = dir.path().join("endless.tar.gz");
    let mut gzip = flate2::write::GzEncoder::new(
        fs::File::create(&place).unwrap(),
        flate2::Compression::fast(),
    );
    std::io::Write::write_all(&mut gzip, &endless).unwrap();
    gzip.finish().unwrap();
    let error = images.import(sized(&place, 40), &|_| {}).await.unwrap_err();
    assert!(error.to_string().contains("more than 80 MiB"), "{error}");
    // One that says it is larger than any disk.
    let liar = Tarball::bootable()
        .entry("large", b'0', 1 << 32, "")
        .plain(&dir.path().join("liar"));
    refused(&host, &liar, "in the middle of an entry").await;
    assert_nothing_left(&host).await;
}

/// A layer of 4 GiB in 4 MiB: headers that say something of an entry which never comes, each of
/// them another attribute of almost 1 MiB.
fn headers_without_an_end(place: &Path) {
    const TEXT: usize = (1 << 20) - 512;
    let packed = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut gzip, bytes).unwrap();
        gzip.finish().unwrap()
    };
    let begin = |number: usize| {
        let header = Tarball::default().entry("pax", b'x', TEXT as u64, "");
        let record = format!("{TEXT} SCHILY.xattr.user.{number:06}=");
        [header.bytes(), record.into_bytes()].concat()
    };
    let value = vec![0; TEXT + 512 - begin(0).len() - 1];
    let value = packed(&[&value[..], b"\n"].concat());
    let layer: Vec<_> = (0..4096)
        .flat_map(|number| [packed(&begin(number)), value.clone()])
        .collect();
    fs::write(place, layer.concat()).unwrap();
}

/// Where the process whose memory is looked at finds what it is to import.
const SOURCE: &str = "IMAGES_TEST_HEADERS";

/// Not a test of its own: what the one below runs in another process.
#[tokio::test]
async fn import_and_look_at_memory() {
    let Ok(source) = std::env::var(SOURCE) else {
        return;
    };
    let host = Host::bare().await;
    refused(&host, Path::new(&source), "too much of one file").await;
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak_kb: u64 = peak.unwrap().replace("kB", "").trim().parse().unwrap();
    assert!(peak_kb < 128 << 10, "it took {peak_kb} KiB of memory");
}

#[tokio::test]
async fn headers_of_an_entry_that_never_comes_take_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("headers.tar.gz");
    headers_without_an_end(&place);
    let bytes = fs::metadata(&place).unwrap().len();
    assert!(bytes < 8 << 20, "it is no small layer: {bytes}");
    let looked = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "images::hostile::import_and_look_at_memory",
            "--nocapture",
        ])
        .env(SOURCE, &place)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&looked.stderr).into_owned();
    assert!(looked.status.success(), "{said}");
}

#[tokio::test]
async fn a_layout_that_lies_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::bare().await;
    let layer = Tarball::bootable().bytes();
    let mut number = 0;
    let mut lying = |lie: &dyn Fn(&Path, &mut Documents)| {
        number += 1;
        layout(
            &dir.path().join(number.to_string()),
            std::slice::from_ref(&layer),
            lie,
        )
    };
    let name = digest(&layer).replace("sha256:", "");
    let other = Tarball::bootable().file("evil", b"theirs").bytes();
    let same_size = {
        let mut bytes = layer.clone();
        *bytes.last_mut().unwrap() = 1;
        bytes
    };
    let none = digest(b"nothing that is there");
    type Harm<'a> = &'a dyn Fn(&Path, &mut Documents);
    let cases: [(&str, Harm<'_>); 9] = [
        ("should be", &|blobs, _| {
            fs::write(blobs.join(&name), &same_size).unwrap()
        }),
        ("manifest says", &|blobs, _| {
            fs::write(blobs.join(&name), &other).unwrap()
        }),
        ("manifest says", &|_, d| {
            d.manifest["layers"][0]["size"] = json!(7)
        }),
        ("cannot be read", &|_, d| {
            d.manifest["layers"][0]["digest"] = json!(none)
        }),
        ("not a digest", &|_, d| {
            d.manifest["layers"][0]["digest"] = json!("sha256:../../../etc/passwd")
        }),
        ("layers", &|_, d| d.manifest["layers"] = json!([])),
        ("no valid document", &|_, d| {
            d.manifest = json!({ "layers": "many" })
        }),
        ("cannot be read", &|blobs, _| {
            fs::remove_file(blobs.join(&name)).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", blobs.join(&name)).unwrap();
        }),
        ("should be", &|_, d| {
            let config = String::from_utf8(d.config.clone()).unwrap();
            let lie = config.replace(&digest(&layer), &none);
            d.manifest["config"] = super::tarball::descriptor(lie.as_bytes());
            d.config = lie.into_bytes();
        }),
    ];
    for (said, lie) in cases {
        refused(&host, &lying(lie), said).await;
    }
    let wrong = lying(&|_, d: &mut Documents| {
        let config = String::from_utf8(d.config.clone()).unwrap();
        let lie = config.replace("amd64", "mips").replace("arm64", "mips");
        d.manifest["config"] = super::tarball::descriptor(lie.as_bytes());
        d.config = lie.into_bytes();
    });
    refused(&host, &wrong, "linux/mips").await;
    let garbage = lying(&|_, _| {});
    fs::write(garbage.join("index.json"), "{]").unwrap();
    refused(&host, &garbage, "no valid document").await;
}

#[tokio::test]
async fn a_hundred_thousand_files_become_an_image_and_a_million_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let host = Host::bare().await;
    let mut many = Tarball::bootable();
    for number in 0..100_000 {
        many = many.file(
            &format!("d{}/{number:06}", number % 50),
            if number % 9 == 0 { b"data" } else { b"" },
        );
    }
    let source = many.plain(&dir.path().join("many.tar"));
    import(&host.machines, source.to_str().unwrap(), "a")
        .await
        .unwrap();
    let disk = Disk::of(&host, "a");
    disk.check();
    assert_eq!(disk.read("/d10/099910"), "");
    assert_eq!(disk.read("/d0/000900"), "data");
    host.machines.images().delete("a").await.unwrap();
    fs::remove_file(source).unwrap();

    // Links without names of their own worth: small on the wire, many in memory.
    let place = dir.path().join("million.tar.gz");
    let mut gzip = flate2::write::GzEncoder::new(
        fs::File::create(&place).unwrap(),
        flate2::Compression::fast(),
    );
    let block = Tarball::default().directory("d").bytes();
    for _ in 0..600_000 {
        std::io::Write::write_all(&mut gzip, &block).unwrap();
    }
    gzip.finish().unwrap();
    refused(&host, &place, "more than 500000").await;
}
