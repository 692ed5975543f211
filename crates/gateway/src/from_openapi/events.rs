//! Event streams of other APIs: the data of each event, as JSON when it is JSON and as a string when
//! it is not. What an event calls itself says nothing here: only its API knows what it means.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt as _};
use hostler_operations::{AnyEventReader, CallError};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use super::redact::Redaction;
use super::upstream::unavailable;

/// The largest event, in bytes.
const MAX_EVENT: usize = 1 << 20;

type Outputs = Vec<Result<Value, CallError>>;

/// The events of an answer. It ends with the first error.
pub(super) fn outputs(
    body: Incoming,
    redaction: Arc<Redaction>,
) -> BoxStream<'static, Result<Value, CallError>> {
    let reader = Some(AnyEventReader::new(MAX_EVENT));
    let outputs = body.into_data_stream().scan(reader, move |reader, piece| {
        let outputs = reader.as_mut().map(|reader| match piece {
            Ok(piece) => read(reader, &piece, &redaction),
            Err(_) => vec![Err(unavailable("the API behind this broke its stream off"))],
        });
        if outputs.iter().flatten().any(Result::is_err) {
            *reader = None;
        }
        std::future::ready(outputs.map(stream::iter))
    });
    outputs.flatten().boxed()
}

fn read(reader: &mut AnyEventReader, piece: &[u8], redaction: &Redaction) -> Outputs {
    let mut events = Vec::new();
    let read = reader.push(piece, &mut events);
    let outputs = events
        .iter()
        .map(|event| redaction.clean(value(&event.data)));
    let mut outputs: Outputs = outputs.map(Ok).collect();
    if read.is_err() {
        let what = "an event of the API behind this is too large";
        outputs.push(Err(unavailable(what)));
    }
    outputs
}

fn value(data: &[u8]) -> Value {
    serde_json::from_slice(data)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(data).into_owned()))
}
