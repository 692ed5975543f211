//! The corpus of this crate's fuzz targets (`fuzz/`).

#[allow(
    unreachable_pub,
    reason = "public for the fuzz targets, which are another crate"
)]
#[path = "../../../fuzz/src/operations.rs"]
mod checks;
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;

#[test]
fn frames_are_the_same_however_they_are_cut() {
    corpus::run("frames", checks::frames);
}

#[test]
fn envelopes_survive_being_written() {
    corpus::run("envelope", checks::envelope);
}

#[test]
fn events_are_the_same_however_they_are_cut_and_survive_being_written() {
    corpus::run("events", checks::events);
}
