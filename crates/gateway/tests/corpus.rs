//! The corpus of this crate's fuzz targets (`fuzz/`).

#[allow(
    unreachable_pub,
    reason = "public for the fuzz targets, which are another crate"
)]
#[path = "../../../fuzz/src/gateway.rs"]
mod checks;
#[path = "../../../fuzz/src/corpus.rs"]
mod corpus;

#[test]
fn what_is_taken_from_a_document_a_registry_takes() {
    corpus::run("openapi", checks::openapi);
}
