//! One inode: 256 bytes that say everything about a file but its name and its data.

use super::allocate::Run;
use super::geometry::{BLOCK, INODE, put};
use super::{PlaceError, xattr};
use crate::images::tree::{Content, Metadata};

const EXTENTS: u32 = 0x8_0000;
/// Extents that fit into the inode, and into a block of their own.
const IN_INODE: usize = 4;
pub(super) const IN_BLOCK: usize = 340;
/// Bytes of the inode beyond the first 128 that hold fields.
const EXTRA: u16 = 32;
pub(super) const ATTRIBUTES: usize = 128 + EXTRA as usize;
/// Where the pointer to data is, or what a file without data has instead.
const POINTER: usize = 0x28;
/// The longest target of a link that fits there.
pub(super) const SHORT_LINK: usize = 59;

/// What an inode points to.
#[derive(Debug, Default)]
pub(super) struct Pointer<'a> {
    pub(super) runs: &'a [Run],
    /// Blocks with extents that do not fit into the inode.
    pub(super) leaves: &'a [Run],
    pub(super) attributes: Option<Run>,
}

impl Pointer<'_> {
    fn blocks(&self) -> u64 {
        let runs = self.runs.iter().chain(self.leaves).chain(&self.attributes);
        runs.map(|run| u64::from(run.blocks)).sum()
    }
}

/// How many blocks with extents so many runs need.
pub(super) fn leaves_for(runs: usize) -> Result<usize, PlaceError> {
    match runs {
        0..=IN_INODE => Ok(0),
        _ if runs <= IN_INODE * IN_BLOCK => Ok(runs.div_ceil(IN_BLOCK)),
        _ => Err(PlaceError::Scattered),
    }
}

pub(super) fn encode(
    content: &Content,
    metadata: &Metadata,
    size: u64,
    links: u32,
    pointer: &Pointer<'_>,
) -> [u8; INODE] {
    let mut inode = [0; INODE];
    let kind: u16 = match content {
        Content::Fifo => 0o010_000,
        Content::CharacterDevice(..) => 0o020_000,
        Content::Directory(_) => 0o040_000,
        Content::BlockDevice(..) => 0o060_000,
        Content::File { .. } => 0o100_000,
        Content::Symlink(_) => 0o120_000,
    };
    put(&mut inode, 0, &(kind | metadata.mode).to_le_bytes());
    put(&mut inode, 0x2, &(metadata.uid as u16).to_le_bytes());
    put(
        &mut inode,
        0x78,
        &((metadata.uid >> 16) as u16).to_le_bytes(),
    );
    put(&mut inode, 0x18, &(metadata.gid as u16).to_le_bytes());
    put(
        &mut inode,
        0x7a,
        &((metadata.gid >> 16) as u16).to_le_bytes(),
    );
    put(&mut inode, 0x4, &(size as u32).to_le_bytes());
    put(&mut inode, 0x6c, &((size >> 32) as u32).to_le_bytes());
    put(&mut inode, 0x1a, &(links as u16).to_le_bytes());

    let (low, extra) = time(metadata.mtime);
    // Of access, change, modification and creation.
    for (at, at_extra) in [(0x8, 0x8c), (0xc, 0x84), (0x10, 0x88), (0x90, 0x94)] {
        put(&mut inode, at, &low.to_le_bytes());
        put(&mut inode, at_extra, &extra.to_le_bytes());
    }
    put(&mut inode, 0x80, &EXTRA.to_le_bytes());

    let sectors = pointer.blocks() * (BLOCK as u64 / 512);
    put(&mut inode, 0x1c, &(sectors as u32).to_le_bytes());
    put(&mut inode, 0x74, &((sectors >> 32) as u16).to_le_bytes());
    if let Some(block) = pointer.attributes {
        put(&mut inode, 0x68, &(block.start as u32).to_le_bytes());
        put(
            &mut inode,
            0x76,
            &((block.start >> 32) as u16).to_le_bytes(),
        );
    } else if let Some(bytes) = xattr::in_inode(&metadata.xattrs) {
        put(&mut inode, ATTRIBUTES, &bytes);
    }
    match content {
        Content::CharacterDevice(major, minor) | Content::BlockDevice(major, minor) => {
            device(&mut inode, *major, *minor);
        }
        Content::Symlink(target) if target.len() <= SHORT_LINK => {
            put(&mut inode, POINTER, target);
        }
        Content::Fifo => {}
        Content::File { .. } | Content::Directory(_) | Content::Symlink(_) => {
            put(&mut inode, 0x20, &EXTENTS.to_le_bytes());
            put(&mut inode, POINTER, &root_of(pointer));
        }
    }
    inode
}

/// Seconds since 1970 in 34 bits: the low 32, signed, and two more for later epochs.
fn time(seconds: i64) -> (u32, u32) {
    let seconds = seconds.clamp(i32::MIN.into(), (1 << 34) - (1 << 31) - 1);
    let low = seconds as i32;
    let epoch = (seconds - i64::from(low)) >> 32;
    (low as u32, (epoch & 3) as u32)
}

fn device(inode: &mut [u8; INODE], major: u32, minor: u32) {
    if major < 256 && minor < 256 {
        put(inode, POINTER, &(major << 8 | minor).to_le_bytes());
    } else {
        let number = (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12;
        put(inode, POINTER + 4, &number.to_le_bytes());
    }
}

/// The root of the tree of extents, which is in the inode.
fn root_of(pointer: &Pointer<'_>) -> [u8; 60] {
    let mut root = [0; 60];
    let mut first = 0;
    if pointer.leaves.is_empty() {
        header(&mut root, pointer.runs.len(), IN_INODE, 0);
        extents(&mut root, pointer.runs, &mut first);
        return root;
    }
    header(&mut root, pointer.leaves.len(), IN_INODE, 1);
    for (index, (leaf, runs)) in pointer
        .leaves
        .iter()
        .zip(pointer.runs.chunks(IN_BLOCK))
        .enumerate()
    {
        let at = 12 + index * 12;
        put(&mut root, at, &first.to_le_bytes());
        put(&mut root, at + 4, &(leaf.start as u32).to_le_bytes());
        put(
            &mut root,
            at + 8,
            &((leaf.start >> 32) as u16).to_le_bytes(),
        );
        first += runs.iter().map(|run| run.blocks).sum::<u32>();
    }
    root
}

/// The content of the blocks with extents that do not fit into the inode.
pub(super) fn leaf_blocks(runs: &[Run]) -> impl Iterator<Item = Vec<u8>> {
    let mut first = 0;
    runs.chunks(IN_BLOCK).map(move |runs| {
        let mut block = vec![0; BLOCK];
        header(&mut block, runs.len(), IN_BLOCK, 0);
        extents(&mut block, runs, &mut first);
        block
    })
}

fn header(node: &mut [u8], entries: usize, most: usize, depth: u16) {
    put(node, 0, &0xf30a_u16.to_le_bytes());
    put(node, 2, &(entries as u16).to_le_bytes());
    put(node, 4, &(most as u16).to_le_bytes());
    put(node, 6, &depth.to_le_bytes());
}

/// Writes extents; `first` is the block of the file that the first one begins with.
fn extents(node: &mut [u8], runs: &[Run], first: &mut u32) {
    for (index, run) in runs.iter().enumerate() {
        let at = 12 + index * 12;
        put(node, at, &first.to_le_bytes());
        put(node, at + 4, &(run.blocks as u16).to_le_bytes());
        put(node, at + 6, &((run.start >> 32) as u16).to_le_bytes());
        put(node, at + 8, &(run.start as u32).to_le_bytes());
        *first += run.blocks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_after_2038_are_kept() {
        assert_eq!(time(-1), (u32::MAX, 0));
        assert_eq!(time(1 << 31), (1 << 31, 1));
        assert_eq!(time(0), (0, 0));
        assert_eq!(time(i64::MAX).1, 3);
        assert_eq!(time(i64::MIN), (1 << 31, 0));
    }
}
