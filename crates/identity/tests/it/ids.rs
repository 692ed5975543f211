//! SPIFFE IDs and trust domains as text: what is one, and what only looks like one.

use hostler_identity::{IdError, parse_spiffe_id, parse_trust_domain};
use proptest::prelude::*;

fn long(prefix: &str, length: usize) -> String {
    format!("{prefix}{}", "a".repeat(length - prefix.len()))
}

#[test]
fn what_the_standard_allows_is_taken_as_it_stands() {
    for text in [
        "spiffe://example.org".to_owned(),
        "spiffe://example.org/web".to_owned(),
        "spiffe://0-a_b.example/0/A/z.-_/...".to_owned(),
        "spiffe://10.0.0.1/x".to_owned(),
        long("spiffe://", "spiffe://".len() + 255),
        long("spiffe://a/", 2048),
    ] {
        let id = parse_spiffe_id(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(id.to_string(), text);
    }
    assert_ne!(
        parse_spiffe_id("spiffe://a/web").unwrap(),
        parse_spiffe_id("spiffe://a/Web").unwrap(),
        "case is significant in a path"
    );
}

#[test]
fn what_the_standard_forbids_is_refused() {
    for text in [
        "".to_owned(),
        "example.org/web".to_owned(),
        "https://example.org/web".to_owned(),
        "spiffe:/example.org/web".to_owned(),
        "spiffe://".to_owned(),
        "spiffe:///web".to_owned(),
        "spiffe://td//p".to_owned(),
        "spiffe://td/".to_owned(),
        "spiffe://td/p/".to_owned(),
        "spiffe://td/.".to_owned(),
        "spiffe://td/a/../b".to_owned(),
        "spiffe://td:8443/p".to_owned(),
        "spiffe://user@td/p".to_owned(),
        "spiffe://td/%41".to_owned(),
        "spiffe://td/p?q=1".to_owned(),
        "spiffe://td/p#f".to_owned(),
        "spiffe://td/ä".to_owned(),
        "spiffe://bücher.example/p".to_owned(),
        " spiffe://td/p".to_owned(),
        "spiffe://td/p\n".to_owned(),
        long("spiffe://", "spiffe://".len() + 256),
        long("spiffe://a/", 2049),
    ] {
        assert!(parse_spiffe_id(&text).is_err(), "{text:?}");
    }
}

#[test]
fn scheme_and_trust_domain_are_lower_case() {
    for text in ["spiffe://Example.org/web", "SPIFFE://example.org/web"] {
        let canonical = "spiffe://example.org/web".to_owned();
        assert_eq!(parse_spiffe_id(text), Err(IdError::UpperCase { canonical }));
    }
    assert!(matches!(
        parse_trust_domain("Example.org"),
        Err(IdError::UpperCase { .. })
    ));
}

#[test]
fn a_trust_domain_is_a_bare_name() {
    assert_eq!(
        parse_trust_domain("example.org").unwrap().as_str(),
        "example.org"
    );
    for text in [
        "",
        "spiffe://example.org",
        "example.org/web",
        "example.org:1",
        "a b",
    ] {
        assert!(parse_trust_domain(text).is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn an_id_that_is_taken_reads_back_as_itself(text in "(spiffe://)?[a-zA-Z0-9._:-]{0,12}(/[a-zA-Z0-9._%-]{0,4}){0,3}") {
        if let Ok(id) = parse_spiffe_id(&text) {
            prop_assert_eq!(id.to_string(), text);
        }
    }

    #[test]
    fn any_text_is_judged_without_a_panic(text in "\\PC*") {
        prop_assert!(parse_spiffe_id(&text).is_err());
        let _ = parse_trust_domain(&text);
    }
}
