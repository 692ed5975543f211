//! Event streams of other APIs (WHATWG HTML, section 9.2): the data of each event, as JSON when it is
//! JSON and as a string when it is not.

use serde_json::Value;

/// The largest event, in bytes.
const MAX_EVENT: usize = 1 << 20;

/// Puts events together from the bytes of a stream.
#[derive(Default)]
pub(super) struct Events {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The data of the event that has not ended yet.
    data: Option<Vec<u8>>,
}

/// An event does not end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Events {
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<Vec<Value>, TooLarge> {
        let mut events = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.grow(&bytes[..end])?;
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            match line.strip_suffix(b"\r").unwrap_or(&line) {
                b"" => events.extend(self.data.take().map(|data| value(&data))),
                line => self.field(line),
            }
        }
        self.grow(bytes)?;
        Ok(events)
    }

    fn grow(&mut self, bytes: &[u8]) -> Result<(), TooLarge> {
        let so_far = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
        if so_far + bytes.len() > MAX_EVENT {
            return Err(TooLarge);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn field(&mut self, line: &[u8]) {
        let Some(value) = line.strip_prefix(b"data") else {
            return;
        };
        let value = match value {
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            [] => value,
            _ => return, // Another field, whose name begins so.
        };
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            none => *none = Some(value.to_vec()),
        }
    }
}

fn value(data: &[u8]) -> Value {
    serde_json::from_slice(data)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(data).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let stream =
            b": hello\n\nid: 1\r\ndata: {\"a\":1}\r\n\r\nevent: x\ndata: two\ndata:lines\n\n\
                       database: no\n\ndata\n\ndata: never ended\n";
        let expected = [json!({"a": 1}), json!("two\nlines"), json!("")];
        for size in 1..stream.len() {
            let mut events = Events::default();
            let mut all = Vec::new();
            for piece in stream.chunks(size) {
                all.extend(events.push(piece).expect("small events"));
            }
            assert_eq!(all, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_that_does_not_end_is_given_up() {
        let mut events = Events::default();
        let piece = [b'x'; 1 << 16];
        let pushed = (0..17).map(|_| events.push(&piece)).find(Result::is_err);
        assert_eq!(pushed, Some(Err(TooLarge)));
        let mut events = Events::default();
        let line = [&b"data: "[..], &[b'x'; 1000], b"\n"].concat();
        let pushed = (0..2000).map(|_| events.push(&line)).find(Result::is_err);
        assert_eq!(pushed, Some(Err(TooLarge)));
    }
}
