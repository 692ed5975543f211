//! A layer goes into the tree: what it hides first, what it brings then, because a whiteout only
//! hides what is below its layer (OCI image specification, "Whiteouts").

use std::collections::BTreeMap;

use super::{Content, DataAt, MAX_DEPTH, MAX_ENTRIES, MAX_HOPS, Metadata, Node, NodeId, Tree};
use crate::images::tar::{Entry, Kind};

const WHITEOUT: &[u8] = b".wh.";
/// Aufs' own notes, of which only this one means something elsewhere.
const OWN_NOTES: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The longest name of a file (NAME_MAX).
const MAX_NAME: usize = 255;

/// Why an entry is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("{path:?} leads out of the image")]
    Escapes { path: String },
    #[error("{path:?} has a name that is too long, or too many directories")]
    TooLong { path: String },
    #[error("{path:?} goes through something that is no directory")]
    NoDirectory { path: String },
    #[error("{path:?} is another name of {target:?}, which is no file in the image")]
    LinkToNothing { path: String, target: String },
    #[error("it has more than {MAX_ENTRIES} files and directories")]
    TooMany,
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}

/// The words of an entry's path. A leading slash means the image's root, as with every tar.
fn words(path: &[u8]) -> Result<Vec<&[u8]>, Refused> {
    let words: Vec<_> = path
        .split(|&b| b == b'/')
        .filter(|word| !word.is_empty() && *word != b".")
        .collect();
    if words.contains(&&b".."[..]) {
        return Err(Refused::Escapes { path: shown(path) });
    }
    if words.len() > MAX_DEPTH || words.iter().any(|word| word.len() > MAX_NAME) {
        return Err(Refused::TooLong { path: shown(path) });
    }
    Ok(words)
}

impl Tree {
    /// Puts a layer on top. The entries are in the order of its archive, from entry 0 on.
    pub(crate) fn apply(&mut self, layer: u32, entries: Vec<Entry>) -> Result<(), Refused> {
        for entry in &entries {
            let words = words(&entry.path)?;
            if let Some((name, parent)) = words.split_last()
                && name.starts_with(WHITEOUT)
            {
                self.hide(parent, name);
            }
        }
        for (index, entry) in (0u32..).zip(entries) {
            // Whiteouts, and directories with notes of aufs.
            let mut words = words(&entry.path)?.into_iter();
            if !words.any(|word| word.starts_with(WHITEOUT)) {
                self.add(
                    entry,
                    DataAt {
                        layer,
                        entry: index,
                    },
                )?;
            }
        }
        Ok(())
    }

    /// Hides what a whiteout in this directory names.
    fn hide(&mut self, parent: &[&[u8]], whiteout: &[u8]) {
        let mut hops = MAX_HOPS;
        let Some(parent) = self.walk(NodeId::ROOT, &parent.join(&b'/'), &mut hops) else {
            return;
        };
        let Content::Directory(children) = &mut self.nodes[parent.index()].content else {
            return;
        };
        let hidden = if whiteout == OPAQUE {
            std::mem::take(children).into_values().collect()
        } else if whiteout.starts_with(OWN_NOTES) {
            Vec::new()
        } else {
            children
                .remove(&whiteout[WHITEOUT.len()..])
                .into_iter()
                .collect()
        };
        for id in hidden {
            self.lose_name(id);
        }
    }

    fn add(&mut self, mut entry: Entry, at: DataAt) -> Result<(), Refused> {
        let path = std::mem::take(&mut entry.path);
        let words = words(&path)?;
        let metadata = Metadata::from(&mut entry);
        let Some((name, parent)) = words.split_last() else {
            return match entry.kind {
                Kind::Directory => {
                    self.nodes[0].metadata = metadata;
                    Ok(())
                }
                _ => Err(Refused::NoDirectory { path: shown(&path) }),
            };
        };
        let mut way = vec![NodeId::ROOT];
        let mut hops = MAX_HOPS;
        self.make_way(&mut way, &parent.join(&b'/'), &mut hops)
            .map_err(|problem| problem.at(&path))?;
        let parent = way.last().copied().unwrap_or(NodeId::ROOT);
        let existing = self.children(parent).and_then(|c| c.get(*name)).copied();

        let content = match entry.kind {
            Kind::Directory => {
                if let Some(id) = existing.filter(|id| self.children(*id).is_some()) {
                    self.nodes[id.index()].metadata = metadata;
                    return Ok(());
                }
                Content::Directory(BTreeMap::new())
            }
            Kind::HardLink(target) => {
                let target = self.link_target(&path, &target)?;
                if existing != Some(target) {
                    self.nodes[target.index()].names += 1;
                    self.give_name(parent, name, target);
                }
                return Ok(());
            }
            Kind::File => Content::File {
                size: entry.size,
                at,
            },
            Kind::Symlink(target) => Content::Symlink(target.into()),
            Kind::CharacterDevice(major, minor) => Content::CharacterDevice(major, minor),
            Kind::BlockDevice(major, minor) => Content::BlockDevice(major, minor),
            Kind::Fifo => Content::Fifo,
        };
        let id = self.make(content, metadata).ok_or(Refused::TooMany)?;
        self.give_name(parent, name, id);
        Ok(())
    }

    /// What a hard link means: a node of the tree that is no directory.
    fn link_target(&self, path: &[u8], target: &[u8]) -> Result<NodeId, Refused> {
        let nothing = || Refused::LinkToNothing {
            path: shown(path),
            target: shown(target),
        };
        let words = words(target)?;
        let (name, parent) = words.split_last().ok_or_else(nothing)?;
        let mut hops = MAX_HOPS;
        let parent = self.walk(NodeId::ROOT, &parent.join(&b'/'), &mut hops);
        let found = parent.and_then(|id| self.children(id)?.get(*name).copied());
        found
            .filter(|id| self.children(*id).is_none())
            .ok_or_else(nothing)
    }

    /// Walks along a path and makes the directories that are missing.
    fn make_way(
        &mut self,
        way: &mut Vec<NodeId>,
        path: &[u8],
        hops: &mut usize,
    ) -> Result<(), Blocked> {
        if path.starts_with(b"/") {
            way.truncate(1);
        }
        for word in path.split(|&b| b == b'/') {
            let here = way.last().copied().unwrap_or(NodeId::ROOT);
            match word {
                b"" | b"." => {}
                b".." if way.len() > 1 => drop(way.pop()),
                b".." => {}
                name => {
                    let children = self.children(here).ok_or(Blocked::NoDirectory)?;
                    match children.get(name).copied() {
                        // A link may lead to a name that no file can have.
                        None if name.len() > MAX_NAME => return Err(Blocked::TooLong),
                        // What whiteouts are called is never there.
                        None if name.starts_with(WHITEOUT) => return Err(Blocked::NoDirectory),
                        None => {
                            let directory = Content::Directory(BTreeMap::new());
                            let metadata = Metadata {
                                mode: 0o755,
                                ..Metadata::default()
                            };
                            let id = self.make(directory, metadata).ok_or(Blocked::TooMany)?;
                            self.give_name(here, name, id);
                            way.push(id);
                        }
                        Some(id) => match &self.node(id).content {
                            Content::Directory(_) => way.push(id),
                            Content::Symlink(target) => {
                                *hops = hops.checked_sub(1).ok_or(Blocked::NoDirectory)?;
                                let target = target.clone();
                                self.make_way(way, &target, hops)?;
                            }
                            _ => return Err(Blocked::NoDirectory),
                        },
                    }
                }
            }
            if way.len() > MAX_DEPTH {
                return Err(Blocked::TooLong);
            }
        }
        Ok(())
    }

    fn make(&mut self, content: Content, metadata: Metadata) -> Option<NodeId> {
        let id = u32::try_from(self.nodes.len()).ok()?;
        if self.nodes.len() > MAX_ENTRIES {
            return None;
        }
        if let Content::File { size, .. } = content {
            self.file_bytes = self.file_bytes.saturating_add(size);
        }
        self.nodes.push(Node {
            content,
            metadata,
            names: 1,
        });
        Some(NodeId(id))
    }

    /// Puts a node under a name, in the place of another if need be.
    fn give_name(&mut self, parent: NodeId, name: &[u8], id: NodeId) {
        if let Content::Directory(children) = &mut self.nodes[parent.index()].content
            && let Some(replaced) = children.insert(name.into(), id)
        {
            self.lose_name(replaced);
        }
    }

    /// A node has a name less. Without any it is gone, and so is what was in it.
    pub(super) fn lose_name(&mut self, id: NodeId) {
        let mut losing = vec![id];
        while let Some(id) = losing.pop() {
            let node = &mut self.nodes[id.index()];
            node.names = node.names.saturating_sub(1);
            if node.names > 0 {
                continue;
            }
            match &mut node.content {
                Content::Directory(children) => {
                    losing.extend(std::mem::take(children).into_values());
                }
                Content::File { size, .. } => {
                    self.file_bytes = self.file_bytes.saturating_sub(*size);
                }
                _ => {}
            }
        }
    }
}

/// Why there is no way along a path.
enum Blocked {
    NoDirectory,
    TooLong,
    TooMany,
}

impl Blocked {
    fn at(self, path: &[u8]) -> Refused {
        let path = shown(path);
        match self {
            Self::NoDirectory => Refused::NoDirectory { path },
            Self::TooLong => Refused::TooLong { path },
            Self::TooMany => Refused::TooMany,
        }
    }
}
