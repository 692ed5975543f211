//! ext4 file systems in files, without a mount and without privileges.
//!
//! The default image is a directory that mke2fs copies ([`make`]). What others made is never
//! unpacked on the host: mke2fs makes an empty file system ([`make_empty`]), and a merged tree is
//! put into that by ourselves ([`place`]).

mod allocate;
mod directory;
mod geometry;
mod inode;
mod place;
mod xattr;

use std::fs;
use std::io;
use std::path::Path;

use super::tree::{Content, Tree};
use crate::blocking;
use crate::files::{self, Context as _, StorageError};
use crate::tool::{Tool, ToolError};

pub(crate) use self::place::{FileWriter, LOST_FOUND, PlacedFile, place};

/// A tree did not find its place in a file system.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is too little room.
    #[error("it does not fit")]
    Full,
    /// mke2fs made something else than it was asked for.
    #[error(
        "this mke2fs makes file systems of a shape that is not understood here; use e2fsprogs 1.45 to 1.47"
    )]
    Shape,
    #[error("a file in it is too large for this file system")]
    Scattered,
    #[error("a file in it has more extended attributes than the 4 KiB that ext4 takes")]
    Attributes,
    #[error("a file in it has more than 65000 names")]
    Links,
}

/// The features of an image's file system, by name, so that every host makes the same. Checksums of
/// metadata are not among them: what we put in would have to be summed again.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,\
    flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize";

/// Makes an empty file system of `size_mb` MiB at `image`, with room for so many files.
pub(crate) async fn make_empty(image: &Path, size_mb: u64, files: u64) -> Result<(), ToolError> {
    // One inode per 16 KiB, as `make` has it, or more where the files are small.
    let per_inode = (size_mb << 20) / (files + files / 4 + 64);
    Tool::new("mke2fs")
        .behind()
        .args([
            "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-J", "size=16", "-m", "0",
        ])
        .args(["-O", FEATURES, "-E", "root_owner=0:0,lazy_itable_init=0"])
        .arg("-i")
        .arg(per_inode.clamp(1024, 16384).to_string())
        .arg(image)
        .arg(format!("{size_mb}m"))
        .run()
        .await
        .map(drop)
}

/// So many MiB hold a tree with some room to work in.
pub(crate) fn size_for_tree(tree: &Tree) -> u64 {
    const MIB: u64 = 1 << 20;
    let content: u64 = tree
        .nodes()
        .map(|(_, node)| match &node.content {
            // Its inode; its data; and its entry in its directory.
            Content::File { size, .. } => 512 + size.next_multiple_of(4096),
            Content::Directory(_) => 512 + 4096,
            _ => 1024,
        })
        .sum();
    // A quarter for the file system's own needs and its journal, and some space that is free.
    (content + content / 4).div_ceil(MIB) + 96
}

/// A directory did not become a file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Ext4Error {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// Without root's rights, owners are set by a program that takes one command per line.
    #[error("{path:?} has a quote or a line break in its name; build this image as root")]
    Name { path: String },
}

/// Makes a file system of `size_mb` MiB at `image` with the content of `tree`.
pub(crate) async fn make(tree: &Path, image: &Path, size_mb: u64) -> Result<(), Ext4Error> {
    // Blocks of 4 KiB and one inode per 16 KiB whatever the size, because disks grow from it.
    Tool::new("mke2fs")
        .args([
            "-q", "-t", "ext4", "-b", "4096", "-i", "16384", "-J", "size=16", "-m", "0",
        ])
        .args(["-E", "root_owner=0:0", "-d"])
        .arg(tree)
        .arg(image)
        .arg(format!("{size_mb}m"))
        .run()
        .await?;
    if !rustix::process::geteuid().is_root() {
        give_to_root(tree, image).await?;
    }
    let image = image.to_owned();
    let flush = move || {
        fs::File::open(&image)
            .and_then(|f| f.sync_all())
            .context("write", &image)
    };
    Ok(blocking::run(flush).await?)
}

/// Makes root the owner of every file. They carry over from the directory, whose files
/// belong to whoever builds the image; SSH servers, for one, refuse a home that is not root's.
async fn give_to_root(tree: &Path, image: &Path) -> Result<(), Ext4Error> {
    let mut script = String::new();
    visit(tree, Path::new("/"), &mut |path| {
        let text = path
            .to_str()
            .filter(|text| !text.contains(['"', '\n', '\r']));
        let text = text.ok_or_else(|| Ext4Error::Name {
            path: path.display().to_string(),
        })?;
        for field in ["uid", "gid"] {
            script.push_str(&format!("set_inode_field \"{text}\" {field} 0\n"));
        }
        Ok(())
    })?;
    let commands = image.with_extension("owners");
    files::write_atomic(&commands, script.as_bytes())?;
    Tool::new("debugfs")
        .args(["-w", "-f"])
        .arg(&commands)
        .arg(image)
        .run()
        .await?;
    Ok(fs::remove_file(&commands).context("remove", &commands)?)
}

/// Calls for everything in a directory, with its path from there.
fn visit(
    directory: &Path,
    place: &Path,
    call: &mut impl FnMut(&Path) -> Result<(), Ext4Error>,
) -> Result<(), Ext4Error> {
    for entry in fs::read_dir(directory).context("read", directory)? {
        let entry = entry.context("read", directory)?;
        let path = place.join(entry.file_name());
        call(&path)?;
        if entry.file_type().context("read", directory)?.is_dir() {
            visit(&entry.path(), &path, call)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn debugfs(image: &Path, command: &str) -> String {
        Tool::new("debugfs")
            .args(["-R", command])
            .arg(image)
            .run()
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_directory_becomes_a_file_system_that_is_all_roots() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("etc/with space")).unwrap();
        fs::write(tree.join("etc/with space/file"), "content").unwrap();
        // As if built by an ordinary user.
        if rustix::process::geteuid().is_root() {
            for path in ["etc", "etc/with space", "etc/with space/file"] {
                std::os::unix::fs::chown(tree.join(path), Some(1234), Some(1234)).unwrap();
            }
        }
        let image = dir.path().join("root.ext4");
        make(&tree, &image, 64).await.unwrap();
        give_to_root(&tree, &image).await.unwrap();
        let file = "\"/etc/with space/file\"";
        assert_eq!(debugfs(&image, &format!("cat {file}")).await, "content");
        let stat = debugfs(&image, &format!("stat {file}")).await;
        let owners = stat.lines().find(|line| line.starts_with("User:")).unwrap();
        let words: Vec<_> = owners.split_whitespace().collect();
        assert_eq!(words[..4], ["User:", "0", "Group:", "0"]);
        Tool::new("e2fsck")
            .arg("-fn")
            .arg(&image)
            .run()
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn what_does_not_fit_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("large"), vec![1; 60 << 20]).unwrap();
        let error = make(&tree, &dir.path().join("root.ext4"), 32)
            .await
            .unwrap_err();
        assert!(matches!(error, Ext4Error::Tool(_)), "{error}");
    }
}
