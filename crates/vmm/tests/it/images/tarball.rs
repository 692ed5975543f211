//! Tar archives as nobody honest would make them, and layouts around them.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// An archive in the making.
#[derive(Default, Clone)]
pub(super) struct Tarball(Vec<u8>);

impl Tarball {
    /// One that could boot.
    pub(super) fn bootable() -> Self {
        Self::default().file("sbin/init", b"#!/bin/sh\n")
    }

    /// An entry as it is asked for, however wrong that is.
    pub(super) fn entry(mut self, path: &str, kind: u8, size: u64, link: &str) -> Self {
        self.0.extend(header(path, kind, size, link, (0, 0)));
        self
    }

    pub(super) fn file(self, path: &str, content: &[u8]) -> Self {
        let mut tarball = self.entry(path, b'0', content.len() as u64, "");
        tarball.data(content);
        tarball
    }

    pub(super) fn directory(self, path: &str) -> Self {
        self.entry(path, b'5', 0, "")
    }

    pub(super) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, b'2', 0, target)
    }

    pub(super) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, b'1', 0, target)
    }

    pub(super) fn device(mut self, path: &str, kind: u8, number: (u32, u32)) -> Self {
        self.0.extend(header(path, kind, 0, "", number));
        self
    }

    /// Records for the next entry.
    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let body = key.len() + value.len() + 3;
            let length = (body + 1..).find(|length| body + length.to_string().len() == *length);
            write!(text, "{} {key}=", length.unwrap()).unwrap();
            text.extend(*value);
            text.push(b'\n');
        }
        let mut tarball = self.entry("pax", b'x', text.len() as u64, "");
        tarball.data(&text);
        tarball
    }

    fn data(&mut self, content: &[u8]) {
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// The bytes, without an end: most readers take that.
    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }

    /// As a file, which is packed by gzip.
    pub(super) fn packed(self, path: &Path) -> PathBuf {
        let file = fs::File::create(path).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
        gzip.write_all(&self.0).unwrap();
        gzip.finish().unwrap();
        path.to_owned()
    }

    /// As a file.
    pub(super) fn plain(self, path: &Path) -> PathBuf {
        fs::write(path, self.0).unwrap();
        path.to_owned()
    }
}

fn header(path: &str, kind: u8, size: u64, link: &str, device: (u32, u32)) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, path.as_bytes());
    put(100, b"0000755\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", device.0).as_bytes());
    put(337, format!("{:07o}", device.1).as_bytes());
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

pub(super) fn digest(content: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(content)))
}

/// The documents of an image with these layers, which are not packed.
pub(super) struct Documents {
    pub(super) config: Vec<u8>,
    pub(super) manifest: Value,
}

impl Documents {
    pub(super) fn of(layers: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = config.to_string().into_bytes();
        let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor(&config),
            "layers": layers,
        });
        Self { config, manifest }
    }
}

pub(super) fn descriptor(content: &[u8]) -> Value {
    json!({ "digest": digest(content), "size": content.len() })
}

/// A layout with such an image, of which `lie` may change anything.
pub(super) fn layout(
    place: &Path,
    layers: &[Vec<u8>],
    lie: impl FnOnce(&Path, &mut Documents),
) -> PathBuf {
    let blobs = place.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let write = |content: &[u8]| {
        let name = digest(content).replace("sha256:", "");
        fs::write(blobs.join(name), content).unwrap();
    };
    layers.iter().for_each(|layer| write(layer));
    let mut documents = Documents::of(layers);
    lie(&blobs, &mut documents);
    write(&documents.config);
    let manifest = documents.manifest.to_string().into_bytes();
    write(&manifest);
    let index = json!({ "schemaVersion": 2, "manifests": [descriptor(&manifest)] });
    fs::write(place.join("index.json"), index.to_string()).unwrap();
    fs::write(
        place.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    place.to_owned()
}
