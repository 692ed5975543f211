//! Lines out of a stream of bytes, whoever sends them.

use super::protocol::MAX_LINE;

/// Puts lines together from the bytes of a conversation. One that is too long is dropped as a
/// whole, and costs no more memory than the longest that is taken.
#[derive(Default)]
pub(crate) struct Lines {
    buffer: Vec<u8>,
    /// How much of the buffer is known to hold no line's end.
    searched: usize,
    /// Whether what comes belongs to a line that was too long.
    skipping: bool,
}

impl Lines {
    /// Takes bytes, and calls `each` for every line that they complete, without its end.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        self.buffer.extend_from_slice(bytes);
        let mut begin = 0;
        while let Some(length) = self.buffer[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n')
        {
            let end = self.searched + length;
            if !std::mem::take(&mut self.skipping) && end - begin <= MAX_LINE {
                each(&self.buffer[begin..end]);
            }
            begin = end + 1;
            self.searched = begin;
        }
        self.buffer.drain(..begin);
        if self.buffer.len() > MAX_LINE {
            self.skipping = true;
            self.buffer.clear();
        }
        self.searched = self.buffer.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece, |line| all.push(String::from_utf8_lossy(line).into()));
        }
        all
    }

    #[test]
    fn lines_come_out_whole_wherever_they_are_cut() {
        assert_eq!(
            lines(&[b"one\ntw", b"", b"o", b"\n\nthree"]),
            ["one", "two", ""]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_dropped_and_the_next_is_heard() {
        let endless = vec![b'x'; MAX_LINE];
        let mut all = lines(&[&endless, &endless, &endless, b"x\nhello\n"]);
        assert_eq!(all, ["hello"]);
        all = lines(&[&endless, b"\nhello\n"]);
        assert_eq!((all[0].len(), all[1].as_str()), (MAX_LINE, "hello"));

        let mut lines = Lines::default();
        for _ in 0..100 {
            lines.push(&endless, |_| panic!("there is no line"));
        }
        assert!(lines.buffer.capacity() <= 4 * MAX_LINE);
    }
}
