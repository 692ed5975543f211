//! Clients that write the socket's path where HTTP/2 wants a host name.
//!
//! gRPC's C core (Python, Ruby, C#, PHP), Java and Swift send the path of a Unix socket,
//! percent-encoded or not, as `:authority`. That is no authority (RFC 9113 §8.3.1), and the `h2`
//! crate resets the stream before any code of ours sees it. Nobody here reads the authority: a
//! Unix socket has no host name. So what comes in its place is replaced by `localhost`, which is
//! what gRPC itself asks for on such sockets, before `h2` reads it.
//!
//! Only the one header's value is replaced, and nothing is decoded: an HPACK block can be walked
//! without its dynamic table. The replacement is never longer than what it replaces, so of the
//! two ends' tables ours has room for all that the client's has, and an index means the same to
//! both. What cannot be walked is passed on as it is; `h2` judges it.

use std::ops::Range;

const PREFACE_BYTES: usize = 24;
/// Length (3 bytes), type, flags and stream of a frame (RFC 9113 §4.1).
const HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// A frame is this long at most unless we say otherwise (RFC 9113 §6.5.2), and we do not.
const MAX_FRAME_BYTES: usize = 16_384;
/// `:authority` in HPACK's static table, as text, and in its Huffman code (RFC 7541, A and B).
const INDEX: usize = 1;
const NAME: &[u8] = b":authority";
const CODED_NAME: &[u8] = &[0xb8, 0x3b, 0x53, 0x39, 0xec, 0x32, 0x7d, 0x7f];
const LOCALHOST: &[u8] = b"localhost";

/// Reads what a client sends, and hands on what `h2` shall read.
#[derive(Debug)]
pub(super) struct Localhost {
    /// So many bytes of the preface or of a frame concern nobody here.
    pass: usize,
    /// The head of a frame, or all of a HEADERS frame, as far as it has come.
    held: Vec<u8>,
}

impl Localhost {
    pub(super) fn new() -> Self {
        Self {
            pass: PREFACE_BYTES,
            held: Vec::new(),
        }
    }

    /// Takes the next bytes, cut anywhere, and appends what is known of the result to `out`.
    pub(super) fn mend(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            if self.pass > 0 {
                let passed = take(&mut bytes, self.pass);
                self.pass -= passed.len();
                out.extend_from_slice(passed);
                continue;
            }
            let missing = self.wanted() - self.held.len();
            let more = take(&mut bytes, missing);
            self.held.extend_from_slice(more);
            if self.held.len() < self.wanted() {
                continue;
            }
            let frame = std::mem::take(&mut self.held);
            if frame.len() == HEAD_BYTES {
                self.pass = length_of(&frame);
                out.extend_from_slice(&frame);
            } else {
                out.extend(mended(&frame).unwrap_or(frame));
            }
        }
    }

    /// How many bytes to hold before something can be said about them.
    fn wanted(&self) -> usize {
        match &self.held[..] {
            head if head.len() < HEAD_BYTES => HEAD_BYTES,
            head if head[3] == HEADERS && length_of(head) <= MAX_FRAME_BYTES => {
                HEAD_BYTES + length_of(head)
            }
            _ => HEAD_BYTES,
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8], at_most: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(at_most.min(bytes.len()));
    *bytes = rest;
    taken
}

fn length_of(head: &[u8]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

/// The HEADERS frame with another authority; `None` when there is nothing to replace.
fn mended(frame: &[u8]) -> Option<Vec<u8>> {
    let (head, payload) = frame.split_at_checked(HEAD_BYTES)?;
    let flags = head[4];
    // A block that goes on in another frame is longer than any request to a Workload API.
    if flags & END_HEADERS == 0 {
        return None;
    }
    let padded = flags & PADDED != 0;
    let padding = if padded {
        usize::from(*payload.first()?)
    } else {
        0
    };
    let begin = usize::from(padded) + if flags & PRIORITY != 0 { 5 } else { 0 };
    let end = payload.len().checked_sub(padding)?;
    let value = authority(payload.get(begin..end)?)?;
    let value = begin + value.start..begin + value.end;
    let string = replacement(&payload[value.clone()])?;

    let length = payload.len() - value.len() + string.len();
    let mut mended = Vec::with_capacity(HEAD_BYTES + length);
    mended.extend_from_slice(&u32::try_from(length).ok()?.to_be_bytes()[1..]);
    mended.extend_from_slice(&head[3..]);
    mended.extend_from_slice(&payload[..value.start]);
    mended.extend(string);
    mended.extend_from_slice(&payload[value.end..]);
    Some(mended)
}

/// `localhost`, or as much of it as is not longer than the string in its place.
fn replacement(string: &[u8]) -> Option<Vec<u8>> {
    let (text, coded, _) = self::string(string)?;
    // No code of a letter, a digit, a slash or a percent sign is longer than a byte, so a coded
    // string is at least as long as its code, give or take the padding.
    let room = text.len().saturating_sub(usize::from(coded));
    let text = &LOCALHOST[..LOCALHOST.len().min(room)];
    let length = u8::try_from(text.len()).ok()?;
    Some([&[length], text].concat())
}

/// Where in a block the authority's value stands, with its length in front (RFC 7541 §6).
fn authority(block: &[u8]) -> Option<Range<usize>> {
    let mut at = 0;
    while at < block.len() {
        let rest = &block[at..];
        let prefix = match rest[0] {
            0x80.. => 7,      // indexed: the value is in a table
            0x40..=0x7f => 6, // literal, to be put into the table
            0x20..=0x3f => 5, // the size of the table
            0x00..=0x1f => 4, // literal, not to be put there
        };
        let (index, mut used) = integer(rest, prefix)?;
        if matches!(prefix, 6 | 4) {
            let mut is_authority = index == INDEX;
            if index == 0 {
                let (name, coded, length) = string(rest.get(used..)?)?;
                is_authority = name == if coded { CODED_NAME } else { NAME };
                used += length;
            }
            let (_, _, length) = string(rest.get(used..)?)?;
            if is_authority {
                return Some(at + used..at + used + length);
            }
            used += length;
        }
        at += used;
    }
    None
}

/// A string's bytes, whether they are in Huffman code, and how many bytes all of it takes (§5.2).
fn string(bytes: &[u8]) -> Option<(&[u8], bool, usize)> {
    let (length, used) = integer(bytes, 7)?;
    let end = used.checked_add(length)?;
    Some((bytes.get(used..end)?, bytes[0] & 0x80 != 0, end))
}

/// An integer whose first byte has so many bits of it, and how many bytes it takes (§5.1).
fn integer(bytes: &[u8], prefix: u32) -> Option<(usize, usize)> {
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(*bytes.first()?) & mask;
    if value < mask {
        return Some((value, 1));
    }
    // Far beyond what a frame can hold.
    for (position, byte) in bytes.iter().enumerate().skip(1).take(3) {
        value += usize::from(byte & 0x7f) << (7 * (position - 1));
        if byte & 0x80 == 0 {
            return Some((value, position + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const PATH: &[u8] = b"run%2Fhostler%2Fapi.sock";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn text(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text].concat()
    }

    /// What comes out when all of it comes at once.
    fn mend(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        Localhost::new().mend(&[PREFACE, bytes].concat(), &mut out);
        out.split_off(PREFACE.len())
    }

    /// A block with this authority field between two others.
    fn block(field: &[u8]) -> Vec<u8> {
        let path = [&[0x44][..], &text(b"/SpiffeWorkloadAPI/FetchX509SVID")].concat();
        let own = [&[0x10][..], &text(b"workload.spiffe.io"), &text(b"true")].concat();
        [&[0x83, 0x86], &path[..], field, &own].concat()
    }

    /// The ways to write the field's name, and with what a value is longer.
    fn names() -> [Vec<u8>; 5] {
        let coded = [&[0x40, 0x88][..], CODED_NAME].concat();
        let by_name = |first| [&[first][..], &text(NAME)].concat();
        [vec![0x41], vec![0x01], by_name(0x40), by_name(0x10), coded]
    }

    #[test]
    fn a_socket_path_becomes_localhost_however_its_name_is_written() {
        for name in names() {
            let sent = frame(
                HEADERS,
                END_HEADERS,
                &block(&[&name[..], &text(PATH)].concat()),
            );
            let field = [&name[..], &text(LOCALHOST)].concat();
            assert_eq!(
                mend(&sent),
                frame(HEADERS, END_HEADERS, &block(&field)),
                "{name:x?}"
            );
        }
    }

    #[test]
    fn a_coded_path_becomes_localhost_too() {
        let coded = [&[0x41, 0x80 | 20][..], &[0x5a; 20]].concat();
        let field = [&[0x41][..], &text(LOCALHOST)].concat();
        let sent = frame(HEADERS, END_HEADERS, &block(&coded));
        assert_eq!(mend(&sent), frame(HEADERS, END_HEADERS, &block(&field)));
    }

    #[test]
    fn a_replacement_is_never_longer_so_that_no_table_overflows() {
        for (sent, expected) in [
            (&b"%"[..], &b"l"[..]),
            (b"", b""),
            (b"%2Fa%2Fbc", LOCALHOST),
        ] {
            let field = |value| block(&[&[0x41][..], &text(value)].concat());
            let sent = frame(HEADERS, END_HEADERS, &field(sent));
            assert_eq!(mend(&sent), frame(HEADERS, END_HEADERS, &field(expected)));
        }
    }

    #[test]
    fn padding_and_priority_stay_where_they_are() {
        let field = |value: &[u8]| block(&[&[0x41][..], &text(value)].concat());
        let around = |block: Vec<u8>| [&[3, 9, 9, 9, 9, 9], &block[..], &[0, 0, 0]].concat();
        let flags = END_HEADERS | PADDED | PRIORITY;
        let sent = frame(HEADERS, flags, &around(field(PATH)));
        assert_eq!(
            mend(&sent),
            frame(HEADERS, flags, &around(field(LOCALHOST)))
        );
    }

    #[test]
    fn other_frames_and_other_fields_pass_untouched() {
        let looks_like_it = [&[0x41][..], &text(PATH)].concat();
        let other = [&[0x40][..], &text(b":authoritx"), &text(PATH)].concat();
        for sent in [
            frame(0, 1, &looks_like_it),
            frame(4, 0, &[]),
            frame(HEADERS, END_HEADERS, &block(&other)),
            frame(HEADERS, END_HEADERS, &[0x82, 0xc1, 0x3f, 0x01]),
            frame(HEADERS, 0, &looks_like_it),
            frame(HEADERS, END_HEADERS | PADDED, &[200, 0x41]),
            frame(HEADERS, END_HEADERS, &[0x41, 0x7f]),
        ] {
            assert_eq!(mend(&sent), sent, "{sent:x?}");
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_are_cut(
            frames in prop::collection::vec((0_u8..10, any::<u8>(), 0_usize..40), 1..6),
            cuts in prop::collection::vec(1_usize..30, 1..40),
        ) {
            let field = block(&[&[0x41][..], &text(PATH)].concat());
            let sent: Vec<u8> = frames
                .iter()
                .flat_map(|(kind, flags, length)| match kind {
                    0..6 => frame(HEADERS, END_HEADERS, &field),
                    kind => frame(*kind, *flags, &vec![0x41; *length]),
                })
                .collect();
            let (mut localhost, mut out) = (Localhost::new(), Vec::new());
            let all = [PREFACE, &sent].concat();
            let mut rest = &all[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                localhost.mend(take(&mut rest, *cut), &mut out);
            }
            prop_assert_eq!(&out[PREFACE.len()..], mend(&sent));
        }

        #[test]
        fn nothing_that_can_be_sent_panics_or_gets_lost(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let mut framed = frame(HEADERS, END_HEADERS, &bytes);
            framed.extend(frame(6, 0, &bytes));
            let out = mend(&framed);
            prop_assert!(out.ends_with(&frame(6, 0, &bytes)));
            prop_assert!(out.len() <= framed.len());
            mend(&bytes);
        }
    }
}
