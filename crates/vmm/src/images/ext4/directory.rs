//! The blocks of a directory: its entries one after the other, none across the end of a block.
//!
//! They are not indexed. The kernel reads such directories as well, and indexes one when it grows
//! beyond its first block.

use super::geometry::{BLOCK, put};
use crate::images::tree::Content;

/// Kinds as directory entries have them.
pub(super) const DIRECTORY: u8 = 2;

pub(super) fn kind(content: &Content) -> u8 {
    match content {
        Content::File { .. } => 1,
        Content::Directory(_) => DIRECTORY,
        Content::CharacterDevice(..) => 3,
        Content::BlockDevice(..) => 4,
        Content::Fifo => 5,
        Content::Symlink(_) => 7,
    }
}

/// Blocks in the making.
#[derive(Default)]
pub(super) struct Blocks {
    bytes: Vec<u8>,
    /// Where the last entry of the last block begins, and where the next could.
    last: usize,
    next: usize,
}

impl Blocks {
    pub(super) fn of(own: u32, parent: u32) -> Self {
        let mut blocks = Self::default();
        blocks.add(b".", own, DIRECTORY);
        blocks.add(b"..", parent, DIRECTORY);
        blocks
    }

    pub(super) fn add(&mut self, name: &[u8], inode: u32, kind: u8) {
        let length = (8 + name.len()).next_multiple_of(4);
        if self.next + length > self.bytes.len() {
            self.close();
            (self.last, self.next) = (self.bytes.len(), self.bytes.len());
            self.bytes.resize(self.bytes.len() + BLOCK, 0);
        }
        let at = self.next;
        put(&mut self.bytes, at, &inode.to_le_bytes());
        put(&mut self.bytes, at + 4, &(length as u16).to_le_bytes());
        self.bytes[at + 6] = name.len() as u8;
        self.bytes[at + 7] = kind;
        put(&mut self.bytes, at + 8, name);
        (self.last, self.next) = (at, at + length);
    }

    /// The last entry of a block takes what is left of it.
    fn close(&mut self) {
        if !self.bytes.is_empty() {
            let length = (self.bytes.len() - self.last) as u16;
            put(&mut self.bytes, self.last + 4, &length.to_le_bytes());
        }
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        self.close();
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_fill_blocks_and_never_cross_their_ends() {
        let mut blocks = Blocks::of(2, 2);
        for number in 0..1000 {
            blocks.add(format!("{number:0200}").as_bytes(), number + 12, 1);
        }
        let bytes = blocks.finish();
        let mut names = 0;
        for block in bytes.chunks(BLOCK) {
            let mut at = 0;
            while at < BLOCK {
                at += usize::from(u16::from_le_bytes([block[at + 4], block[at + 5]]));
                names += 1;
            }
            assert_eq!(at, BLOCK);
        }
        assert_eq!(names, 1002);
    }
}
