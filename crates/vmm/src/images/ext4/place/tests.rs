use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::images::ext4::make_empty;
use crate::images::tar::{Entry, Kind};

fn entry(path: &str, kind: Kind, size: u64) -> Entry {
    Entry {
        path: path.into(),
        kind,
        mode: 0o755,
        uid: 70_000,
        gid: 3,
        mtime: 5_000_000_000,
        size,
        xattrs: Vec::new(),
    }
}

/// Places a tree in a new file system, and has it checked.
fn placed(dir: &Path, size_mb: u64, entries: Vec<Entry>) -> Result<Vec<PlacedFile>, PlaceError> {
    let path = dir.join("root.ext4");
    let disk = crate::files::create_readable(&path).unwrap();
    let mut tree = Tree::new();
    tree.apply(0, entries).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime
        .block_on(make_empty(&path, size_mb, tree.len() as u64))
        .unwrap();
    let files = place(&disk, &tree)?;
    for file in &files {
        let mut writer = FileWriter::of(&disk, file);
        writer
            .write(&[7; 100][..file.size.min(100) as usize])
            .unwrap();
    }
    let checked = std::process::Command::new("/sbin/e2fsck")
        .args(["-f", "-n"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}");
    std::fs::remove_file(path).unwrap();
    Ok(files)
}

#[test]
fn large_files_and_large_directories_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    let mut entries = vec![
        // More runs than fit into an inode.
        entry("large", Kind::File, 3 << 30),
        entry("empty", Kind::File, 0),
        entry("one", Kind::File, 1),
    ];
    for number in 0..3000 {
        entries.push(entry(&format!("d/{number:0200}"), Kind::Fifo, 0));
        entries.push(entry(&format!("e/{number}"), Kind::Directory, 0));
    }
    let files = placed(dir.path(), 4096, entries).unwrap();
    assert_eq!(files.len(), 2);
    assert!(
        files.iter().any(|file| file.runs.len() > 4),
        "nothing was scattered"
    );
}

#[test]
fn what_does_not_fit_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let error = placed(dir.path(), 64, vec![entry("large", Kind::File, 60 << 20)]);
    assert!(matches!(error, Err(PlaceError::Full)), "{error:?}");
}

#[test]
fn attributes_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut large = entry("large", Kind::File, 0);
    large.xattrs = vec![(b"user.a".to_vec(), vec![1; 5000])];
    let error = placed(dir.path(), 64, vec![large]);
    assert!(matches!(error, Err(PlaceError::Attributes)), "{error:?}");
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let word = prop::sample::select(vec!["a", "b", "c d", "\u{e9}\"\n"]);
    let path = prop::collection::vec(word, 1..4).prop_map(|words| words.join("/"));
    let name = prop::sample::select(vec![
        &b"user.a"[..],
        b"user.longer",
        b"security.capability",
        b"trusted.x",
        b"other.y",
    ]);
    let value = prop::collection::vec(any::<u8>(), 0..300);
    let xattrs = prop::collection::btree_map(name, value, 0..3);
    let kind = prop_oneof![
        3 => (0..200_000u64).prop_map(|size| (Kind::File, size)),
        2 => Just((Kind::Directory, 0)),
        2 => prop::collection::vec(1..=255u8, 1..300).prop_map(|target| (Kind::Symlink(target), 0)),
        1 => (0..4000u32, 0..300_000u32).prop_map(|(a, b)| (Kind::BlockDevice(a, b), 0)),
        1 => path.clone().prop_map(|path| (Kind::HardLink(path.into()), 0)),
    ];
    (path, kind, xattrs, any::<u16>(), any::<i64>()).prop_map(
        |(path, kind, xattrs, mode, mtime)| {
            let mut entry = entry(&path, kind.0, kind.1);
            entry.mode = mode & 0o7777;
            entry.mtime = mtime;
            let own = xattrs
                .into_iter()
                .map(|(name, value)| (name.to_vec(), value));
            entry.xattrs = own.collect();
            entry
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::long::cases(16)))]
    #[test]
    fn whatever_tree_is_placed_the_file_system_is_sound(
        entries in prop::collection::vec(any_entry(), 0..40),
    ) {
        let dir = tempfile::tempdir().unwrap();
        // What the tree would refuse is left out, one by one.
        let mut tree = Tree::new();
        let mut taken = Vec::new();
        for entry in entries {
            if tree.apply(0, vec![entry.clone()]).is_ok() {
                taken.push(entry);
            }
        }
        placed(dir.path(), 64, taken).unwrap();
    }
}
