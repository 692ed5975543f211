//! Unpacking: gzip, zstd or nothing, told by the first bytes. What it costs is bounded: a window of
//! 8 MiB is what every zstd decoder has to have (RFC 8878, section 3.1.1.1.2), and more is refused.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

const MAX_WINDOW: u64 = 8 << 20;
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A stream that unpacks itself.
pub(super) enum Unpacked<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(Zstd<R>),
}

impl<R: BufRead> Unpacked<R> {
    pub(super) fn open(mut raw: R) -> io::Result<Self> {
        let head = raw.fill_buf()?;
        let is_unknown = |magic: &[u8]| head.starts_with(magic);
        if head.starts_with(&[0x1f, 0x8b]) {
            return Ok(Self::Gzip(Box::new(MultiGzDecoder::new(raw))));
        }
        if head.starts_with(&ZSTD_MAGIC) || is_skippable(head) {
            return Ok(Self::Zstd(Zstd::Between(Some(raw))));
        }
        if is_unknown(b"\xfd7zXZ\0") || is_unknown(b"BZh") {
            return Err(invalid(
                "it is packed by xz or bzip2; unpack it, or pack it by gzip or zstd",
            ));
        }
        Ok(Self::Plain(raw))
    }

    /// What is beneath, wherever it is; `None` after an error.
    pub(super) fn into_raw(self) -> Option<R> {
        match self {
            Self::Plain(raw) => Some(raw),
            Self::Gzip(gzip) => Some(gzip.into_inner()),
            Self::Zstd(zstd) => zstd.into_raw(),
        }
    }
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(raw) => raw.read(buffer),
            Self::Gzip(gzip) => gzip.read(buffer),
            Self::Zstd(zstd) => zstd.read(buffer),
        }
    }
}

type Frame<R> = StreamingDecoder<io::Chain<io::Cursor<Vec<u8>>, R>, FrameDecoder>;

/// Frames of zstd, one after the other, with such between them that are to be skipped.
pub(super) enum Zstd<R: BufRead> {
    /// Without anything beneath when the next frame could not be opened.
    Between(Option<R>),
    Within(Box<Frame<R>>),
}

impl<R: BufRead> Zstd<R> {
    fn into_raw(self) -> Option<R> {
        match self {
            Self::Between(raw) => raw,
            Self::Within(frame) => Some(frame.into_inner().into_inner().1),
        }
    }

    /// Opens the next frame; `false` at the end.
    fn open_next(&mut self) -> io::Result<bool> {
        let Self::Between(between) = self else {
            return Ok(true);
        };
        let Some(raw) = between else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let header = loop {
            if raw.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let mut magic = [0; 4];
            raw.read_exact(&mut magic)?;
            if !is_skippable(&magic) {
                break header(raw, magic)?;
            }
            let mut length = [0; 4];
            raw.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            if io::copy(&mut raw.by_ref().take(length), &mut io::sink())? != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        if let Some(raw) = between.take() {
            let frame = StreamingDecoder::new(io::Cursor::new(header).chain(raw));
            *self = Self::Within(Box::new(frame.map_err(|error| invalid(error.to_string()))?));
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.open_next()? {
            let Self::Within(frame) = self else {
                continue;
            };
            let count = frame.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            if let Self::Within(frame) = std::mem::replace(self, Self::Between(None)) {
                *self = Self::Between(Some(frame.into_inner().into_inner().1));
            }
        }
        Ok(0)
    }
}

fn is_skippable(head: &[u8]) -> bool {
    head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18]
}

/// Reads the header of a frame and refuses one that asks for a large window.
fn header(raw: &mut impl Read, magic: [u8; 4]) -> io::Result<Vec<u8>> {
    if magic != ZSTD_MAGIC {
        return Err(invalid("something follows its last frame"));
    }
    let mut descriptor = [0];
    raw.read_exact(&mut descriptor)?;
    let flags = descriptor[0];
    let is_single = flags & 0x20 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(flags & 3)];
    let content_size = match flags >> 6 {
        0 => usize::from(is_single),
        size => 1 << size,
    };
    let window = usize::from(!is_single);
    let mut fields = vec![0; window + dictionary + content_size];
    raw.read_exact(&mut fields)?;
    let needed = if is_single {
        let mut number = [0; 8];
        number[..content_size].copy_from_slice(&fields[window + dictionary..]);
        u64::from_le_bytes(number)
    } else {
        let base = 1u64 << (10 + (fields[0] >> 3));
        base + base / 8 * u64::from(fields[0] & 7)
    };
    if needed > MAX_WINDOW {
        return Err(invalid(
            "it was packed by zstd with a window of more than 8 MiB; pack it anew without --long and --ultra",
        ));
    }
    Ok([&magic[..], &descriptor, &fields].concat())
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn unpack(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        Unpacked::open(packed)?
            .take(1 << 24)
            .read_to_end(&mut plain)?;
        Ok(plain)
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest)
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(data).unwrap();
        gzip.finish().unwrap()
    }

    #[test]
    fn several_members_and_frames_are_one_stream() {
        assert_eq!(unpack(b"plain").unwrap(), b"plain");
        assert_eq!(
            unpack(&[gzip(b"one"), gzip(b"two")].concat()).unwrap(),
            b"onetwo"
        );
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
        let frames = [skipped.clone(), zstd(b"one"), skipped, zstd(b"two")].concat();
        assert_eq!(unpack(&frames).unwrap(), b"onetwo");
    }

    #[test]
    fn a_cut_off_stream_is_an_error_and_so_is_a_large_window() {
        for packed in [gzip(&[7; 5000]), zstd(&[7; 5000])] {
            assert!(unpack(&packed[..packed.len() - 3]).is_err());
        }
        // Window descriptor 0xa8: an exponent of 21, which is 2 GiB.
        let large = [&ZSTD_MAGIC[..], &[0x00, 0xa8, 1, 0, 0]].concat();
        let error = unpack(&large).unwrap_err();
        assert!(error.to_string().contains("8 MiB"), "{error}");
        assert!(
            unpack(b"\xfd7zXZ\0rest")
                .unwrap_err()
                .to_string()
                .contains("xz")
        );
    }

    proptest! {
        #[test]
        fn no_stream_is_too_strange_to_be_refused(
            mut packed in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4,
        ) {
            match kind {
                0 => packed.splice(0..0, ZSTD_MAGIC).for_each(drop),
                1 => packed.splice(0..0, [0x1f, 0x8b, 8, 0]).for_each(drop),
                2 => {
                    let mut damaged = zstd(&packed);
                    let at = packed.len() % damaged.len();
                    damaged[at] ^= 0x40;
                    packed = damaged;
                }
                _ => {}
            }
            let _ = unpack(&packed);
        }
    }
}
