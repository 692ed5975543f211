//! What peers send to hostler-operations: frames and envelopes of the call protocol, and event
//! streams.

use hostler_operations::protocol::{Envelope, FrameDecoder, FrameError, MAX_FRAME_BYTES, encode};
use hostler_operations::{EventError, EventReader, StreamItem, write_event};

/// The frames of a stream are the same however its bytes were cut into pieces, end with the first
/// one that is none, and are written as they were read. The first byte says how they are cut.
pub fn frames(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let whole = decoded([stream]);
    let pieces = stream.chunks(usize::from(*cut).max(1));
    assert_eq!(decoded(pieces), whole);
    for envelope in &whole.0 {
        let frame = encode(envelope).expect("it came in a frame");
        let again = decoded([&frame[..]]);
        assert_eq!(again, (vec![envelope.clone()], None));
    }
}

/// What a stream holds, and why it cannot be read to its end.
fn decoded<'d>(pieces: impl IntoIterator<Item = &'d [u8]>) -> (Vec<Envelope>, Option<String>) {
    let (mut decoder, mut envelopes) = (FrameDecoder::default(), Vec::new());
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.poll() {
                Ok(Some(envelope)) => envelopes.push(envelope),
                Ok(None) => break,
                Err(error) => {
                    if let FrameError::TooLarge { announced } = error {
                        assert!(announced > MAX_FRAME_BYTES);
                    }
                    return (envelopes, Some(error.to_string()));
                }
            }
        }
        assert!(decoder.waiting() <= 4 + MAX_FRAME_BYTES);
    }
    let cut_off = decoder.finish().err();
    (envelopes, cut_off.map(|error| error.to_string()))
}

/// What is taken for an envelope is one when it is written again.
pub fn envelope(data: &[u8]) {
    let Ok(length) = u32::try_from(data.len()) else {
        return;
    };
    let frame = [&length.to_be_bytes()[..], data].concat();
    let (read, _) = decoded([&frame[..]]);
    let [envelope] = &read[..] else {
        return;
    };
    assert!((1..=128).contains(&envelope.id.as_str().len()));
    let written = encode(envelope).expect("it came in a frame");
    assert_eq!(decoded([&written[..]]).0, read);
    // A token in it is not shown; a short one may be part of the words around it.
    if let hostler_operations::protocol::Message::Requested {
        auth_token: Some(token),
        ..
    } = &envelope.message
    {
        let shown = format!("{token:?}");
        assert!(token.expose().len() < 12 || !shown.contains(token.expose()));
    }
}

const LARGEST_EVENT: usize = 4096;

/// Events are the same however their bytes were cut into pieces; what is read can be written, and
/// is read as the same. The first byte says how they are cut.
pub fn events(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let whole = heard([stream]);
    let pieces = heard(stream.chunks(usize::from(*cut).max(1)));
    // Where it breaks, the events before the break in the same piece are lost with it.
    assert_eq!(pieces.1, whole.1);
    if whole.1.is_none() {
        assert_eq!(pieces.0, whole.0);
    }
    // Our writer, with whatever JSON this is.
    let said = serde_json::from_slice(stream).map(StreamItem::Output);
    let said = whole.0.into_iter().chain(said.ok());
    for (n, item) in said.enumerate() {
        let event = write_event(n as u64, &item);
        assert!(event.ends_with("\n\n") && event.matches("\n\n").count() == 1);
        if event.len() <= LARGEST_EVENT {
            assert_eq!(heard([event.as_bytes()]), (vec![item], None));
        }
    }
}

fn heard<'d>(pieces: impl IntoIterator<Item = &'d [u8]>) -> (Vec<StreamItem>, Option<EventError>) {
    let (mut reader, mut items) = (EventReader::new(LARGEST_EVENT), Vec::new());
    for piece in pieces {
        match reader.push(piece) {
            Ok(more) => items.extend(more),
            Err(broken) => return (items, Some(broken)),
        }
    }
    (items, None)
}
