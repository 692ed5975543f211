//! The audit trail as a chain: whoever changes, removes, swaps or inserts a line breaks it.
//!
//! Each line carries a SHA-256 over itself and the hash of the line before, and their numbers have
//! no gaps. So a copy of the trail can be checked far from the server that wrote it, and the first
//! line that is not as it was written is named. A chain by itself cannot tell that its newest lines
//! were cut off, or that all of it was written anew: for that, keep a [`Head`] elsewhere and hand it
//! to [`verify`].
//!
//! This is a rule without clock, socket or storage.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::words::words;

/// Comes first in what is hashed, so that no hash for another purpose fits.
const PURPOSE: &[u8] = b"hostler audit line 1";
/// The same for an attempt that was refused. What was done hashes as it did before there was this.
const PURPOSE_REFUSED: &[u8] = b"hostler audit refusal 1";

words! {
    /// What came of what a line tells.
    #[derive(Default)]
    pub enum Outcome {
        /// It was done.
        #[default]
        Done = "done",
        /// Somebody tried and was turned away.
        Refused = "refused",
    }
}

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Change {
    /// When, to the millisecond.
    pub at: Timestamp,
    /// Who.
    pub subject: String,
    /// What was done, such as `host.create`.
    pub action: String,
    /// To what.
    pub object: String,
    /// In which request.
    pub request_id: String,
    /// From which address; absent for what the server did by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// What came of it. Lines of older versions tell only what was done.
    #[serde(default)]
    pub outcome: Outcome,
}

/// A line of the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Line {
    /// The number of the line; the first is 1.
    pub seq: u64,
    /// What it says.
    #[serde(flatten)]
    pub change: Change,
    /// The hash that ends the line, in lower-case hex.
    pub hash: String,
}

/// How far a chain goes: the number and hash of its newest line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The number of the newest line; 0 before the first.
    pub seq: u64,
    /// Its hash, in lower-case hex.
    pub hash: String,
}

impl Head {
    /// The head of a chain without lines.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            seq: 0,
            hash: hex::encode([0; 32]),
        }
    }

    /// The head of a chain that ends with this line.
    #[must_use]
    pub fn at(line: &Line) -> Self {
        Self {
            seq: line.seq,
            hash: line.hash.clone(),
        }
    }

    /// The line that says this and comes next.
    #[must_use]
    pub fn next(&self, change: Change) -> Line {
        let seq = self.seq + 1;
        let hash = hash(&self.hash, seq, &change);
        Line { seq, change, hash }
    }
}

/// Where a chain is broken first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// A line is missing, was inserted, or is not in its place.
    #[error("line {expected} is missing or out of place: line {found} stands there")]
    Order {
        /// The number that should have come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A line, or the one before, is not as it was written.
    #[error("line {seq} is not as it was written, or does not follow the line before it")]
    Changed {
        /// The number of the line.
        seq: u64,
    },
    /// The chain does not contain the head that was kept elsewhere.
    #[error("the trail ends at line {end}, but line {kept} was there when its head was kept")]
    CutOff {
        /// The number of the newest line.
        end: u64,
        /// The number of the line that was kept.
        kept: u64,
    },
}

/// Checks a whole chain from its first line. `kept`: a head of it, noted earlier and elsewhere.
///
/// # Errors
///
/// Names the first line that is wrong.
pub fn verify<'a>(
    lines: impl IntoIterator<Item = &'a Line>,
    kept: Option<&Head>,
) -> Result<Head, Broken> {
    let mut head = Head::empty();
    for line in lines {
        let (expected, found) = (head.seq + 1, line.seq);
        if found != expected {
            return Err(Broken::Order { expected, found });
        }
        let rewritten = kept.is_some_and(|kept| kept.seq == found && kept.hash != line.hash);
        if rewritten || hash(&head.hash, found, &line.change) != line.hash {
            return Err(Broken::Changed { seq: found });
        }
        head = Head::at(line);
    }
    match kept {
        Some(kept) if kept.seq > head.seq => Err(Broken::CutOff {
            end: head.seq,
            kept: kept.seq,
        }),
        _ => Ok(head),
    }
}

/// Each field goes in behind its length, so that no two lines are written alike.
fn hash(before: &str, seq: u64, change: &Change) -> String {
    let mut digest = Sha256::new();
    let mut field = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    field(match change.outcome {
        Outcome::Done => PURPOSE,
        Outcome::Refused => PURPOSE_REFUSED,
    });
    field(before.as_bytes());
    field(&seq.to_be_bytes());
    field(&change.at.as_millisecond().to_be_bytes());
    for text in [
        &change.subject,
        &change.action,
        &change.object,
        &change.request_id,
    ] {
        field(text.as_bytes());
    }
    // Absent is no field at all, which differs from an empty one.
    if let Some(remote) = &change.remote {
        field(remote.as_bytes());
    }
    hex::encode(digest.finalize())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn entry()(
            at in 0i64..4_000_000_000_000, subject in ".{0,8}", action in ".{0,8}", object in ".{0,8}",
            request_id in ".{0,8}", remote in proptest::option::of(".{0,8}"),
            refused in any::<bool>(),
        ) -> Change {
            let outcome = if refused { Outcome::Refused } else { Outcome::Done };
            let at = Timestamp::from_millisecond(at).expect("a time");
            Change { at, subject, action, object, request_id, remote, outcome }
        }
    }

    fn written(entries: Vec<Change>) -> Vec<Line> {
        let mut head = Head::empty();
        let mut lines = Vec::new();
        for entry in entries {
            let line = head.next(entry);
            head = Head::at(&line);
            lines.push(line);
        }
        lines
    }

    fn chain() -> impl Strategy<Value = Vec<Line>> {
        proptest::collection::vec(entry(), 2..12).prop_map(written)
    }

    #[test]
    fn a_line_without_an_outcome_is_one_of_what_was_done_and_hashes_as_ever() {
        let old = serde_json::json!([{
            "seq": 1, "at": "2026-11-25T10:00:00Z", "subject": "server", "action": "host.create",
            "object": "host-1", "request_id": "r", "hash": OLD_HASH,
        }]);
        let lines: Vec<Line> = serde_json::from_value(old).expect("a line of an older version");
        verify(&lines, None).expect("whole");
    }

    /// As the first version with a chain computed it.
    const OLD_HASH: &str = "da6675c73701e67a13d2b5f6b5899eab9304c5df7702d60802117dd70f668c05";

    proptest! {
        #[test]
        fn a_chain_as_written_verifies_also_after_its_way_through_json(lines in chain()) {
            let text = serde_json::to_string(&lines).expect("JSON");
            let lines: Vec<Line> = serde_json::from_str(&text).expect("lines");
            let head = verify(&lines, None).expect("whole");
            prop_assert_eq!(head.seq, lines.len() as u64);
            prop_assert_eq!(verify(&lines, Some(&head)), Ok(head.clone()));
        }

        #[test]
        fn a_changed_line_is_named(lines in chain(), at in any::<prop::sample::Index>(),
                                   other in entry()) {
            let (mut lines, at) = (lines.clone(), at.index(lines.len()));
            prop_assume!(lines[at].change != other);
            lines[at].change = other;
            let seq = at as u64 + 1;
            prop_assert_eq!(verify(&lines, None), Err(Broken::Changed { seq }));
        }

        #[test]
        fn a_changed_line_with_a_new_hash_breaks_the_next_one(
            lines in chain(), at in any::<prop::sample::Index>(), other in entry(),
        ) {
            let (mut lines, at) = (lines.clone(), at.index(lines.len() - 1));
            prop_assume!(lines[at].change != other);
            let before = lines[..at].last().map_or_else(Head::empty, Head::at);
            lines[at] = before.next(other);
            let seq = at as u64 + 2;
            prop_assert_eq!(verify(&lines, None), Err(Broken::Changed { seq }));
        }

        #[test]
        fn a_removed_line_is_found_whether_or_not_the_rest_is_renumbered(
            lines in chain(), at in any::<prop::sample::Index>(), renumber in any::<bool>(),
        ) {
            let (mut lines, at) = (lines.clone(), at.index(lines.len() - 1));
            lines.remove(at);
            if renumber {
                lines[at..].iter_mut().for_each(|line| line.seq -= 1);
            }
            prop_assert!(verify(&lines, None).is_err());
        }

        #[test]
        fn swapped_lines_are_found(lines in chain(), one in any::<prop::sample::Index>(),
                                   apart in any::<prop::sample::Index>(), renumber in any::<bool>()) {
            let mut lines = lines.clone();
            let one = one.index(lines.len());
            let other = (one + 1 + apart.index(lines.len() - 1)) % lines.len();
            lines.swap(one, other);
            if renumber {
                lines.iter_mut().zip(1..).for_each(|(line, seq)| line.seq = seq);
            }
            prop_assert!(verify(&lines, None).is_err());
        }

        #[test]
        fn an_inserted_line_is_found(lines in chain(), at in any::<prop::sample::Index>(),
                                     other in entry()) {
            let (mut lines, at) = (lines.clone(), at.index(lines.len()));
            let before = lines[..at].last().map_or_else(Head::empty, Head::at);
            lines.insert(at, before.next(other));
            lines[at + 1..].iter_mut().for_each(|line| line.seq += 1);
            prop_assert!(verify(&lines, None).is_err());
        }

        #[test]
        fn a_cut_tail_and_a_chain_written_anew_are_found_by_a_kept_head(
            lines in chain(), left in any::<prop::sample::Index>(), other in entry(),
        ) {
            let kept = verify(&lines, None).expect("whole");
            let end = left.index(lines.len());
            let cut = Broken::CutOff { end: end as u64, kept: kept.seq };
            prop_assert_eq!(verify(&lines[..end], Some(&kept)), Err(cut));
            prop_assume!(lines[0].change != other);
            let mut entries: Vec<Change> = lines.into_iter().map(|line| line.change).collect();
            entries[0] = other;
            let anew = Err(Broken::Changed { seq: kept.seq });
            prop_assert_eq!(verify(&written(entries), Some(&kept)), anew);
        }
    }
}
