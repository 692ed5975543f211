//! The corpus of this crate's fuzz targets (`fuzz/`).

#[allow(
    unreachable_pub,
    reason = "public for the fuzz targets, which are another crate"
)]
#[path = "../../../fuzz/src/identity.rs"]
mod checks;
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;

#[test]
fn spiffe_ids_are_those_of_the_standard() {
    corpus::run("spiffe_id", checks::spiffe_id);
}

#[test]
fn endpoints_are_paths_or_addresses() {
    corpus::run("endpoint", checks::endpoint);
}

#[test]
fn bundle_documents_survive_being_written() {
    corpus::run("bundle_document", checks::bundle_document);
}

#[test]
fn pem_bundles_hold_roots_alone() {
    corpus::run("bundle_pem", checks::bundle_pem);
}

#[test]
fn certificates_are_leaves_or_signers_or_neither() {
    corpus::run("certificate", checks::certificate);
}

#[test]
fn tokens_are_accepted_from_their_signers_alone() {
    corpus::run("jwt_svid", checks::jwt_svid);
}
