//! What is said about a session on the stream that opened it (RFC 9297, section 3.2).

use crate::calls::varint;

/// The session is closed (draft-ietf-webtrans-http3, section 6).
const CLOSE: u64 = 0x2843;

/// The longest reason that a session may be closed with, in bytes, and its code.
const MOST: u64 = 1024 + 4;

/// Reads capsules as they come, and looks for the one that ends the session.
#[derive(Default)]
pub(super) struct Capsules {
    /// A head that has not ended: two integers at most.
    head: Vec<u8>,
    /// What is left of the capsule's content.
    content: u64,
    closes: bool,
}

impl Capsules {
    /// Takes bytes in. `true` when the session is closed by what came, or by what cannot be.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            let skipped = self.content.min(bytes.len() as u64);
            bytes = &bytes[usize::try_from(skipped).unwrap_or(bytes.len())..];
            self.content -= skipped;
            if self.closes && self.content == 0 {
                return true;
            }
            let Some((first, rest)) = bytes.split_first() else {
                return false;
            };
            bytes = rest;
            self.head.push(*first);
            let Some((kind, at)) = varint::read(&self.head) else {
                continue;
            };
            let Some((length, _)) = varint::read(&self.head[at..]) else {
                continue;
            };
            self.head.clear();
            self.content = length;
            self.closes = kind == CLOSE;
            if self.closes && length > MOST {
                return true;
            }
        }
    }
}

/// The capsule that closes a session with this code and these words.
pub(super) fn close(code: u32, words: &str) -> Vec<u8> {
    let mut capsule = Vec::new();
    varint::write(&mut capsule, CLOSE);
    varint::write(&mut capsule, (4 + words.len()) as u64);
    capsule.extend_from_slice(&code.to_be_bytes());
    capsule.extend_from_slice(words.as_bytes());
    capsule
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_is_found_among_others_wherever_they_are_cut() {
        let mut bytes = Vec::new();
        varint::write(&mut bytes, 0x78ae);
        varint::write(&mut bytes, 0);
        varint::write(&mut bytes, 0x17_00_00);
        varint::write(&mut bytes, 300);
        bytes.extend([0x68; 300]);
        let before = bytes.len();
        bytes.extend(close(7, "bye"));
        for cut in 1..bytes.len() {
            let mut capsules = Capsules::default();
            assert!(!capsules.push(&bytes[..cut]), "{cut}");
            assert!(capsules.push(&bytes[cut..]), "{cut}");
        }
        let mut capsules = Capsules::default();
        assert!(!capsules.push(&bytes[..before]));
    }

    #[test]
    fn a_reason_that_is_too_long_is_not_waited_for() {
        let mut bytes = Vec::new();
        varint::write(&mut bytes, CLOSE);
        varint::write(&mut bytes, MOST + 1);
        assert!(Capsules::default().push(&bytes));
    }

    #[test]
    fn a_length_that_lies_is_skipped_without_being_kept() {
        let mut bytes = Vec::new();
        varint::write(&mut bytes, 0x17);
        varint::write(&mut bytes, (1 << 62) - 1);
        let mut capsules = Capsules::default();
        for _ in 0..100 {
            assert!(!capsules.push(&bytes));
        }
        assert!(capsules.head.capacity() < 64);
    }
}
