//! What strangers send to hostler-vmm: images, lists of packages and kernels; and what guests and
//! the processes of VMs answer.
//!
//! This file is a part of hostler-vmm (`hostler_vmm::fuzzing`), because what reads them is shown to
//! nobody outside of it. It is there for a fuzzer and for that crate's own tests, which run the
//! corpus, and in no other build.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use http::{StatusCode, Uri};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;

use crate::dialogue::{Heard, Language as _};
use crate::driver::LinkError;
use crate::driver::firecracker::api;
use crate::driver::qemu::hostfwd;
use crate::driver::qemu::qmp::QmpLanguage;
use crate::guest::lines::Lines;
use crate::guest::protocol::{Line, MAX_LINE, Reply, Request};
use crate::images::digest::Digest;
use crate::images::ext4::size_for_tree;
use crate::images::layer::{Layer, Meter};
use crate::images::manifest::{Config, Document, ImageProgram, InvalidManifest, Saved};
use crate::images::packages;
use crate::images::reference::Reference;
use crate::images::source::{LayerAt, find_in_file};
use crate::images::tar::{Entry, Kind};
use crate::images::tree::{Content, Tree};
use crate::kernel_file::{self, KernelFormat};

/// What an error says fits on a screen, whatever it is about.
const SCREEN: usize = 4096;

fn in_memory(content: &[u8]) -> Arc<File> {
    let memory = memfd_create(c"fuzz", MemfdFlags::CLOEXEC).expect("a file in memory");
    let file = File::from(memory);
    file.write_all_at(content, 0).expect("memory");
    Arc::new(file)
}

/// Puts right the checksums of a tar archive, so that a fuzzer need not learn them.
fn sealed(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    archive
}

/// A layer unpacks to no more than it may, is the same whenever it is read, and whatever it holds,
/// nothing is above, beside or twice in the tree that it becomes.
///
/// The first byte says how the rest is meant: `=` as it is, anything else with checksums put
/// right. The second says how many entries are in a lower layer, on which the others come.
pub fn image_layer(data: &[u8]) {
    const LIMIT_MB: u64 = 4;
    let Some(([how, cut], archive)) = data.split_first_chunk() else {
        return;
    };
    let archive = match how {
        b'=' => archive.to_vec(),
        _ => sealed(archive),
    };
    let layer = whole(&archive);
    let scanned = match layer.scan(&Meter::new(LIMIT_MB)) {
        Ok(scanned) => scanned,
        Err(error) => return assert!(error.to_string().len() <= SCREEN),
    };
    assert_eq!(scanned.digest, Digest::of(&archive));
    let again = layer.scan(&Meter::new(LIMIT_MB)).expect("as before");
    assert_eq!(again.entries, scanned.entries);

    let unpacked = in_memory(b"");
    let length = layer.unpack(&unpacked, &Meter::new(LIMIT_MB));
    let length = length.expect("as before");
    assert!(length <= LIMIT_MB << 20);
    let mut plain = vec![0; length as usize];
    unpacked.read_exact_at(&mut plain, 0).expect("its length");
    assert_eq!(scanned.diff_id, Digest::of(&plain));

    let held: u64 = scanned.entries.iter().map(|entry| entry.size).sum();
    assert!(held <= length, "data that nobody has seen");
    for entry in &scanned.entries {
        assert!(entry.path.len() <= 4095 && !entry.path.contains(&0));
        let attributes = entry.xattrs.iter();
        let attributes: usize = attributes
            .map(|(name, value)| name.len() + value.len())
            .sum();
        assert!(attributes <= 1 << 20);
    }
    merged(scanned.entries, usize::from(*cut));
}

fn whole(archive: &[u8]) -> Layer {
    Layer {
        file: in_memory(archive),
        offset: 0,
        length: archive.len() as u64,
        digest: None,
        diff_id: None,
        is_ours: false,
    }
}

/// Some entries, and the others on top of them, are one tree, even where one is refused.
fn merged(mut lower: Vec<Entry>, cut: usize) {
    let upper = lower.split_off(cut.min(lower.len()));
    let layers = [lower, upper];
    let size = |entry: &Entry| (entry.kind == Kind::File).then_some(entry.size);
    let sizes = layers.each_ref().map(|layer| {
        let sizes = layer.iter().map(size);
        sizes.collect::<Vec<_>>()
    });
    let mut tree = Tree::new();
    for (number, layer) in (0..).zip(layers) {
        if let Err(refused) = tree.apply(number, layer) {
            assert!(refused.to_string().len() <= SCREEN);
            break;
        }
    }
    tree.assert_sound();
    for (_, node) in tree.nodes() {
        if let Content::File { size, at } = node.content {
            assert_eq!(sizes[at.layer as usize][at.entry as usize], Some(size));
        }
    }
    assert!(size_for_tree(&tree) << 20 >= tree.file_bytes());
}

/// Of an archive of layers each layer is a part of the file, or is said to be cut off; what it has
/// to be, it is.
///
/// The first byte says which image is wanted, `n` being one of a name, and `=` that the checksums
/// are as they are.
pub fn image_archive(data: &[u8]) {
    let Some((how, archive)) = data.split_first() else {
        return;
    };
    let archive = match how {
        b'=' => archive.to_vec(),
        _ => sealed(archive),
    };
    let name = (*how == b'n').then_some("a:1");
    let found = match find_in_file(in_memory(&archive), archive.len() as u64, name) {
        Ok(found) => found,
        Err(error) => return assert!(error.to_string().len() <= SCREEN, "{error}"),
    };
    if let Some(config) = &found.config {
        assert_eq!(config.diff_ids.len(), found.layers.len());
    }
    for layer in found.layers.iter().take(4) {
        let LayerAt::Here(layer) = layer else {
            panic!("a file leads to a registry");
        };
        if let Ok(scanned) = layer.scan(&Meter::new(1)) {
            let end = layer.offset + layer.length;
            let part = &archive[layer.offset as usize..end as usize];
            assert_eq!(scanned.digest, Digest::of(part));
            let wanted = layer.diff_id.as_ref();
            assert!(wanted.is_none_or(|wanted| *wanted == scanned.diff_id));
        }
    }
}

/// A manifest, an index, a configuration or a `manifest.json`: what is taken is bounded and can be
/// kept, names content by digests only, and what is not taken is refused in a few words.
pub fn image_manifest(data: &[u8]) {
    let digest = |digest: &Digest| {
        let hex = digest.hex();
        assert!(hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let read = digest.to_string().parse::<Digest>();
        assert_eq!(read.as_ref(), Ok(digest));
    };
    match Document::parse(data) {
        Ok(Document::Manifest(manifest)) => {
            assert!(manifest.layers.len() <= 128);
            let content = manifest.layers.iter().chain([&manifest.config]);
            content.for_each(|content| digest(&content.digest));
        }
        Ok(Document::Index(index)) => {
            for name in [None, Some("1")] {
                match index.choose(name) {
                    Ok(chosen) => digest(&chosen.digest),
                    Err(error) => in_a_few_words(&error),
                }
            }
        }
        Err(error) => in_a_few_words(&error),
    }
    let config = match Config::parse(data, 1) {
        Err(InvalidManifest::Counts { config, .. }) => Config::parse(data, config),
        other => other,
    };
    match config {
        Ok(config) => {
            config.diff_ids.iter().for_each(digest);
            let program = config.program;
            assert!(program.argv().map(str::len).sum::<usize>() <= 64 << 10);
            assert!(program.argv().all(|word| !word.contains('\0')));
            // As a part of the image's own description.
            let kept = serde_json::to_vec(&program).expect("plain text");
            let read: ImageProgram = serde_json::from_slice(&kept).expect("what was kept");
            assert_eq!(read, program);
        }
        Err(error) => in_a_few_words(&error),
    }
    for tag in [None, Some("a:1")] {
        match Saved::choose(data, tag) {
            Ok(saved) => assert!(saved.layers.len() <= 128),
            Err(error) => in_a_few_words(&error),
        }
    }
}

fn in_a_few_words(error: &InvalidManifest) {
    let length = error.to_string().len();
    assert!(length <= SCREEN, "it says {length} bytes");
}

/// A reference is read again as it is written, and is one place in a registry by HTTP's rules too.
pub fn image_reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(reference) = text.parse::<Reference>() else {
        return;
    };
    let scheme = if reference.plain_http {
        "http"
    } else {
        "https"
    };
    let written = format!("{scheme}://{reference}");
    let read = written.parse::<Reference>();
    assert_eq!(read.as_ref(), Ok(&reference), "{text:?}");

    let Reference {
        registry,
        repository,
        ..
    } = &reference;
    let path = format!("/v2/{repository}/manifests/{}", reference.wanted());
    let uri: Uri = format!("{scheme}://{registry}{path}")
        .parse()
        .expect("a URL");
    assert_eq!(uri.path_and_query().map(|path| path.as_str()), Some(&*path));
    let authority = uri.authority().expect("it has a host");
    assert_eq!(authority.as_str(), registry);
    let port = registry
        .strip_prefix(authority.host())
        .expect("host, then port");
    let port = port.strip_prefix(':');
    assert!(port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit())));
    assert_eq!(
        authority.port_u16(),
        port.map(|port| port.parse().expect("a port"))
    );
    assert!(!path.contains("/../") && !path.contains("//"), "{text:?}");
}

/// What is read as a package can be given to apt as words and to the disk as a name: no option, no
/// path, nothing of two words (Debian policy, 5.6.1 and 5.6.12).
pub fn package_list(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let is_name = |name: &str| {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        name.starts_with(|first: char| letter(first as u8) && first.is_ascii())
            && name
                .bytes()
                .all(|byte| letter(byte) || b"+-.".contains(&byte))
    };
    for package in packages::parse(&text) {
        assert!(is_name(&package.name), "{package:?}");
        assert!(
            package.depends.iter().all(|name| is_name(name)),
            "{package:?}"
        );
        let odd = |byte: u8| !byte.is_ascii_alphanumeric() && !b".+-:~".contains(&byte);
        assert!(!package.version.is_empty() && !package.version.bytes().any(odd));
        let store = Path::new("/store");
        let place = packages::place(store, &package);
        assert_eq!(place.parent(), Some(store), "{place:?}");
        assert_eq!(place.file_name().map(|name| name.len()), Some(64 + 4));
    }
}

/// A kernel is taken as it is or unpacked, never as a part of it, and what was unpacked is taken
/// as it is.
pub fn kernel_file(data: &[u8]) {
    let Ok(kernel) = kernel_file::prepare(data) else {
        return;
    };
    assert!(kernel.bytes.len() <= kernel_file::MAX_SIZE.max(data.len()));
    if kernel.format == KernelFormat::Elf {
        assert!(kernel.bytes.starts_with(b"\x7fELF"));
        let again = kernel_file::prepare(&kernel.bytes).expect("it was taken");
        assert_eq!(again.format, KernelFormat::Elf);
        assert_eq!(again.bytes, kernel.bytes);
    } else {
        assert_eq!(kernel.bytes, data);
    }
}

/// What a guest says is the same lines however its bytes were cut into pieces, none of them longer
/// than the longest; what is understood of them is said in one line again, and understood as the
/// same. The first byte says how they are cut, in units of 64 bytes where it is above 127.
pub fn guest_reply(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let cut = match usize::from(*cut) {
        small @ ..=127 => small.max(1),
        large => (large - 127) * 64,
    };
    let lines = heard([stream]);
    assert_eq!(heard(stream.chunks(cut)), lines);
    for line in &lines {
        let text = String::from_utf8_lossy(line);
        if let Ok(reply) = text.parse::<Line<Reply>>() {
            let written = reply.to_string();
            assert!(written.len() <= text.len() + 1 && !written.contains(['\n', '\r']));
            let again: Line<Reply> = written.parse().expect("what was written");
            // In a reason, what would end a line is written as a space.
            if text.trim().contains('\r') {
                assert_eq!(again.to_string(), written);
            } else {
                assert_eq!(again, reply);
            }
        }
        // The other end's half of the same words.
        if let Ok(request) = text.parse::<Line<Request>>() {
            let written = request.to_string();
            assert!(!written.contains(['\n', '\r']));
            assert_eq!(written.parse(), Ok(request));
        }
    }
}

fn heard<'d>(pieces: impl IntoIterator<Item = &'d [u8]>) -> Vec<Vec<u8>> {
    let (mut lines, mut all) = (Lines::default(), Vec::new());
    for piece in pieces {
        lines.push(piece, |line| {
            assert!(line.len() <= MAX_LINE && !line.contains(&b'\n'));
            all.push(line.to_vec());
        });
    }
    all
}

/// What the process of a VM answers is understood as what it says, and as nothing more; an answer
/// that makes no sense is shown in a few words.
///
/// The first byte says who answers: `q` QEMU's monitor, `h` its table of port forwards, anything
/// else Firecracker, with a status in the next two bytes.
pub fn vmm_answer(data: &[u8]) {
    match data {
        [b'q', line @ ..] => qmp(&String::from_utf8_lossy(line)),
        [b'h', table @ ..] => {
            let table = String::from_utf8_lossy(table);
            if let Ok(rules) = hostfwd::listed(&table) {
                let forwards = table.lines().filter(|line| line.contains("[HOST_FORWARD]"));
                assert_eq!(rules.len(), forwards.count());
            }
        }
        [_, high, low, body @ ..] => {
            let status = StatusCode::from_u16(u16::from_be_bytes([*high, *low]));
            if let Ok(status) = status {
                firecracker(status, body);
            }
        }
        _ => {}
    }
}

fn qmp(line: &str) {
    let Some(heard) = QmpLanguage::understand(line) else {
        return;
    };
    let said: Value = serde_json::from_str(line).expect("it was understood");
    match heard {
        Heard::Answer { id, answer } => {
            assert_eq!(said["id"], id);
            match answer {
                Ok(value) => assert_eq!(said["return"], value),
                Err(reason) => assert_eq!(said["error"]["desc"], reason),
            }
        }
        Heard::News(news) => {
            assert_eq!(said["event"], news.event);
            assert_eq!(said["data"], news.data);
        }
    }
}

fn firecracker(status: StatusCode, body: &[u8]) {
    let json = serde_json::from_slice::<Value>(body).ok();
    match api::understand("GET /", status, body) {
        Ok(value) if status == StatusCode::NO_CONTENT => assert_eq!(value, Value::Null),
        Ok(value) => assert_eq!((status, Some(value)), (StatusCode::OK, json)),
        Err(LinkError::Refused { message, .. }) => {
            assert!(status.as_u16() >= 400);
            assert_eq!(json.expect("it was understood")["fault_message"], message);
        }
        Err(error) => assert!(error.to_string().len() <= SCREEN),
    }
}
