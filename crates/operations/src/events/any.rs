//! Events of any kind from the bytes of a stream (WHATWG HTML, section 9.2.6): what a line is, and
//! which lines are an event. What an event means is not known here.

/// An event as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AnyEvent {
    /// What it calls itself; empty when it does not.
    pub kind: Vec<u8>,
    /// Its data, the lines of it with a line feed between them.
    pub data: Vec<u8>,
}

/// An event does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {limit} bytes")]
#[non_exhaustive]
pub struct TooLarge {
    /// The largest that is taken, in bytes.
    pub limit: usize,
}

/// Puts events together from the bytes of a stream.
#[derive(Debug)]
pub struct AnyEventReader {
    /// The largest event, in bytes, field names included.
    limit: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// Of the event that has not ended yet: its data, and what kind it is.
    data: Option<Vec<u8>>,
    kind: Vec<u8>,
    /// Bytes of that event so far.
    size: usize,
    /// No line has ended yet: this one may begin with a byte order mark.
    is_first: bool,
    /// The last byte was a carriage return: a line feed after it ends nothing more.
    after_return: bool,
    broken: bool,
}

impl AnyEventReader {
    /// A reader that takes events up to this size in bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: None,
            kind: Vec::new(),
            size: 0,
            is_first: true,
            after_return: false,
            broken: false,
        }
    }

    /// Takes the next bytes of the stream, and adds the events that they complete.
    ///
    /// # Errors
    /// When an event is too large, and ever after; those before it have been added.
    pub fn push(&mut self, bytes: &[u8], events: &mut Vec<AnyEvent>) -> Result<(), TooLarge> {
        let limit = self.limit;
        if self.broken {
            return Err(TooLarge { limit });
        }
        let taken = self.take(bytes, events);
        if taken.is_err() {
            *self = Self::new(limit);
            self.broken = true;
        }
        taken
    }

    fn take(&mut self, mut bytes: &[u8], events: &mut Vec<AnyEvent>) -> Result<(), TooLarge> {
        while let Some(end) = bytes.iter().position(|byte| b"\r\n".contains(byte)) {
            let is_rest = self.after_return && bytes[0] == b'\n';
            self.after_return = bytes[end] == b'\r';
            if !is_rest {
                self.grow(&bytes[..end])?;
                self.end_of_line(events);
            }
            bytes = &bytes[end + 1..];
        }
        self.after_return &= bytes.is_empty();
        self.grow(bytes)
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        self.size += bytes.len();
        if self.size > self.limit {
            return Err(TooLarge { limit: self.limit });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_of_line(&mut self, events: &mut Vec<AnyEvent>) {
        let line = std::mem::take(&mut self.line);
        let line = match std::mem::take(&mut self.is_first) {
            true => line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line),
            false => &line,
        };
        if !line.is_empty() {
            return self.field(line);
        }
        self.size = 0;
        let kind = std::mem::take(&mut self.kind);
        // An event without data is none; see the standard.
        events.extend(self.data.take().map(|data| AnyEvent { kind, data }));
    }

    /// One line of an event. Comments say that the stream lives; ids and what the standard has
    /// beside them are of no use to a program that does not resume.
    fn field(&mut self, line: &[u8]) {
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"" => self.size -= line.len(),
            b"event" => self.kind = value.to_vec(),
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                none => *none = Some(value.to_vec()),
            },
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_their_lines_end_and_are_cut() {
        let text = "\u{feff}data: one\n\n: hello\n\nid: 1\nevent: x\ndata: two\ndata:lines\n\n\
                    \u{feff}data: no\ndatabase: no\n\ndata\n\ndata: never ended\n";
        let event = |kind: &str, data: &str| AnyEvent {
            kind: kind.into(),
            data: data.into(),
        };
        let expected = [event("", "one"), event("x", "two\nlines"), event("", "")];
        for end in ["\n", "\r\n", "\r"] {
            let text = text.replace('\n', end);
            for size in 1..text.len() {
                let (mut reader, mut all) = (AnyEventReader::new(4096), Vec::new());
                for piece in text.as_bytes().chunks(size) {
                    reader.push(piece, &mut all).expect("small events");
                }
                assert_eq!(all, expected, "{end:?} in pieces of {size}");
            }
        }
    }

    #[test]
    fn an_event_that_does_not_end_is_not_collected_for_ever() {
        for piece in ["data: x", "data: x\n", "id: 1\r", "event: x\n", "x"] {
            let (mut reader, mut events) = (AnyEventReader::new(4096), Vec::new());
            let ended = (0..=4096).find_map(|_| reader.push(piece.as_bytes(), &mut events).err());
            assert_eq!(ended, Some(TooLarge { limit: 4096 }), "{piece:?}");
            assert!(reader.line.capacity() == 0 && reader.data.is_none());
            assert!(reader.push(b"\n\n", &mut events).is_err() && events.is_empty());
        }
        // Signs of life are no part of an event, however many there are before it.
        let (mut reader, mut events) = (AnyEventReader::new(64), Vec::new());
        for _ in 0..1000 {
            assert_eq!(reader.push(b": still here\n", &mut events), Ok(()));
        }
    }

    #[test]
    fn events_before_one_that_is_too_large_are_there() {
        let (mut reader, mut events) = (AnyEventReader::new(16), Vec::new());
        let pushed = reader.push(b"data: 1\n\ndata: much too large\n\n", &mut events);
        assert_eq!(pushed, Err(TooLarge { limit: 16 }));
        assert_eq!(events.len(), 1);
    }
}
