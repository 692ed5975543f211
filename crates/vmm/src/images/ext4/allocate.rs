//! Taking blocks: from the front of the disk to its end, each bitmap read and written once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::PlaceError;
use super::geometry::{BLOCK, Geometry};

/// The most blocks of one extent.
const MAX_RUN: u32 = 32768;

/// Blocks in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) blocks: u32,
}

pub(super) struct Allocator<'a> {
    disk: &'a File,
    pub(super) geometry: Geometry,
    group: usize,
    bitmap: Vec<u8>,
    /// The next bit of the bitmap to look at.
    next: u32,
}

impl<'a> Allocator<'a> {
    pub(super) fn new(disk: &'a File, geometry: Geometry) -> Result<Self, PlaceError> {
        let mut allocator = Self {
            disk,
            geometry,
            group: 0,
            bitmap: vec![0; BLOCK],
            next: 0,
        };
        allocator.load()?;
        Ok(allocator)
    }

    fn load(&mut self) -> io::Result<()> {
        let at = self.geometry.groups[self.group].block_bitmap * BLOCK as u64;
        self.next = 0;
        self.disk.read_exact_at(&mut self.bitmap, at)
    }

    fn store(&self) -> io::Result<()> {
        let at = self.geometry.groups[self.group].block_bitmap * BLOCK as u64;
        self.disk.write_all_at(&self.bitmap, at)
    }

    fn is_taken(&self, bit: u32) -> bool {
        self.bitmap[(bit / 8) as usize] >> (bit % 8) & 1 == 1
    }

    /// Takes so many blocks, in as few runs as there is room in a row.
    pub(super) fn take(&mut self, blocks: u64) -> Result<Vec<Run>, PlaceError> {
        let mut runs = Vec::new();
        let mut missing = blocks;
        while missing > 0 {
            let most = u32::try_from(missing).unwrap_or(u32::MAX).min(MAX_RUN);
            let run = self.take_run(most)?;
            missing -= u64::from(run.blocks);
            runs.push(run);
        }
        Ok(runs)
    }

    fn take_run(&mut self, most: u32) -> Result<Run, PlaceError> {
        let bits = self.geometry.blocks_per_group;
        loop {
            while self.next < bits && self.is_taken(self.next) {
                self.next += 1;
            }
            if self.next < bits {
                break;
            }
            self.store()?;
            self.group += 1;
            if self.group == self.geometry.groups.len() {
                self.group -= 1;
                return Err(PlaceError::Full);
            }
            self.load()?;
        }
        let first = self.next;
        while self.next < bits && self.next - first < most && !self.is_taken(self.next) {
            self.bitmap[(self.next / 8) as usize] |= 1 << (self.next % 8);
            self.next += 1;
        }
        let blocks = self.next - first;
        let group = &mut self.geometry.groups[self.group];
        group.free_blocks = group
            .free_blocks
            .checked_sub(blocks)
            .ok_or(PlaceError::Shape)?;
        let start = self.group as u64 * u64::from(bits) + u64::from(first);
        Ok(Run { start, blocks })
    }

    /// Writes the last bitmap, and gives the numbers of what is free back.
    pub(super) fn finish(self) -> Result<Geometry, PlaceError> {
        self.store()?;
        Ok(self.geometry)
    }
}
