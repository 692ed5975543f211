//! Two ends of the call protocol, driven by hand: no socket, and a clock that stands still until it
//! is told to go on. Everything that is sent goes through frames.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hostler_operations::protocol::{
    Answers, AuthToken, CALL_TIMEOUT, CallId, End, EndLimits, Envelope, FrameDecoder, Message,
    Occurrence, OutgoingCall, StreamId, encode,
};
use hostler_operations::{CallError, ErrorCode};
use proptest::prelude::*;
use serde_json::{Value, json};

const ONE: StreamId = StreamId(1);
const TWO: StreamId = StreamId(2);

/// Two ends and what is on its way between them, stream by stream.
struct Pair {
    ends: [End; 2],
    /// To each end: frames, in the order in which they were sent on their stream.
    wires: [BTreeMap<StreamId, Vec<Vec<u8>>>; 2],
    seen: [Vec<Occurrence>; 2],
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        Self::with(EndLimits::default())
    }

    fn with(limits: EndLimits) -> Self {
        Self {
            ends: [End::new(limits.clone()), End::new(limits)],
            wires: Default::default(),
            seen: Default::default(),
            now: Instant::now(),
        }
    }

    /// Puts what either end sends on the wire, and notes what it tells its program.
    fn pump(&mut self) {
        for at in 0..2 {
            while let Some((stream, envelope)) = self.ends[at].poll_transmit() {
                let frame = encode(&envelope).expect("it fits");
                self.wires[1 - at].entry(stream).or_default().push(frame);
            }
            while let Some(occurrence) = self.ends[at].poll_occurrence() {
                self.seen[at].push(occurrence);
            }
        }
    }

    /// Brings the next frame of this stream to this end, and says whether there was one.
    fn deliver(&mut self, to: usize, stream: StreamId) -> bool {
        self.pump();
        let Some(frames) = self.wires[to].get_mut(&stream).filter(|f| !f.is_empty()) else {
            return false;
        };
        let frame = frames.remove(0);
        let mut decoder = FrameDecoder::default();
        decoder.push(&frame);
        let envelope = decoder.poll().expect("well formed").expect("whole");
        self.ends[to].handle_envelope(stream, envelope);
        self.pump();
        true
    }

    /// Brings everything to everybody; `choose` says which of the waiting streams is next.
    fn settle(&mut self, mut choose: impl FnMut(usize) -> usize) {
        loop {
            self.pump();
            let waiting: Vec<(usize, StreamId)> = (0..2)
                .flat_map(|to| {
                    let wires = self.wires[to].iter();
                    wires
                        .filter(|(_, frames)| !frames.is_empty())
                        .map(move |(stream, _)| (to, *stream))
                })
                .collect();
            if waiting.is_empty() {
                return;
            }
            let (to, stream) = waiting[choose(waiting.len()) % waiting.len()];
            self.deliver(to, stream);
        }
    }

    fn call(&mut self, from: usize, stream: StreamId, call: OutgoingCall) -> CallId {
        let id = self.ends[from].call(self.now, stream, call);
        self.pump();
        id
    }

    fn lose_the_connection(&mut self) {
        self.wires = Default::default();
        for end in &mut self.ends {
            end.handle_closed();
        }
        self.pump();
    }

    /// How a call of this end's ended, if it did; once, at most.
    fn end_of(&self, at: usize, id: &CallId) -> Option<Result<(), String>> {
        let mut ends = self.seen[at].iter().filter_map(|seen| match seen {
            Occurrence::Ended { id: of, error } if of == id => Some(match error {
                None => Ok(()),
                Some(error) => Err(format!("{} {}", error.code, error.message)),
            }),
            _ => None,
        });
        let first = ends.next();
        assert_eq!(ends.next(), None, "it ended twice");
        first
    }

    fn outputs_of(&self, at: usize, id: &CallId) -> Vec<Value> {
        let outputs = self.seen[at].iter().filter_map(|seen| match seen {
            Occurrence::Output { id: of, output } if of == id => Some(output.clone()),
            _ => None,
        });
        outputs.collect()
    }

    fn is_cancelled(&self, at: usize, id: &CallId) -> bool {
        let cancelled = Occurrence::Cancelled { id: id.clone() };
        let times = self.seen[at]
            .iter()
            .filter(|seen| **seen == cancelled)
            .count();
        assert!(times <= 1, "cancelled {times} times");
        times == 1
    }

    fn was_called(&self, at: usize, id: &CallId) -> bool {
        self.seen[at]
            .iter()
            .any(|seen| matches!(seen, Occurrence::Called { id: of, .. } if of == id))
    }
}

fn query(operation: &str) -> OutgoingCall {
    OutgoingCall {
        operation: operation.to_owned(),
        input: json!({"n": 1}),
        auth_token: None,
        answers: Answers::One,
        timeout: CALL_TIMEOUT,
        on_behalf_of: None,
    }
}

fn subscription(operation: &str) -> OutgoingCall {
    OutgoingCall {
        answers: Answers::Many,
        ..query(operation)
    }
}

fn broken(message: &str) -> CallError {
    CallError::new(ErrorCode::declared("BROKEN", 500), message)
}

#[test]
fn a_call_carries_its_input_and_its_token_and_brings_its_answer_back() {
    let mut pair = Pair::new();
    let token = Some(AuthToken::new("hst_x"));
    let id = pair.call(
        0,
        ONE,
        OutgoingCall {
            auth_token: token.clone(),
            ..query("/fs/read-file")
        },
    );
    pair.deliver(1, ONE);
    let called = Occurrence::Called {
        id: id.clone(),
        operation: "/fs/read-file".to_owned(),
        input: json!({"n": 1}),
        auth_token: token,
    };
    assert_eq!(pair.seen[1], [called]);
    assert!(pair.ends[1].respond(&id, json!("contents")));
    assert!(!pair.ends[1].respond(&id, json!("again")), "it is over");
    pair.settle(|_| 0);
    assert_eq!(pair.outputs_of(0, &id), [json!("contents")]);
    assert_eq!(pair.end_of(0, &id), Some(Ok(())));
    assert_eq!(pair.ends[0].open_calls(), (0, 0));
    assert_eq!(pair.ends[0].poll_timeout(), None);
}

#[test]
fn a_subscription_has_outputs_until_it_is_completed_and_may_take_for_ever() {
    let mut pair = Pair::new();
    let id = pair.call(0, ONE, subscription("/hosts/watch"));
    assert_eq!(pair.ends[0].poll_timeout(), None, "nothing may happen yet");
    pair.deliver(1, ONE);
    assert!(pair.ends[1].output(&id, json!(1)));
    pair.settle(|_| 0);
    assert!(pair.ends[1].output(&id, json!(2)));
    assert!(pair.ends[1].complete(&id));
    assert!(!pair.ends[1].output(&id, json!(3)));
    pair.settle(|_| 0);
    assert_eq!(pair.outputs_of(0, &id), [json!(1), json!(2)]);
    assert_eq!(pair.end_of(0, &id), Some(Ok(())));
}

#[test]
fn both_ends_call_each_other_at_one_time() {
    let mut pair = Pair::new();
    let (a, b) = (
        pair.call(0, ONE, query("/a/b")),
        pair.call(1, TWO, query("/c/d")),
    );
    pair.settle(|_| 0);
    assert!(pair.was_called(1, &a) && pair.was_called(0, &b));
    assert!(pair.ends[1].respond(&a, json!("a")));
    assert!(pair.ends[0].fail(&b, &broken("no")));
    pair.settle(|_| 0);
    assert_eq!(pair.outputs_of(0, &a), [json!("a")]);
    assert_eq!(pair.end_of(1, &b), Some(Err("BROKEN no".to_owned())));
}

#[test]
fn an_answer_is_matched_by_its_id_on_whatever_stream_it_comes() {
    let mut pair = Pair::new();
    let id = pair.call(0, ONE, query("/a/b"));
    let envelope = Envelope {
        id: id.clone(),
        message: Message::Responded { output: json!(7) },
    };
    pair.ends[0].handle_envelope(StreamId(99), envelope);
    pair.pump();
    assert_eq!(pair.end_of(0, &id), Some(Ok(())));
}

#[test]
fn a_call_that_is_not_answered_in_time_is_aborted_at_both_ends() {
    let mut pair = Pair::new();
    let id = pair.call(0, ONE, query("/a/b"));
    pair.deliver(1, ONE);
    let due = pair.ends[0]
        .poll_timeout()
        .expect("it does not wait for ever");
    assert_eq!(due, pair.now + CALL_TIMEOUT);
    pair.ends[0].handle_timeout(due - Duration::from_millis(1));
    pair.pump();
    assert_eq!(pair.end_of(0, &id), None);
    pair.ends[0].handle_timeout(due);
    pair.settle(|_| 0);
    assert!(matches!(pair.end_of(0, &id), Some(Err(told)) if told.starts_with("TIMEOUT")));
    assert!(pair.is_cancelled(1, &id));
    assert!(!pair.ends[1].respond(&id, json!("late")));
}

#[test]
fn an_abort_goes_down_the_tree_of_calls() {
    let mut pair = Pair::new();
    // 0 calls 1, which on behalf of that calls 0 back, twice, and once for itself.
    let root = pair.call(0, ONE, query("/a/b"));
    pair.deliver(1, ONE);
    let part = |root: &CallId| OutgoingCall {
        on_behalf_of: Some(root.clone()),
        ..query("/c/d")
    };
    let child = pair.call(1, TWO, part(&root));
    let answered = pair.call(1, TWO, part(&root));
    let own = pair.call(1, TWO, query("/e/f"));
    pair.settle(|_| 0);
    assert!(pair.ends[0].respond(&answered, json!(1)));
    pair.settle(|_| 0);
    pair.ends[0].abort(&root);
    pair.settle(|_| 0);
    assert!(pair.is_cancelled(1, &root));
    assert_eq!(pair.end_of(0, &root), None, "whoever aborts knows it");
    assert!(pair.is_cancelled(0, &child));
    assert_eq!(
        pair.end_of(1, &child),
        Some(Err("INTERNAL aborted".to_owned()))
    );
    assert_eq!(pair.end_of(1, &answered), Some(Ok(())));
    assert!(!pair.is_cancelled(0, &own) && pair.end_of(1, &own).is_none());
    // What is over has no parts any more.
    let late = pair.call(1, TWO, part(&root));
    assert_eq!(
        pair.end_of(1, &late),
        Some(Err("INTERNAL aborted".to_owned()))
    );
    pair.settle(|_| 0);
    assert!(!pair.was_called(0, &late));
}

#[test]
fn a_call_that_is_answered_takes_what_was_left_of_its_parts_along() {
    let mut pair = Pair::new();
    let root = pair.call(0, ONE, query("/a/b"));
    pair.deliver(1, ONE);
    let part = OutgoingCall {
        on_behalf_of: Some(root.clone()),
        ..subscription("/c/watch")
    };
    let child = pair.call(1, TWO, part);
    pair.settle(|_| 0);
    assert!(pair.ends[1].respond(&root, json!(1)));
    pair.settle(|_| 0);
    assert_eq!(pair.end_of(0, &root), Some(Ok(())));
    assert!(pair.is_cancelled(0, &child));
}

#[test]
fn whoever_was_called_may_go_away() {
    let mut pair = Pair::new();
    let id = pair.call(0, ONE, subscription("/a/watch"));
    pair.deliver(1, ONE);
    assert!(pair.ends[1].give_up(&id));
    pair.settle(|_| 0);
    assert_eq!(
        pair.end_of(0, &id),
        Some(Err("INTERNAL aborted".to_owned()))
    );
}

#[test]
fn what_is_said_of_unknown_calls_is_ignored() {
    let mut pair = Pair::new();
    let id = CallId::new("nobody's").expect("an id");
    for message in [
        Message::Aborted,
        Message::Completed,
        Message::Responded { output: json!(1) },
        Message::Error((&broken("no")).into()),
    ] {
        let id = id.clone();
        pair.ends[0].handle_envelope(ONE, Envelope { id, message });
    }
    pair.ends[0].abort(&id);
    assert!(!pair.ends[0].complete(&id));
    assert_eq!(pair.ends[0].poll_occurrence(), None);
    assert_eq!(pair.ends[0].poll_transmit(), None);
}

#[test]
fn an_id_that_is_in_use_is_refused() {
    let mut pair = Pair::new();
    let request = |id: &CallId| Envelope {
        id: id.clone(),
        message: Message::Requested {
            operation: "/a/b".to_owned(),
            input: json!({}),
            auth_token: None,
        },
    };
    let refused = |end: &mut End| match end.poll_transmit() {
        Some((
            _,
            Envelope {
                message: Message::Error(error),
                ..
            },
        )) => error.code,
        other => panic!("{other:?}"),
    };
    let twice = CallId::new("1").expect("an id");
    pair.ends[0].handle_envelope(ONE, request(&twice));
    pair.ends[0].handle_envelope(TWO, request(&twice));
    assert_eq!(refused(&mut pair.ends[0]), "INVALID_INPUT");
    pair.pump();
    assert!(pair.is_cancelled(0, &twice));

    let ours = pair.ends[0].call(pair.now, ONE, query("/a/b"));
    let _requested = pair.ends[0].poll_transmit();
    pair.ends[0].handle_envelope(TWO, request(&ours));
    assert_eq!(refused(&mut pair.ends[0]), "INVALID_INPUT");
    pair.pump();
    assert_eq!(pair.end_of(0, &ours), None, "our own call goes on");
}

#[test]
fn more_calls_than_one_end_takes_on_are_refused_until_some_have_ended() {
    let mut limits = EndLimits::default();
    limits.incoming = 2;
    let mut pair = Pair::with(limits);
    let ids: Vec<CallId> = (0..3).map(|_| pair.call(0, ONE, query("/a/b"))).collect();
    pair.settle(|_| 0);
    let told = pair
        .end_of(0, &ids[2])
        .expect("refused")
        .expect_err("refused");
    assert!(told.contains("too many"), "{told}");
    assert!(pair.ends[1].respond(&ids[0], json!(1)));
    let next = pair.call(0, ONE, query("/a/b"));
    pair.settle(|_| 0);
    assert!(pair.was_called(1, &next));
}

#[test]
fn a_lost_stream_ends_its_own_calls_and_no_others() {
    let mut pair = Pair::new();
    let (on_one, on_two) = (
        pair.call(0, ONE, query("/a/b")),
        pair.call(0, TWO, query("/a/b")),
    );
    pair.settle(|_| 0);
    pair.ends[0].handle_stream_lost(ONE);
    pair.ends[1].handle_stream_lost(ONE);
    pair.settle(|_| 0);
    assert_eq!(
        pair.end_of(0, &on_one),
        Some(Err("INTERNAL stream closed".to_owned()))
    );
    assert!(pair.is_cancelled(1, &on_one));
    assert!(pair.ends[1].respond(&on_two, json!(1)));
    pair.settle(|_| 0);
    assert_eq!(pair.end_of(0, &on_two), Some(Ok(())));
}

/// A conversation with everything in it. Plays it up to a step, loses the connection there, and
/// says whether there was such a step.
fn lost_at(step: usize) -> bool {
    let mut pair = Pair::new();
    let query_id = pair.call(0, ONE, query("/a/b"));
    let watch_id = pair.call(0, TWO, subscription("/a/watch"));
    let mut child_id = None;
    let mut steps = 0;
    let reached = loop {
        if steps == step {
            break true;
        }
        steps += 1;
        let delivered = [(1, ONE), (1, TWO), (0, ONE), (0, TWO)]
            .into_iter()
            .any(|(to, stream)| pair.deliver(to, stream));
        if delivered {
            continue;
        }
        if child_id.is_none() {
            let part = OutgoingCall {
                on_behalf_of: Some(query_id.clone()),
                ..query("/c/d")
            };
            child_id = Some(pair.call(1, ONE, part));
        } else if let Some(child) = child_id.clone()
            && pair.ends[0].respond(&child, json!("part"))
        {
        } else if pair.ends[1].respond(&query_id, json!("whole")) {
            pair.ends[1].output(&watch_id, json!(1));
        } else if !pair.ends[1].complete(&watch_id) {
            break false;
        }
    };
    pair.lose_the_connection();
    // Every call that was made has ended, once, and with the connection if not before.
    for (at, id) in [(0, &query_id), (0, &watch_id)]
        .into_iter()
        .chain(child_id.iter().map(|id| (1, id)))
    {
        let ended = pair.end_of(at, id).expect("it ended");
        assert!(
            ended.is_ok() || ended == Err("INTERNAL connection closed".to_owned()),
            "{step}: {ended:?}"
        );
        // Whoever was asked and had not answered knows that nobody waits.
        let _at_most_once = pair.is_cancelled(1 - at, id);
    }
    for end in &mut pair.ends {
        assert_eq!(end.open_calls(), (0, 0), "{step}");
        assert_eq!(end.poll_timeout(), None, "{step}");
    }
    let now = pair.now;
    let late = pair.ends[0].call(now, ONE, query("/a/b"));
    pair.pump();
    let told = Some(Err("INTERNAL connection closed".to_owned()));
    assert_eq!(pair.end_of(0, &late), told);
    assert!(pair.wires[1].is_empty());
    reached
}

#[test]
fn a_connection_lost_at_any_step_ends_every_call_once() {
    let mut step = 0;
    while lost_at(step) {
        step += 1;
    }
    assert!(step > 8, "the conversation had only {step} steps");
}

proptest! {
    /// Streams overtake each other as they like: every answer finds its call all the same.
    #[test]
    fn answers_find_their_calls_in_any_order(
        calls in prop::collection::vec((0usize..2, 0u64..4, any::<bool>()), 1..20),
        order in prop::collection::vec(any::<usize>(), 64),
        answer_order in any::<prop::sample::Index>(),
    ) {
        let mut pair = Pair::new();
        let mut order = order.into_iter().cycle();
        let mut made = Vec::new();
        for (from, stream, many) in calls {
            // Each end has streams of its own.
            let stream = StreamId(stream * 2 + from as u64);
            let call = if many { subscription("/a/watch") } else { query("/a/b") };
            made.push((from, pair.call(from, stream, call), many));
        }
        pair.settle(|_| order.next().expect("cyclic"));
        let turn = answer_order.index(made.len());
        made.rotate_left(turn);
        for (from, id, many) in &made {
            let end = &mut pair.ends[1 - from];
            if *many {
                prop_assert!(end.output(id, json!([id.as_str(), 1])));
                prop_assert!(end.output(id, json!([id.as_str(), 2])));
                prop_assert!(end.complete(id));
            } else {
                prop_assert!(end.respond(id, json!([id.as_str(), 1])));
            }
        }
        pair.settle(|_| order.next().expect("cyclic"));
        for (from, id, many) in &made {
            prop_assert_eq!(pair.end_of(*from, id), Some(Ok(())));
            let expected: Vec<Value> = (1..=1 + u8::from(*many))
                .map(|n| json!([id.as_str(), n]))
                .collect();
            prop_assert_eq!(pair.outputs_of(*from, id), expected);
        }
        prop_assert_eq!(pair.ends[0].open_calls(), (0, 0));
        prop_assert_eq!(pair.ends[1].open_calls(), (0, 0));
    }
}
