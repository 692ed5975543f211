//! Frames: where one message ends and the next begins.
//!
//! What was announced is not believed: memory grows with the bytes that came, never with the
//! length that a frame says it has.

use super::envelope::{Envelope, EnvelopeError};
use crate::weight::weight;

/// The largest frame, in bytes, without its length.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

const LENGTH_BYTES: usize = 4;

/// A buffer that has held a large frame is not kept for the small ones that follow.
const KEPT_BYTES: usize = 64 << 10;

/// Why a stream cannot be read any further. It ends; its connection and the process live on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It is many values, which would take more memory than any frame may.
    #[error("a frame of so many values would take {weight} bytes of memory; send less at once")]
    TooHeavy {
        /// How much, in bytes.
        weight: usize,
    },
    /// The frame says that it is larger than any may be.
    #[error("a frame of {announced} bytes is announced; at most {MAX_FRAME_BYTES} are taken")]
    TooLarge {
        /// Its length, as it says.
        announced: usize,
    },
    /// Its bytes are no envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
}

/// Writes an envelope as a frame.
///
/// # Errors
/// [`FrameError::TooLarge`] when it does not fit into one.
pub fn encode(envelope: &Envelope) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; LENGTH_BYTES];
    envelope.write(&mut frame);
    let length = frame.len() - LENGTH_BYTES;
    match u32::try_from(length) {
        Ok(announced) if length <= MAX_FRAME_BYTES => {
            frame[..LENGTH_BYTES].copy_from_slice(&announced.to_be_bytes());
            Ok(frame)
        }
        _ => Err(FrameError::TooLarge { announced: length }),
    }
}

/// How much memory what a frame says may take, in bytes. It is read before it is known who says it.
const MAX_FRAME_WEIGHT: usize = 2 * MAX_FRAME_BYTES;

/// Reads the frames of one stream, however its bytes are cut into pieces.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// What of the buffer was read already.
    read: usize,
    failed: bool,
    /// What the frame weighs that is the next and has come whole.
    weight: Option<usize>,
}

impl FrameDecoder {
    /// Takes bytes in, as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed {
            return;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Gives back the room of what was read. It is done as soon as it was, and not when more comes:
    /// who sends a large frame and then nothing holds no memory with it.
    fn tidy(&mut self) {
        if self.read == self.buffer.len() {
            self.buffer.clear();
        } else if self.read > KEPT_BYTES {
            self.buffer.drain(..self.read);
        } else {
            return;
        }
        self.read = 0;
        self.buffer.shrink_to(KEPT_BYTES);
    }

    /// The next envelope, when all of it has come.
    ///
    /// # Errors
    /// [`FrameError`]; nothing more is read from this stream then.
    pub fn poll(&mut self) -> Result<Option<Envelope>, FrameError> {
        if self.failed {
            return Ok(None);
        }
        let read = self.next();
        self.failed = read.is_err();
        read
    }

    fn next(&mut self) -> Result<Option<Envelope>, FrameError> {
        let Some(body) = self.body()? else {
            return Ok(None);
        };
        let weight = self.weight.unwrap_or_else(|| weight(body));
        if weight > MAX_FRAME_WEIGHT {
            return Err(FrameError::TooHeavy { weight });
        }
        let envelope = Envelope::read(body)?;
        self.read += LENGTH_BYTES + body.len();
        self.weight = None;
        self.tidy();
        Ok(Some(envelope))
    }

    /// The next frame, when all of it has come.
    fn body(&self) -> Result<Option<&[u8]>, FrameError> {
        let waiting = &self.buffer[self.read..];
        let Some((length, rest)) = waiting.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(*length) as usize;
        if announced > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge { announced });
        }
        Ok(rest.get(..announced))
    }

    /// About how much memory the next envelope will take, in bytes, and how much will be
    /// [waiting](Self::waiting) behind it; `None` unless all of it has come.
    pub fn weigh(&mut self) -> Option<(usize, usize)> {
        let body = self.body().ok()??;
        let behind = self.waiting() - LENGTH_BYTES - body.len();
        let weight = self.weight.unwrap_or_else(|| weight(body));
        self.weight = Some(weight);
        Some((weight, behind))
    }

    /// The bytes that came and belong to no envelope that was handed out.
    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.read
    }

    /// Tells it that no more bytes will come.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] when they end within a frame.
    pub fn finish(self) -> Result<(), FrameError> {
        match self.failed || self.read == self.buffer.len() {
            true => Ok(()),
            false => Err(FrameError::Truncated),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::envelope::{AuthToken, CallId, Message};
    use super::*;
    use crate::error::ErrorObject;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let token = prop::option::of("[a-z0-9]{1,12}");
        prop_oneof![
            (".{0,30}", value(), token).prop_map(|(operation, input, token)| Message::Requested {
                operation,
                input,
                auth_token: token.map(AuthToken::new),
            }),
            value().prop_map(|output| Message::Responded { output }),
            Just(Message::Completed),
            Just(Message::Aborted),
            (
                "[A-Z_]{1,12}",
                ".{0,20}",
                any::<bool>(),
                prop::option::of(value())
            )
                .prop_map(|(code, message, retryable, details)| Message::Error(
                    ErrorObject {
                        code,
                        message,
                        retryable,
                        details: details.filter(|details| !details.is_null()),
                    }
                )),
        ]
    }

    fn envelope() -> impl Strategy<Value = Envelope> {
        ("[!-~]{1,40}", message()).prop_map(|(id, message)| Envelope {
            id: CallId::new(id).expect("a proper id"),
            message,
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_however_it_is_cut(
            envelopes in prop::collection::vec(envelope(), 1..5),
            cuts in prop::collection::vec(1usize..40, 1..8),
        ) {
            let mut bytes = Vec::new();
            for envelope in &envelopes {
                bytes.extend(encode(envelope).expect("it is small"));
            }
            let mut decoder = FrameDecoder::default();
            let mut read = Vec::new();
            let mut cuts = cuts.iter().cycle();
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (piece, further) = rest.split_at(rest.len().min(*cuts.next().expect("cyclic")));
                rest = further;
                decoder.push(piece);
                while let Some(envelope) = decoder.poll().expect("well formed") {
                    read.push(envelope);
                }
            }
            prop_assert_eq!(read, envelopes);
            prop_assert!(decoder.finish().is_ok());
        }

        #[test]
        fn no_bytes_make_it_panic_or_go_on_after_an_error(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            loop {
                match decoder.poll() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => {
                        decoder.push(&encode(&done()).expect("small"));
                        prop_assert!(matches!(decoder.poll(), Ok(None)));
                        break;
                    }
                }
            }
        }

        #[test]
        fn a_stream_that_ends_within_a_frame_is_told_apart(cut in 1usize..60) {
            let bytes = encode(&done()).expect("small");
            let cut = cut.min(bytes.len() - 1);
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes[..cut]);
            prop_assert!(matches!(decoder.poll(), Ok(None)));
            prop_assert!(matches!(decoder.finish(), Err(FrameError::Truncated)));
        }
    }

    fn done() -> Envelope {
        Envelope {
            id: CallId::new("7").expect("an id"),
            message: Message::Completed,
        }
    }

    #[test]
    fn a_length_that_lies_costs_no_memory_and_ends_the_stream() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&(1u32 << 30).to_be_bytes());
        let refused = decoder.poll().expect_err("1 GiB");
        assert!(matches!(refused, FrameError::TooLarge { announced } if announced == 1 << 30));
        let mut decoder = FrameDecoder::default();
        decoder.push(&(MAX_FRAME_BYTES as u32).to_be_bytes());
        assert!(decoder.poll().expect("it may be so large").is_none());
        assert!(
            decoder.buffer.capacity() < 1024,
            "memory for what did not come"
        );
    }

    #[test]
    fn an_envelope_that_is_too_large_is_not_written() {
        let envelope = Envelope {
            id: CallId::new("7").expect("an id"),
            message: Message::Responded {
                output: json!("x".repeat(MAX_FRAME_BYTES)),
            },
        };
        assert!(matches!(
            encode(&envelope),
            Err(FrameError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_large_frame_leaves_no_memory_behind() {
        let large = Envelope {
            id: CallId::new(String::from("1")).expect("an id"),
            message: Message::Responded {
                output: json!("x".repeat(1 << 20)),
            },
        };
        let mut decoder = FrameDecoder::default();
        decoder.push(&encode(&large).expect("a frame"));
        decoder.push(&[0]);
        assert!(decoder.poll().expect("it is whole").is_some());
        assert_eq!(decoder.waiting(), 1);
        assert!(decoder.buffer.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn a_frame_is_weighed_before_it_is_read() {
        let envelope = |text: &str| Envelope {
            id: CallId::new("7").expect("an id"),
            message: Message::Responded {
                output: json!(text),
            },
        };
        let frames = ["x", "more than that"].map(|text| encode(&envelope(text)).expect("small"));
        let mut decoder = FrameDecoder::default();
        decoder.push(&frames[0][..LENGTH_BYTES + 1]);
        assert_eq!(decoder.weigh(), None);
        decoder.push(&frames[0][LENGTH_BYTES + 1..]);
        decoder.push(&frames[1]);
        let (first, behind) = decoder.weigh().expect("it is whole");
        assert_eq!(
            (first, behind),
            (weight(&frames[0][LENGTH_BYTES..]), frames[1].len())
        );
        assert!(decoder.poll().expect("it is well formed").is_some());
        let second = weight(&frames[1][LENGTH_BYTES..]);
        assert_eq!(decoder.weigh(), Some((second, 0)));
    }

    #[test]
    fn a_frame_of_very_many_values_is_refused_unread() {
        let body = format!("[{}0]", r#"{"":0},"#.repeat(100_000));
        let length = u32::try_from(body.len()).expect("it is small");
        let mut decoder = FrameDecoder::default();
        decoder.push(&length.to_be_bytes());
        decoder.push(body.as_bytes());
        let refused = decoder.poll();
        assert!(
            matches!(refused, Err(FrameError::TooHeavy { .. })),
            "{refused:?}"
        );
    }
}
