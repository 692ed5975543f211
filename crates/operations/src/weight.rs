//! How much memory a text in JSON takes once it is read.
//!
//! `{"":0},` is seven bytes on the wire and seven hundred in memory, so a limit on what comes in says
//! little of what it becomes. This counts before anything is made of it.

/// What an object takes with its first fields, an array with its first items, and one more of either,
/// in bytes: the allocations of `serde_json`, rounded up.
const OBJECT: usize = 704;
const ARRAY: usize = 160;
const ITEM: usize = 64;

/// About how many bytes this takes as a [`Value`](serde_json::Value); no less for anything large. What
/// is no JSON has a weight too.
#[must_use]
pub fn weight(json: &[u8]) -> usize {
    let mut weight = json.len();
    let (mut in_text, mut escaped) = (false, false);
    for &byte in json {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' => weight += OBJECT,
            b'[' => weight += ARRAY,
            b',' => weight += ITEM,
            _ => {}
        }
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_a_text_weighs_nothing_more() {
        let text = br#""{[,\\\"{[,""#;
        assert_eq!(weight(text), text.len());
        assert_eq!(weight(b""), 0);
    }

    #[test]
    fn many_small_values_are_heavy() {
        let many = format!("[{}0]", r#"{"":0},"#.repeat(1000));
        assert!(weight(many.as_bytes()) > 700_000);
    }
}
