//! Extended attributes: in the inode where they fit, else in one block of their own.
//!
//! The kernel knows names by a number for the namespace and the rest (`fs/ext4/xattr.h`), and
//! keeps access control lists in a form of its own (`fs/ext4/acl.h`).

use super::PlaceError;
use super::geometry::{BLOCK, INODE, put, u16_at, u32_at};
use super::inode::ATTRIBUTES;

const MAGIC: u32 = 0xea02_0000;
/// The header of a block with attributes.
const BLOCK_HEADER: usize = 32;
const ENTRY: usize = 16;

type Attribute = (Vec<u8>, Vec<u8>);

/// An attribute as the disk has it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stored<'a> {
    // In the order by which the kernel sorts.
    namespace: u8,
    name_len: usize,
    name: &'a [u8],
    value: Vec<u8>,
}

impl Stored<'_> {
    fn entry_len(&self) -> usize {
        ENTRY + self.name.len().next_multiple_of(4)
    }

    /// `ext4_xattr_hash_entry`.
    fn hash(&self) -> u32 {
        let name = self
            .name
            .iter()
            .fold(0u32, |hash, &byte| hash << 5 ^ hash >> 27 ^ u32::from(byte));
        let mut value = self.value.clone();
        value.resize(value.len().next_multiple_of(4), 0);
        value
            .chunks_exact(4)
            .fold(name, |hash, word| hash << 16 ^ hash >> 16 ^ u32_at(word, 0))
    }
}

/// The attributes that a file system keeps; what belongs to none of its namespaces is left out.
fn stored(attributes: &[Attribute]) -> Vec<Stored<'_>> {
    let mut all: Vec<_> = attributes
        .iter()
        .filter_map(|(name, value)| {
            let (namespace, name, value) = if name == b"system.posix_acl_access" {
                (2, &b""[..], acl(value)?)
            } else if name == b"system.posix_acl_default" {
                (3, &b""[..], acl(value)?)
            } else {
                let namespaces: [(&[u8], u8); 3] =
                    [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
                namespaces.into_iter().find_map(|(prefix, number)| {
                    let rest = name.strip_prefix(prefix)?;
                    (!rest.is_empty()).then(|| (number, rest, value.clone()))
                })?
            };
            Some(Stored {
                namespace,
                name_len: name.len(),
                name,
                value,
            })
        })
        .collect();
    all.sort();
    all
}

/// An access control list in the disk's form: entries for the owner and others have no id there.
fn acl(value: &[u8]) -> Option<Vec<u8>> {
    const USER: u16 = 2;
    const GROUP: u16 = 8;
    let (version, entries) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let mut list = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(8) {
        let with_id = [USER, GROUP].contains(&u16_at(entry, 0));
        list.extend(&entry[..if with_id { 8 } else { 4 }]);
    }
    Some(list)
}

/// Writes entries from the front of `area` and their values from its end; `base` is what offsets
/// of values count from. `None` when they do not fit.
fn lay_out(all: &[Stored<'_>], area: &mut [u8], base: usize, hashed: bool) -> Option<()> {
    let entries: usize = all.iter().map(Stored::entry_len).sum();
    let values = |s: &Stored<'_>| s.value.len().next_multiple_of(4);
    // Four zeros end the entries.
    if entries + 4 + all.iter().map(values).sum::<usize>() > area.len() {
        return None;
    }
    let (mut front, mut end) = (0, area.len());
    for one in all {
        area[front] = u8::try_from(one.name.len()).ok()?;
        area[front + 1] = one.namespace;
        if !one.value.is_empty() {
            end -= values(one);
            put(area, end, &one.value);
            put(
                area,
                front + 2,
                &u16::try_from(end + base).ok()?.to_le_bytes(),
            );
        }
        put(area, front + 8, &(one.value.len() as u32).to_le_bytes());
        if hashed {
            put(area, front + 12, &one.hash().to_le_bytes());
        }
        put(area, front + ENTRY, one.name);
        front += one.entry_len();
    }
    Some(())
}

/// The end of an inode with these attributes; `None` when there are none or they do not fit.
pub(super) fn in_inode(attributes: &[Attribute]) -> Option<[u8; INODE - ATTRIBUTES]> {
    let all = stored(attributes);
    if all.is_empty() {
        return None;
    }
    let mut bytes = [0; INODE - ATTRIBUTES];
    put(&mut bytes, 0, &MAGIC.to_le_bytes());
    lay_out(&all, &mut bytes[4..], 0, false)?;
    Some(bytes)
}

/// A block with these attributes; `None` when there are none or the inode has room for them.
pub(super) fn in_block(attributes: &[Attribute]) -> Result<Option<Vec<u8>>, PlaceError> {
    let all = stored(attributes);
    if all.is_empty() || in_inode(attributes).is_some() {
        return Ok(None);
    }
    let mut block = vec![0; BLOCK];
    put(&mut block, 0, &MAGIC.to_le_bytes());
    // One user of the block, one block.
    put(&mut block, 4, &1u32.to_le_bytes());
    put(&mut block, 8, &1u32.to_le_bytes());
    let hash = all
        .iter()
        .fold(0u32, |hash, one| hash << 16 ^ hash >> 16 ^ one.hash());
    put(&mut block, 12, &hash.to_le_bytes());
    lay_out(&all, &mut block[BLOCK_HEADER..], BLOCK_HEADER, true).ok_or(PlaceError::Attributes)?;
    Ok(Some(block))
}
