//! Extended headers: records of the form `LENGTH KEY=VALUE\n` (POSIX.1-2017, pax).

use std::collections::BTreeMap;

use super::TarError;

/// The most attributes of one entry: more than any file system keeps.
const MAX_ATTRIBUTES: usize = 1024;

/// What extended headers say about the entry that follows them.
#[derive(Debug, Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<i64>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Extended {
    /// Adds the records of one header.
    pub(super) fn merge(&mut self, mut text: &[u8]) -> Result<(), TarError> {
        while !text.is_empty() {
            let (key, value, rest) =
                record(text).ok_or(TarError::Broken("one of its extended headers is damaged"))?;
            text = rest;
            self.set(key, value)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value)?),
            b"uid" => self.uid = Some(number(value)?),
            b"gid" => self.gid = Some(number(value)?),
            b"mtime" => self.mtime = Some(seconds(value)?),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err(TarError::Unsupported("sparse files"));
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                    if self.xattrs.len() > MAX_ATTRIBUTES {
                        return Err(TarError::Broken("a file in it has too many attributes"));
                    }
                }
            }
        }
        Ok(())
    }
}

/// The first record: key, value, and what follows it.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(20).position(|&b| b == b' ')?;
    let length: usize = std::str::from_utf8(&text[..space]).ok()?.parse().ok()?;
    let (record, rest) = text.split_at_checked(length)?;
    let body = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&b| b == b'=')?;
    Some((&body[..equals], &body[equals + 1..], rest))
}

fn number(value: &[u8]) -> Result<u64, TarError> {
    let text = std::str::from_utf8(value).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or(TarError::Broken("a number in an extended header is none"))
}

/// A time in seconds, of which the fraction is dropped.
fn seconds(value: &[u8]) -> Result<i64, TarError> {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let whole = text.split('.').next().unwrap_or_default();
    whole
        .parse()
        .map_err(|_| TarError::Broken("a time in an extended header is none"))
}
