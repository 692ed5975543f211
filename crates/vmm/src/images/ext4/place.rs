//! A merged tree takes its place in an empty file system: every inode, directory and link is
//! written, and every file gets its blocks. The files' data comes later, in any order, through
//! [`FileWriter`].
//!
//! Nothing of the tree exists on the host meanwhile, so owners, set-id bits and devices need no
//! privilege, and no name can mean a path.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::allocate::{Allocator, Run};
use super::geometry::{BLOCK, Geometry, INODE, u16_at, u32_at};
use super::inode::{self, Pointer, SHORT_LINK};
use super::{PlaceError, directory, xattr};
use crate::images::tree::{Content, DataAt, NodeId, Tree};

const ROOT_INODE: u32 = 2;
/// What mke2fs makes for e2fsck to put things into, and what it is called.
const LOST_FOUND_INODE: u32 = 11;
pub(crate) const LOST_FOUND: &[u8] = b"lost+found";
const FIRST_FREE_INODE: u32 = 12;
/// The most names of a file (EXT4_LINK_MAX). A directory with more is said to have one.
const MAX_LINKS: u32 = 65_000;

/// Where a file's data belongs.
#[derive(Debug)]
pub(crate) struct PlacedFile {
    pub(crate) at: DataAt,
    pub(crate) size: u64,
    runs: Box<[Run]>,
}

/// Places a tree; the answer is in the order of the layers and their entries.
pub(crate) fn place(disk: &File, tree: &Tree) -> Result<Vec<PlacedFile>, PlaceError> {
    let geometry = Geometry::read(disk)?;
    let mut placing = Placing {
        tree,
        disk,
        numbers: number(tree, geometry.inodes)?,
        allocator: Allocator::new(disk, geometry)?,
    };
    placing.directories()?;
    placing.small_ones()?;
    let files = placing.files()?;
    let Placing {
        numbers, allocator, ..
    } = placing;
    let mut geometry = allocator.finish()?;
    take_inodes(disk, &mut geometry, tree, &numbers)?;
    geometry.write(disk)?;
    Ok(files)
}

/// Gives every node an inode; 0 for those that are no part of the tree any more.
fn number(tree: &Tree, inodes: u32) -> Result<Vec<u32>, PlaceError> {
    let mut numbers = vec![0; tree.len()];
    let mut next = FIRST_FREE_INODE;
    for (id, _) in tree.nodes() {
        if id == NodeId::ROOT {
            numbers[id.index()] = ROOT_INODE;
            continue;
        }
        if next > inodes {
            return Err(PlaceError::Full);
        }
        numbers[id.index()] = next;
        next += 1;
    }
    Ok(numbers)
}

struct Placing<'a> {
    tree: &'a Tree,
    disk: &'a File,
    numbers: Vec<u32>,
    allocator: Allocator<'a>,
}

impl Placing<'_> {
    fn directories(&mut self) -> Result<(), PlaceError> {
        let tree = self.tree;
        let mut open = vec![(NodeId::ROOT, NodeId::ROOT)];
        while let Some((id, parent)) = open.pop() {
            let own = self.numbers[id.index()];
            let mut blocks = directory::Blocks::of(own, self.numbers[parent.index()]);
            let mut links = 2;
            if id == NodeId::ROOT {
                blocks.add(LOST_FOUND, LOST_FOUND_INODE, directory::DIRECTORY);
                links += 1;
            }
            let Content::Directory(children) = &tree.node(id).content else {
                continue;
            };
            for (name, child) in children {
                let kind = directory::kind(&tree.node(*child).content);
                blocks.add(name, self.numbers[child.index()], kind);
                if kind == directory::DIRECTORY {
                    links += 1;
                    open.push((*child, id));
                }
            }
            let bytes = blocks.finish();
            let runs = self.take_for_directory(id, bytes.len() / BLOCK)?;
            FileWriter::new(self.disk, &runs).write(&bytes)?;
            let links = if links > MAX_LINKS { 1 } else { links };
            self.write_inode(id, bytes.len() as u64, links, &runs)?;
        }
        Ok(())
    }

    /// Blocks for a directory. The root has one already, which it keeps.
    fn take_for_directory(&mut self, id: NodeId, blocks: usize) -> Result<Vec<Run>, PlaceError> {
        if id != NodeId::ROOT {
            return self.allocator.take(blocks as u64);
        }
        let mut old = [0; INODE];
        let at = self.allocator.geometry.offset_of(ROOT_INODE);
        self.disk.read_exact_at(&mut old, at)?;
        // The first extent in its inode, behind the header.
        let extent = &old[0x28 + 12..];
        let start = u64::from(u16_at(extent, 6)) << 32 | u64::from(u32_at(extent, 8));
        if u16_at(&old, 0x28) != 0xf30a || u16_at(extent, 4) != 1 {
            return Err(PlaceError::Shape);
        }
        let mut runs = vec![Run { start, blocks: 1 }];
        runs.extend(self.allocator.take(blocks as u64 - 1)?);
        Ok(runs)
    }

    /// Links, devices and pipes.
    fn small_ones(&mut self) -> Result<(), PlaceError> {
        let tree = self.tree;
        for (id, node) in tree.nodes() {
            let (size, runs) = match &node.content {
                Content::Directory(_) | Content::File { .. } => continue,
                Content::Symlink(target) if target.len() > SHORT_LINK => {
                    let runs = self.allocator.take(1)?;
                    FileWriter::new(self.disk, &runs).write(target)?;
                    (target.len() as u64, runs)
                }
                Content::Symlink(target) => (target.len() as u64, Vec::new()),
                _ => (0, Vec::new()),
            };
            self.write_inode(id, size, node.names, &runs)?;
        }
        Ok(())
    }

    /// Files, in the order in which their data will come, so that it goes to the disk in a row.
    fn files(&mut self) -> Result<Vec<PlacedFile>, PlaceError> {
        let tree = self.tree;
        let mut files: Vec<_> = tree
            .nodes()
            .filter_map(|(id, node)| match node.content {
                Content::File { size, at } => Some((at, size, id)),
                _ => None,
            })
            .collect();
        files.sort_unstable_by_key(|(at, ..)| *at);
        let mut placed = Vec::new();
        for (at, size, id) in files {
            let runs = self.allocator.take(size.div_ceil(BLOCK as u64))?;
            self.write_inode(id, size, tree.node(id).names, &runs)?;
            if size > 0 {
                let runs = runs.into();
                placed.push(PlacedFile { at, size, runs });
            }
        }
        Ok(placed)
    }

    fn write_inode(
        &mut self,
        id: NodeId,
        size: u64,
        links: u32,
        runs: &[Run],
    ) -> Result<(), PlaceError> {
        if links > MAX_LINKS {
            return Err(PlaceError::Links);
        }
        let node = self.tree.node(id);
        let leaves = self.allocator.take(inode::leaves_for(runs.len())? as u64)?;
        // Each leaf is pointed to by itself.
        let leaves: Vec<Run> = leaves.iter().flat_map(Run::singly).collect();
        for (leaf, bytes) in leaves.iter().zip(inode::leaf_blocks(runs)) {
            self.disk.write_all_at(&bytes, leaf.start * BLOCK as u64)?;
        }
        let attributes = match xattr::in_block(&node.metadata.xattrs)? {
            Some(bytes) => {
                let runs = self.allocator.take(1)?;
                FileWriter::new(self.disk, &runs).write(&bytes)?;
                runs.first().copied()
            }
            None => None,
        };
        let pointer = Pointer {
            runs,
            leaves: &leaves,
            attributes,
        };
        let bytes = inode::encode(&node.content, &node.metadata, size, links, &pointer);
        let at = self.allocator.geometry.offset_of(self.numbers[id.index()]);
        Ok(self.disk.write_all_at(&bytes, at)?)
    }
}

/// Marks the inodes as taken, in their bitmaps and in the numbers of their groups.
fn take_inodes(
    disk: &File,
    geometry: &mut Geometry,
    tree: &Tree,
    numbers: &[u32],
) -> Result<(), PlaceError> {
    let mut bitmap = vec![0; BLOCK];
    let mut loaded: Option<usize> = None;
    for (id, node) in tree.nodes().filter(|(id, _)| *id != NodeId::ROOT) {
        let (group, index) = geometry.place_of(numbers[id.index()]);
        if loaded != Some(group) {
            if let Some(loaded) = loaded {
                disk.write_all_at(&bitmap, bitmap_at(geometry, loaded))?;
            }
            disk.read_exact_at(&mut bitmap, bitmap_at(geometry, group))?;
            loaded = Some(group);
        }
        bitmap[(index / 8) as usize] |= 1 << (index % 8);
        let group = &mut geometry.groups[group];
        group.free_inodes = group.free_inodes.checked_sub(1).ok_or(PlaceError::Shape)?;
        if matches!(node.content, Content::Directory(_)) {
            group.directories += 1;
        }
    }
    if let Some(loaded) = loaded {
        disk.write_all_at(&bitmap, bitmap_at(geometry, loaded))?;
    }
    Ok(())
}

fn bitmap_at(geometry: &Geometry, group: usize) -> u64 {
    geometry.groups[group].inode_bitmap * BLOCK as u64
}

impl Run {
    /// The blocks of a run, each by itself.
    fn singly(&self) -> impl Iterator<Item = Self> + use<> {
        let Self { start, blocks } = *self;
        (start..start + u64::from(blocks)).map(|start| Self { start, blocks: 1 })
    }
}

/// Writes the data of one file from its beginning on. Blocks of zeros are left out: the disk has
/// nothing but zeros there, and stays as small as it can be.
pub(crate) struct FileWriter<'a> {
    disk: &'a File,
    runs: std::slice::Iter<'a, Run>,
    /// What is left of the current run.
    position: u64,
    room: usize,
}

impl<'a> FileWriter<'a> {
    fn new(disk: &'a File, runs: &'a [Run]) -> Self {
        Self {
            disk,
            runs: runs.iter(),
            position: 0,
            room: 0,
        }
    }

    pub(crate) fn of(disk: &'a File, file: &'a PlacedFile) -> Self {
        Self::new(disk, &file.runs)
    }

    pub(crate) fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            if self.room == 0 {
                let run = self.runs.next().ok_or(io::ErrorKind::WriteZero)?;
                self.position = run.start * BLOCK as u64;
                self.room = run.blocks as usize * BLOCK;
            }
            let (now, later) = data.split_at(data.len().min(self.room));
            self.write_holey(now)?;
            self.position += now.len() as u64;
            self.room -= now.len();
            data = later;
        }
        Ok(())
    }

    fn write_holey(&self, data: &[u8]) -> io::Result<()> {
        let is_zero = |piece: &[u8]| piece.iter().all(|&byte| byte == 0);
        let mut position = self.position;
        for same in data
            .chunks(BLOCK)
            .collect::<Vec<_>>()
            .chunk_by(|one, other| is_zero(one) == is_zero(other))
        {
            let length: usize = same.iter().map(|piece| piece.len()).sum();
            if !same.first().is_some_and(|piece| is_zero(piece)) {
                let from = (position - self.position) as usize;
                self.disk
                    .write_all_at(&data[from..from + length], position)?;
            }
            position += length as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
