//! One header block of 512 bytes.

use super::pax::Extended;
use super::{Entry, Kind, MAX_PATH, TarError};

pub(super) const BLOCK: usize = 512;
/// No file has more bytes: sums of such sizes are still numbers.
const MAX_SIZE: u64 = 1 << 60;
pub(super) const NO_ARCHIVE: &str = "it is no tar archive, or a header in it is damaged";

/// The fields of a header (POSIX.1-2017, pax, "ustar Interchange Format").
#[derive(Debug)]
pub(super) struct Header {
    path: Vec<u8>,
    link: Vec<u8>,
    mode: u64,
    uid: u64,
    gid: u64,
    mtime: i64,
    device: (u64, u64),
    pub(super) size: u64,
    pub(super) kind: u8,
}

impl Header {
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, TarError> {
        let sum = block.iter().enumerate().map(|(at, &byte)| {
            // The sum is made with spaces in its own place.
            if (148..156).contains(&at) {
                32
            } else {
                u64::from(byte)
            }
        });
        if number(&block[148..156]).ok() != Some(sum.sum::<u64>()) {
            return Err(TarError::Broken(NO_ARCHIVE));
        }
        let is_ustar = block[257..262] == *b"ustar";
        let mut path = text(&block[..100]);
        // GNU's older form has other things where ustar has the front of a long path.
        if is_ustar && block[262] == 0 {
            let front = text(&block[345..500]);
            if !front.is_empty() {
                path = [front, b"/".to_vec(), path].concat();
            }
        }
        let device = if is_ustar {
            (number(&block[329..337])?, number(&block[337..345])?)
        } else {
            (0, 0)
        };
        Ok(Self {
            path,
            link: text(&block[157..257]),
            mode: number(&block[100..108])?,
            uid: number(&block[108..116])?,
            gid: number(&block[116..124])?,
            size: sane_size(number(&block[124..136])?)?,
            mtime: time(&block[136..148])?,
            device,
            kind: block[156],
        })
    }

    /// Whether it is no entry by itself, but says something of the next one or of all.
    pub(super) fn describes(&self) -> bool {
        matches!(self.kind, b'x' | b'g' | b'L' | b'K' | b'V')
    }

    /// The entry that this header and the extended ones before it describe.
    pub(super) fn entry(self, extended: Extended) -> Result<Entry, TarError> {
        let path = extended.path.unwrap_or(self.path);
        let link = extended.link.unwrap_or(self.link);
        let too_long = |name: &[u8]| name.len() as u64 > MAX_PATH || name.contains(&0);
        if too_long(&path) || too_long(&link) {
            return Err(TarError::Broken(
                "a name in it is too long, or has a zero in it",
            ));
        }
        let small = |value: u64| {
            u32::try_from(value).map_err(|_| TarError::Broken("a number in it is too large"))
        };
        let device = || Ok::<_, TarError>((small(self.device.0)?, small(self.device.1)?));
        let kind = match self.kind {
            // Before POSIX, a directory was a file whose name ends with a slash.
            b'0' | 0 | b'7' if path.ends_with(b"/") => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => device().map(|(major, minor)| Kind::CharacterDevice(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::BlockDevice(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => return Err(TarError::Unsupported("sparse files")),
            _ => return Err(TarError::Unsupported("entries of an unknown kind")),
        };
        let size = match kind {
            Kind::File => sane_size(extended.size.unwrap_or(self.size))?,
            _ => 0,
        };
        Ok(Entry {
            path,
            kind,
            mode: (self.mode & 0o7777) as u16,
            uid: small(extended.uid.unwrap_or(self.uid))?,
            gid: small(extended.gid.unwrap_or(self.gid))?,
            mtime: extended.mtime.unwrap_or(self.mtime),
            size,
            xattrs: extended.xattrs.into_iter().collect(),
        })
    }
}

fn sane_size(size: u64) -> Result<u64, TarError> {
    if size > MAX_SIZE {
        return Err(TarError::Broken("a file in it is too large"));
    }
    Ok(size)
}

/// A text that ends at a zero or with its field.
fn text(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    field[..end].to_vec()
}

/// A number: octal digits, or (GNU) the rest of the field as a big-endian number.
fn number(field: &[u8]) -> Result<u64, TarError> {
    let broken = || TarError::Broken("a number in one of its headers is none");
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len().saturating_sub(8));
        let negative_or_large = match high {
            [] => return Err(broken()),
            [first, rest @ ..] => first & 0x7f != 0 || rest.iter().any(|&b| b != 0),
        };
        if field.len() == 8 {
            // The marking bit is in the number itself.
            let mut bytes: [u8; 8] = field.try_into().map_err(|_| broken())?;
            bytes[0] &= 0x7f;
            return Ok(u64::from_be_bytes(bytes));
        }
        if negative_or_large {
            return Err(broken());
        }
        return Ok(u64::from_be_bytes(low.try_into().map_err(|_| broken())?));
    }
    let digits = field
        .iter()
        .copied()
        .skip_while(|&b| b == b' ')
        .take_while(|&b| b != 0 && b != b' ');
    let mut value: u64 = 0;
    for digit in digits {
        if !(b'0'..=b'7').contains(&digit) || value >> 61 != 0 {
            return Err(broken());
        }
        value = value << 3 | u64::from(digit - b'0');
    }
    Ok(value)
}

/// A time, which (GNU) may be before 1970.
fn time(field: &[u8]) -> Result<i64, TarError> {
    if field[0] == 0xff {
        let low: [u8; 8] = field[4..].try_into().unwrap_or_default();
        return Ok(i64::from_be_bytes(low));
    }
    i64::try_from(number(field)?).map_err(|_| TarError::Broken("a time in it is none"))
}
