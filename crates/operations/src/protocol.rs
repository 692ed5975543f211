//! The call protocol: operations called over any ordered streams of bytes, in both directions.
//!
//! Two ends share a connection with any number of streams. Either may call the other's operations
//! at any time, on any stream; an answer is matched to its call by the call's id alone, so answers
//! may come in any order and on other streams than the calls went out on.
//!
//! Nothing here opens a socket or looks at a clock. A [`FrameDecoder`] turns a stream's bytes into
//! [`Envelope`]s, and [`encode`] turns them back. An [`End`] holds what one end knows of the calls
//! under way: it is told what happened and when (`handle_*`, and methods for what the program
//! itself wants), and says what to send, what to tell the program, and when to look again
//! (`poll_*`). Whoever owns the streams and the time is a thin ring around it.
//!
//! ```text
//! 4 bytes, big endian   one JSON object, UTF-8, at most 16 MiB
//! ┌──────────────────┬─────────────────────────────────────────────────────┐
//! │ length           │ {"type":"call.requested","id":"7f","payload":{...}}  │
//! └──────────────────┴─────────────────────────────────────────────────────┘
//! ```

mod end;
mod envelope;
mod frame;

pub use end::{Answers, CALL_TIMEOUT, End, EndLimits, Occurrence, OutgoingCall, StreamId};
pub use envelope::{AuthToken, CallId, Envelope, EnvelopeError, Message};
pub use frame::{FrameDecoder, FrameError, MAX_FRAME_BYTES, encode};
