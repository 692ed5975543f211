//! What fuzzing has found worth keeping, run through the same checks without a fuzzer.

use std::fs;
use std::path::Path;

/// Runs everything that is kept for one target.
pub(crate) fn run(target: &str, check: fn(&[u8])) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let inputs = fs::read_dir(kept.join(target)).expect("a corpus");
    let mut checked = 0;
    for input in inputs {
        check(&fs::read(input.unwrap().path()).unwrap());
        checked += 1;
    }
    assert!(checked >= 5, "{target} has a corpus of {checked}");
}
