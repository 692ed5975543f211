//! The "legacy" LZ4 format, in which Debian's kernels are packed.
//!
//! A magic number, then blocks, each with its packed size before it and 8 MiB unpacked, the last
//! one less (lz4's `doc/lz4_Frame_format.md`, "Legacy frame"). The blocks themselves are undone by
//! `lz4_flex`.

const MAGIC: u32 = 0x184C_2102;
const BLOCK: usize = 8 * 1024 * 1024;

/// Packed data is damaged.
#[derive(Debug, thiserror::Error)]
#[error("damaged LZ4 data: {0}")]
pub(crate) struct Damaged(String);

/// Whether the data says that it is in this format.
pub(crate) fn is_legacy(data: &[u8]) -> bool {
    data.first_chunk()
        .is_some_and(|magic| u32::from_le_bytes(*magic) == MAGIC)
}

/// Unpacks to at most `limit` bytes.
pub(crate) fn unpack_legacy(data: &[u8], limit: usize) -> Result<Vec<u8>, Damaged> {
    let damaged = |what: &str| Damaged(what.to_owned());
    let Some(mut rest) = data.strip_prefix(&MAGIC.to_le_bytes()) else {
        return Err(damaged("no magic number"));
    };
    let mut unpacked = Vec::new();
    let mut block = vec![0; BLOCK];
    while let Some((size, after)) = rest.split_first_chunk() {
        let size = u32::from_le_bytes(*size) as usize;
        let packed = after
            .get(..size)
            .ok_or_else(|| damaged("a block is cut off"))?;
        let length = lz4_flex::block::decompress_into(packed, &mut block)
            .map_err(|error| Damaged(error.to_string()))?;
        if unpacked.len() + length > limit {
            return Err(damaged("more than there should be"));
        }
        unpacked.extend_from_slice(&block[..length]);
        rest = &after[size..];
    }
    if rest.is_empty() {
        Ok(unpacked)
    } else {
        Err(damaged("a block's size is cut off"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pack(data: &[u8], block: usize) -> Vec<u8> {
        let mut packed = MAGIC.to_le_bytes().to_vec();
        for chunk in data.chunks(block) {
            let chunk = lz4_flex::block::compress(chunk);
            packed.extend(u32::try_from(chunk.len()).unwrap().to_le_bytes());
            packed.extend(chunk);
        }
        packed
    }

    #[test]
    fn more_than_one_full_block_is_unpacked() {
        let data = vec![7; BLOCK + 1000];
        assert!(unpack_legacy(&pack(&data, BLOCK), usize::MAX).unwrap() == data);
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let data = vec![0; 1_000_000];
        assert!(unpack_legacy(&pack(&data, BLOCK), 999_999).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(crate::long::cases(64)))]
        #[test]
        fn what_was_packed_is_unpacked(
            data in prop::collection::vec(any::<u8>(), 0..5000), block in 1usize..3000,
        ) {
            let packed = pack(&data, block);
            prop_assert!(is_legacy(&packed));
            prop_assert_eq!(unpack_legacy(&packed, 5000).unwrap(), data);
        }

        #[test]
        fn damaged_data_is_an_error_and_never_a_panic(
            data in prop::collection::vec(any::<u8>(), 0..500),
        ) {
            let mut packed = MAGIC.to_le_bytes().to_vec();
            packed.extend(&data);
            let _ = unpack_legacy(&packed, 1_000_000);
        }

        #[test]
        fn data_that_is_cut_off_inside_a_block_is_an_error(
            data in prop::collection::vec(any::<u8>(), 100..500), cut in 1usize..50,
        ) {
            let packed = pack(&data, 500);
            prop_assert!(unpack_legacy(&packed[..packed.len() - cut], 5000).is_err());
        }
    }
}
