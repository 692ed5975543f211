//! Integers of variable length (RFC 9000, section 16).

/// How many bytes the integer has that begins with this one.
pub(crate) fn length(first: u8) -> usize {
    1 << (first >> 6)
}

/// Reads an integer, and says how many bytes it had. `None` when not all of it is there.
pub(crate) fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let (first, _) = bytes.split_first()?;
    let length = length(*first);
    let rest = bytes.get(1..length)?;
    let high = u64::from(first & 0x3f);
    let value = rest
        .iter()
        .fold(high, |value, byte| value << 8 | u64::from(*byte));
    Some((value, length))
}

/// Writes an integer below 2^62 in as few bytes as it fits in.
pub(crate) fn write(into: &mut Vec<u8>, value: u64) {
    debug_assert!(value < 1 << 62);
    let bytes = value.to_be_bytes();
    let (length, tag) = match value {
        ..0x40 => (1, 0x00),
        0x40..0x4000 => (2, 0x40),
        0x4000..0x4000_0000 => (4, 0x80),
        _ => (8, 0xc0),
    };
    let begin = into.len();
    into.extend_from_slice(&bytes[bytes.len() - length..]);
    into[begin] |= tag;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_examples_of_the_standard_are_read() {
        // RFC 9000, appendix A.1.
        for (bytes, value) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ] {
            assert_eq!(read(bytes), Some((value, bytes.len())));
            assert_eq!(read(&bytes[..bytes.len() - 1]), None);
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(shift in 0u32..62, bits in 0u64..1 << 62) {
            let value = bits >> shift;
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            prop_assert_eq!(read(&bytes), Some((value, bytes.len())));
        }
    }
}
