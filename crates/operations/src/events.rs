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

mod any;

use serde_json::Value;

pub use any::{AnyEvent, AnyEventReader, TooLarge};

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

/// Puts outputs together from the bytes of a stream of ours.
#[derive(Debug)]
pub struct EventReader {
    events: AnyEventReader,
    broken: Option<EventError>,
}

impl EventReader {
    /// A reader that takes events up to this size in bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            events: AnyEventReader::new(limit),
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
        self.broken = taken.as_ref().err().cloned();
        taken
    }

    fn take(&mut self, bytes: &[u8]) -> Result<Vec<StreamItem>, EventError> {
        let mut events = Vec::new();
        let read = self.events.push(bytes, &mut events);
        let items = events.iter().map(item).collect::<Result<_, _>>()?;
        read.map_err(|TooLarge { limit }| EventError::TooLarge { limit })?;
        Ok(items)
    }
}

fn item(event: &AnyEvent) -> Result<StreamItem, EventError> {
    let wrong = |error: serde_json::Error| EventError::Data {
        reason: error.to_string(),
    };
    match event.kind.as_slice() {
        b"" | b"message" => {
            let output = serde_json::from_slice(&event.data).map_err(wrong)?;
            Ok(StreamItem::Output(output))
        }
        b"error" => {
            let error = serde_json::from_slice(&event.data).map_err(wrong)?;
            Ok(StreamItem::Failed(error))
        }
        other => Err(EventError::Kind {
            kind: String::from_utf8_lossy(other).chars().take(64).collect(),
        }),
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
    fn an_event_that_is_too_large_ends_the_reading() {
        let mut reader = EventReader::new(16);
        let large = reader.push(b"data: \"much too large\"");
        assert_eq!(large, Err(EventError::TooLarge { limit: 16 }));
        assert_eq!(reader.push(b"\n\ndata: 1\n\n"), large);
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
