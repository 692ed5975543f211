//! The merged tree of an image: layers go in, lowest first, and one file system comes out.
//!
//! It exists in memory only. A path is resolved from its root, links in it are followed as the
//! guest would, and there is nothing above the root: whatever an archive names, it cannot name a
//! file of the host. Data stays in the layers; a file remembers which entry of which layer has it.

mod apply;
#[cfg(any(test, fuzzing))]
mod sound;

use std::collections::BTreeMap;

use super::tar::Entry;

pub(crate) use self::apply::Refused;

/// The most entries of an image, over all of its layers: each costs some hundred bytes of memory.
pub(crate) const MAX_ENTRIES: usize = 500_000;
/// The most bytes of their names, targets and attributes.
pub(crate) const MAX_NAMES: usize = 48 << 20;
/// The most directories of one path, and the most links that lead to one.
const MAX_DEPTH: usize = 255;
const MAX_HOPS: usize = 40;

/// Where a node is in the tree's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(u32);

impl NodeId {
    pub(crate) const ROOT: Self = Self(0);

    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The entry that has a file's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DataAt {
    /// From 0, the lowest.
    pub(crate) layer: u32,
    /// From 0, in the layer's archive.
    pub(crate) entry: u32,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Content {
    Directory(BTreeMap<Box<[u8]>, NodeId>),
    File { size: u64, at: DataAt },
    Symlink(Box<[u8]>),
    CharacterDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Everything about a node but what it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metadata {
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: i64,
    pub(crate) xattrs: Box<[(Vec<u8>, Vec<u8>)]>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) content: Content,
    pub(crate) metadata: Metadata,
    /// How many names it has; 0 when it was replaced or removed.
    pub(crate) names: u32,
}

impl Node {
    /// Whether somebody may run it.
    pub(crate) fn is_program(&self) -> bool {
        matches!(self.content, Content::File { .. }) && self.metadata.mode & 0o111 != 0
    }
}

/// A merged tree.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// The sum of the sizes of the files that have names.
    file_bytes: u64,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let root = Node {
            content: Content::Directory(BTreeMap::new()),
            metadata: Metadata {
                mode: 0o755,
                ..Metadata::default()
            },
            names: 1,
        };
        Self {
            nodes: vec![root],
            file_bytes: 0,
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// Every node that was ever made; those without names are no part of the tree any more.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        let ids = (0u32..).map(NodeId);
        ids.zip(&self.nodes).filter(|(_, node)| node.names > 0)
    }

    /// The sum of the sizes of all files.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// How many nodes were ever made.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// What a path leads to, with every link followed as the guest would.
    pub(crate) fn find(&self, path: &[u8]) -> Option<&Node> {
        let mut hops = MAX_HOPS;
        self.walk(NodeId::ROOT, path, &mut hops)
            .map(|id| self.node(id))
    }

    /// Takes something out of the root directory.
    pub(crate) fn remove_from_root(&mut self, name: &[u8]) {
        if let Content::Directory(children) = &mut self.nodes[0].content
            && let Some(id) = children.remove(name)
        {
            self.lose_name(id);
        }
    }

    fn children(&self, id: NodeId) -> Option<&BTreeMap<Box<[u8]>, NodeId>> {
        match &self.node(id).content {
            Content::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// Walks a path from a directory; the way there is kept, so that `..` leads back.
    fn walk(&self, from: NodeId, path: &[u8], hops: &mut usize) -> Option<NodeId> {
        let mut way = vec![from];
        self.walk_on(&mut way, path, hops)?;
        way.last().copied()
    }

    /// Walks on along `way`, whose first is the root.
    fn walk_on(&self, way: &mut Vec<NodeId>, path: &[u8], hops: &mut usize) -> Option<()> {
        if path.starts_with(b"/") {
            way.truncate(1);
        }
        for word in path.split(|&b| b == b'/') {
            match word {
                b"" | b"." => {}
                b".." => {
                    if way.len() > 1 {
                        way.pop();
                    }
                }
                name => {
                    let child = *self.children(*way.last()?)?.get(name)?;
                    if let Content::Symlink(target) = &self.node(child).content {
                        *hops = hops.checked_sub(1)?;
                        self.walk_on(way, target, hops)?;
                    } else if way.len() > MAX_DEPTH {
                        return None;
                    } else {
                        way.push(child);
                    }
                }
            }
        }
        Some(())
    }
}

impl From<&mut Entry> for Metadata {
    fn from(entry: &mut Entry) -> Self {
        Self {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: std::mem::take(&mut entry.xattrs).into(),
        }
    }
}

#[cfg(test)]
mod tests;
