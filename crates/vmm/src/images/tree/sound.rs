//! What holds of every tree, for tests and fuzzers to look at.

use super::{Content, NodeId, Tree};

impl Tree {
    /// Every node has as many names as it says, a directory has one; no name leads elsewhere; and
    /// the sizes of the files add up.
    pub(crate) fn assert_sound(&self) {
        let mut names = vec![0u32; self.len()];
        names[NodeId::ROOT.index()] = 1;
        let mut open = vec![NodeId::ROOT];
        let mut bytes = 0;
        while let Some(id) = open.pop() {
            for (name, child) in self.children(id).expect("a directory") {
                assert!((1..=255).contains(&name.len()), "{name:?}");
                assert!(!matches!(&name[..], b"." | b".."), "{name:?}");
                assert!(
                    !name.starts_with(b".wh.") && !name.contains(&b'/'),
                    "{name:?}"
                );
                names[child.index()] += 1;
                if names[child.index()] > 1 {
                    assert!(self.children(*child).is_none(), "a directory has two names");
                    continue;
                }
                match &self.node(*child).content {
                    Content::Directory(_) => open.push(*child),
                    Content::File { size, .. } => bytes += size,
                    _ => {}
                }
            }
        }
        for (node, names) in self.nodes.iter().zip(names) {
            assert_eq!(node.names, names);
        }
        assert_eq!(self.file_bytes(), bytes);
    }
}
