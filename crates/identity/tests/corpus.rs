//! What fuzzing has found worth keeping, run through the same checks (`fuzz/`) without a fuzzer.

use std::fs;
use std::path::Path;

#[allow(
    unreachable_pub,
    reason = "public for the fuzz targets, which are another crate"
)]
#[path = "../../../fuzz/src/identity.rs"]
mod checks;

/// Runs everything that is kept for one target.
fn run(target: &str, check: fn(&[u8])) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let inputs = fs::read_dir(kept.join(target)).expect("a corpus");
    let mut checked = 0;
    for input in inputs {
        check(&fs::read(input.unwrap().path()).unwrap());
        checked += 1;
    }
    assert!(checked >= 5, "{target} has a corpus of {checked}");
}

#[test]
fn spiffe_ids_are_those_of_the_standard() {
    run("spiffe_id", checks::spiffe_id);
}

#[test]
fn endpoints_are_paths_or_addresses() {
    run("endpoint", checks::endpoint);
}

#[test]
fn bundle_documents_survive_being_written() {
    run("bundle_document", checks::bundle_document);
}

#[test]
fn pem_bundles_hold_roots_alone() {
    run("bundle_pem", checks::bundle_pem);
}

#[test]
fn certificates_are_leaves_or_signers_or_neither() {
    run("certificate", checks::certificate);
}

#[test]
fn tokens_are_accepted_from_their_signers_alone() {
    run("jwt_svid", checks::jwt_svid);
}
