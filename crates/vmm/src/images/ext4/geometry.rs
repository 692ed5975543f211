//! The superblock and the group descriptors of a file system that mke2fs has just made, read to
//! know where things are, and written back with what has been taken.
//!
//! Numbers and offsets are those of the kernel's `Documentation/filesystems/ext4`. Only the shape
//! that [`make_empty`](super::make_empty) asks for is understood; anything else is an error.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::PlaceError;

pub(super) const BLOCK: usize = 4096;
pub(super) const INODE: usize = 256;
const SUPERBLOCK: u64 = 1024;
const DESCRIPTOR: usize = 64;
const MAGIC: u16 = 0xef53;

/// Where the metadata of a group is, and what of the group is free.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) block_bitmap: u64,
    pub(super) inode_bitmap: u64,
    pub(super) inode_table: u64,
    pub(super) free_blocks: u32,
    pub(super) free_inodes: u32,
    pub(super) directories: u32,
}

#[derive(Debug)]
pub(super) struct Geometry {
    pub(super) blocks: u64,
    pub(super) inodes: u32,
    pub(super) blocks_per_group: u32,
    pub(super) inodes_per_group: u32,
    pub(super) groups: Vec<Group>,
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |b| u16::from_le_bytes(*b))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..]
        .first_chunk()
        .map_or(0, |b| u32::from_le_bytes(*b))
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn joined(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

impl Geometry {
    pub(super) fn read(disk: &File) -> Result<Self, PlaceError> {
        let mut sb = [0; 1024];
        disk.read_exact_at(&mut sb, SUPERBLOCK)?;
        let sane = u16_at(&sb, 0x38) == MAGIC
            && u32_at(&sb, 0x14) == 0
            && u32_at(&sb, 0x18) == 2
            && usize::from(u16_at(&sb, 0x58)) == INODE
            && usize::from(u16_at(&sb, 0xfe)) == DESCRIPTOR;
        let mut geometry = Self {
            blocks: joined(u32_at(&sb, 0x150), u32_at(&sb, 0x4)),
            inodes: u32_at(&sb, 0),
            blocks_per_group: u32_at(&sb, 0x20),
            inodes_per_group: u32_at(&sb, 0x28),
            groups: Vec::new(),
        };
        let bits = 8 * BLOCK as u32;
        let groups_fit = (1..=bits).contains(&geometry.blocks_per_group)
            && (1..=bits).contains(&geometry.inodes_per_group);
        if !sane || !groups_fit {
            return Err(PlaceError::Shape);
        }
        let count = geometry.blocks.div_ceil(geometry.blocks_per_group.into());
        let count = usize::try_from(count).map_err(|_| PlaceError::Shape)?;
        let mut table = vec![0; count * DESCRIPTOR];
        disk.read_exact_at(&mut table, BLOCK as u64)?;
        geometry.groups = table.chunks_exact(DESCRIPTOR).map(Group::read).collect();
        Ok(geometry)
    }

    /// Writes what is free now, into the descriptors and the superblock. Copies of both for
    /// repairs keep the old numbers, as they do on every file system in use.
    pub(super) fn write(&self, disk: &File) -> io::Result<()> {
        let mut table = vec![0; self.groups.len() * DESCRIPTOR];
        disk.read_exact_at(&mut table, BLOCK as u64)?;
        for (group, bytes) in self.groups.iter().zip(table.chunks_exact_mut(DESCRIPTOR)) {
            group.write(bytes);
        }
        disk.write_all_at(&table, BLOCK as u64)?;

        let free_blocks: u64 = self.groups.iter().map(|g| u64::from(g.free_blocks)).sum();
        let free_inodes: u32 = self.groups.iter().map(|g| g.free_inodes).sum();
        let mut sb = [0; 1024];
        disk.read_exact_at(&mut sb, SUPERBLOCK)?;
        put(&mut sb, 0xc, &(free_blocks as u32).to_le_bytes());
        put(&mut sb, 0x158, &((free_blocks >> 32) as u32).to_le_bytes());
        put(&mut sb, 0x10, &free_inodes.to_le_bytes());
        disk.write_all_at(&sb, SUPERBLOCK)
    }

    /// The group of an inode and its place there.
    pub(super) fn place_of(&self, inode: u32) -> (usize, u32) {
        let index = inode - 1;
        (
            (index / self.inodes_per_group) as usize,
            index % self.inodes_per_group,
        )
    }

    /// Where an inode is on the disk.
    pub(super) fn offset_of(&self, inode: u32) -> u64 {
        let (group, index) = self.place_of(inode);
        self.groups[group].inode_table * BLOCK as u64 + u64::from(index) * INODE as u64
    }
}

impl Group {
    fn read(bytes: &[u8]) -> Self {
        let wide = |low, high| joined(u32_at(bytes, high), u32_at(bytes, low));
        let narrow =
            |low, high| u32::from(u16_at(bytes, high)) << 16 | u32::from(u16_at(bytes, low));
        Self {
            block_bitmap: wide(0, 0x20),
            inode_bitmap: wide(4, 0x24),
            inode_table: wide(8, 0x28),
            free_blocks: narrow(0xc, 0x2c),
            free_inodes: narrow(0xe, 0x2e),
            directories: narrow(0x10, 0x30),
        }
    }

    fn write(&self, bytes: &mut [u8]) {
        let mut narrow = |low, high, value: u32| {
            put(bytes, low, &(value as u16).to_le_bytes());
            put(bytes, high, &((value >> 16) as u16).to_le_bytes());
        };
        narrow(0xc, 0x2c, self.free_blocks);
        narrow(0xe, 0x2e, self.free_inodes);
        narrow(0x10, 0x30, self.directories);
    }
}
