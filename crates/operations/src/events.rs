//! Writing the outputs of a subscription to an event stream, and reading them from one (WHATWG HTML, section 9.2), as our
//! doors have it: each output is an event whose `data` is JSON, a failure is `event: error` with
//! an [`ErrorObject`].
//!
//! The reader has no socket: bytes go in as they arrive, outputs come out. Whoever sends the bytes
//! is not trusted to end its lines, so an event has a largest size; what is no event of ours is an
//! error, and the reader takes nothing more after it.
//!
//! ```
//! use hostler_operations::{EventReader, StreamItem};
//!
//! let mut reader = EventReader::new(1024);
//! assert!(reader.push(b": still here\n\nid: 1\nda").unwrap().is_empty());
//! let items = reader.push(b"ta: {\"step\":1}\n\n").unwrap();
//! assert!(matches!(&items[..], [StreamItem::Output(step)] if step["step"] == 1));
//! ```

use serde_json::Value;

use crate::error::ErrorObject;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StreamItem {
    /// An output of the subscription.
    Output(Value),
    /// Why the subscription failed; nothing follows.
    Failed(ErrorObject),
}

/// One event. An output's `id` is this number; a failure has none, so that a reader who comes back
/// goes on after the last output and misses nothing (WHATWG HTML, section 9.2.6: without an `id` the
/// last one stays). JSON holds no line break outside of its strings and escapes those inside, so its
/// data is one line.
#[must_use]
pub fn write_event(id: u64, item: &StreamItem) -> String {
    match item {
        StreamItem::Output(output) => format!("id: {id}\ndata: {output}\n\n"),
        StreamItem::Failed(error) => {
            // A struct of strings and JSON always serializes; an empty object would still be JSON.
            let told = serde_json::to_string(error).unwrap_or_else(|_| "{}".to_owned());
            format!("event: error\ndata: {told}\n\n")
        }
    }
}

/// What came is no event stream of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// An event does not end.
    #[error("an event is larger than {limit} bytes")]
    TooLarge {
        /// The largest that is taken, in bytes.
        limit: usize,
    },
    /// An event's data is not what it should be.
    #[error("an event's data is not JSON of its kind: {reason}")]
    Data {
        /// What is wrong with it.
        reason: String,
    },
    /// An event of a kind that nobody declared.
    #[error("there is no event of the kind {kind:?}")]
    Kind {
        /// What it calls itself.
        kind: String,
    },
}

/// Puts events together from the bytes of a stream.
#[derive(Debug)]
pub struct EventReader {
    /// The largest event, in bytes, field names included.
    limit: usize,
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// Of the event that has not ended yet: its data, and what kind it is.
    data: Option<Vec<u8>>,
    kind: Vec<u8>,
    /// Bytes of that event so far.
    size: usize,
    broken: Option<EventError>,
}

impl EventReader {
    /// A reader that takes events up to this size in bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            data: None,
            kind: Vec::new(),
            size: 0,
            broken: None,
        }
    }

    /// Takes the next bytes of the stream, and gives the events that they complete.
    ///
    /// # Errors
    /// When the bytes are no event stream of ours; events before that are lost with it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<StreamItem>, EventError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        let taken = self.take(bytes);
        if let Err(broken) = &taken {
            self.broken = Some(broken.clone());
            self.line = Vec::new();
            self.data = None;
        }
        taken
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<Vec<StreamItem>, EventError> {
        let mut items = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.grow(&bytes[..end])?;
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            let line = line.strip_suffix(b"\r").unwrap_or(&line);
            if line.is_empty() {
                items.extend(self.complete()?);
            } else {
                self.field(line);
            }
        }
        self.grow(bytes)?;
        Ok(items)
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), EventError> {
        self.size += bytes.len();
        if self.size > self.limit {
            return Err(EventError::TooLarge { limit: self.limit });
        }
        self.line.extend_from_slice(bytes);
        Ok(())
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

    fn complete(&mut self) -> Result<Option<StreamItem>, EventError> {
        self.size = 0;
        let kind = std::mem::take(&mut self.kind);
        // An event without data is none; see the standard.
        let Some(data) = self.data.take() else {
            return Ok(None);
        };
        let wrong = |error: serde_json::Error| EventError::Data {
            reason: error.to_string(),
        };
        match kind.as_slice() {
            b"" | b"message" => {
                let output = serde_json::from_slice(&data).map_err(wrong)?;
                Ok(Some(StreamItem::Output(output)))
            }
            b"error" => {
                let error = serde_json::from_slice(&data).map_err(wrong)?;
                Ok(Some(StreamItem::Failed(error)))
            }
            other => Err(EventError::Kind {
                kind: String::from_utf8_lossy(other).chars().take(64).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Vec<StreamItem>, EventError> {
        EventReader::new(4096).push(text.as_bytes())
    }

    #[test]
    fn outputs_and_the_error_that_ends_them_are_understood() {
        let text = ": still here\n\nid: 1\ndata: {\"a\":1}\n\nid: 2\nevent: error\ndata: \
                    {\"code\":\"TIMEOUT\",\"message\":\"late\",\"retryable\":true}\n\n";
        let items = read(text).expect("events");
        let [StreamItem::Output(output), StreamItem::Failed(error)] = &items[..] else {
            panic!("{items:?}");
        };
        assert_eq!(*output, json!({"a": 1}));
        assert_eq!((error.code.as_str(), error.retryable), ("TIMEOUT", true));
    }

    #[test]
    fn every_form_that_the_standard_allows_is_taken() {
        let one = vec![StreamItem::Output(json!([1, 2]))];
        assert_eq!(read("data:[1,\ndata:2]\n\n"), Ok(one.clone()));
        assert_eq!(read("event: message\r\ndata: [1,2]\r\n\r\n"), Ok(one));
        assert_eq!(read("retry: 5\nid\n\nevent: nothing\n\n"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_event_of_ours_ends_the_reading() {
        let mut reader = EventReader::new(4096);
        let wrong = reader.push(b"data: {\n\n").expect_err("half JSON");
        assert!(matches!(wrong, EventError::Data { .. }));
        assert_eq!(reader.push(b"data: 1\n\n"), Err(wrong));
        let strange = read("event: party\ndata: 1\n\n").expect_err("a strange kind");
        assert!(matches!(strange, EventError::Kind { kind } if kind == "party"));
    }

    #[test]
    fn an_event_that_does_not_end_is_not_collected_for_ever() {
        for piece in ["data: x", "data: x\n", "id: 1\n", "event: x\n", "x"] {
            let mut reader = EventReader::new(4096);
            let ended = (0..=4096).find_map(|_| reader.push(piece.as_bytes()).err());
            assert_eq!(
                ended,
                Some(EventError::TooLarge { limit: 4096 }),
                "{piece:?}"
            );
            assert!(reader.line.capacity() == 0 && reader.data.is_none());
        }
        // Signs of life are no part of an event, however many there are before it.
        let mut reader = EventReader::new(64);
        for _ in 0..1000 {
            assert_eq!(reader.push(b": still here\n"), Ok(Vec::new()));
        }
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_the_stream_is_cut(
            values in prop::collection::vec("[^\u{0}]{0,40}", 0..8),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let text: String = values
                .iter()
                .enumerate()
                .map(|(id, value)| format!("id: {id}\ndata: {}\n\n", json!(value)))
                .collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let mut reader = EventReader::new(4096);
            let mut read = Vec::new();
            for piece in cuts.windows(2) {
                read.extend(reader.push(&text.as_bytes()[piece[0]..piece[1]]).expect("events"));
            }
            let expected: Vec<_> = values.iter().map(|v| StreamItem::Output(json!(v))).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn whatever_comes_panics_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = EventReader::new(100).push(&bytes);
        }
    }
}
