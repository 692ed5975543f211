//! JWT-SVIDs: what is minted, who believes it, and keys that succeed one another.

use std::fs;

use hostler_authority::{Authority, IssuedJwtSvid, Lifetimes, SignError};
use hostler_identity::{BundleDocument, JwtBundles, JwtSvid, JwtSvidRule};
use jiff::{SignedDuration, Timestamp};
use secrecy::ExposeSecret;
use serde_json::Value;
use spiffe::{JwtBundle, JwtBundleSet};

use crate::support::{DAY, HOUR, domain, id, new, open, open_at};

const API: &str = "spiffe://a.example/api";

fn mint(authority: &Authority, now: Timestamp) -> IssuedJwtSvid {
    let audience = [API.to_owned()];
    authority
        .mint_jwt_svid(&id("/web"), &audience, None, now)
        .unwrap()
}

fn validate(
    issued: &IssuedJwtSvid,
    bundles: &JwtBundles,
    now: Timestamp,
) -> Result<JwtSvid, JwtSvidRule> {
    JwtSvid::validate(issued.token.expose_secret(), API, bundles, now)
}

fn keys(bundles: &JwtBundles) -> usize {
    bundles.get(&domain()).unwrap().iter().count()
}

fn sequence(authority: &Authority) -> u64 {
    let document = BundleDocument::parse(authority.bundle_jwks().as_bytes()).unwrap();
    document.sequence.unwrap()
}

#[test]
fn a_minted_token_says_who_for_whom_and_until_when() {
    let (authority, _dir) = new();
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let issued = mint(&authority, now);
    assert_eq!(issued.expires_at, now + SignedDuration::from_mins(5));
    let svid = validate(&issued, &authority.jwt_bundles(), now).unwrap();
    assert_eq!(
        (svid.id(), svid.expires_at()),
        (&id("/web"), issued.expires_at)
    );
    assert_eq!(svid.audience(), [API]);
    assert_eq!(svid.claims()["jti"], Value::String(issued.serial));
    assert_eq!(
        svid.claims()["iat"],
        (now - SignedDuration::from_secs(30)).as_second()
    );
    let late = issued.expires_at;
    let rule = validate(&mint(&authority, now), &authority.jwt_bundles(), late).unwrap_err();
    assert!(matches!(rule, JwtSvidRule::Expired(_)), "{rule}");
}

#[test]
fn an_independent_implementation_believes_the_token_by_the_published_bundle() {
    let (authority, _dir) = new();
    let issued = mint(&authority, Timestamp::now());
    let theirs = spiffe::TrustDomain::new("a.example").unwrap();
    let document: Value = serde_json::from_str(&authority.bundle_jwks()).unwrap();
    let published = document["keys"].as_array().unwrap().iter();
    let published = published
        .filter(|key| key["use"] == "jwt-svid")
        .collect::<Vec<_>>();
    let jwks = serde_json::json!({ "keys": published }).to_string();
    let mut bundles = JwtBundleSet::new();
    bundles.add_bundle(JwtBundle::from_jwt_authorities(theirs, jwks.as_bytes()).unwrap());
    let token = issued.token.expose_secret();
    let svid = spiffe::JwtSvid::parse_and_validate(token, &bundles, &[API]).unwrap();
    assert_eq!(svid.spiffe_id(), &id("/web"));
    assert!(spiffe::JwtSvid::parse_and_validate(token, &bundles, &["other"]).is_err());
}

#[test]
fn the_bundle_document_holds_what_the_bundles_hold() {
    let (authority, _dir) = new();
    let document = BundleDocument::parse(authority.bundle_jwks().as_bytes()).unwrap();
    assert_eq!(
        Some(&document.roots[..]),
        authority.bundles().get(&domain())
    );
    assert_eq!(Some(&document.jwt), authority.jwt_bundles().get(&domain()));
    let both = authority.watch_bundles().borrow().clone();
    assert_eq!(
        (both.x509, both.jwt),
        (authority.bundles(), authority.jwt_bundles())
    );
}

#[test]
fn only_members_get_a_token_and_only_for_somebody() {
    let (authority, _dir) = new();
    let mint = |id: &str, audience: &[&str]| {
        let audience: Vec<_> = audience.iter().map(|name| (*name).to_owned()).collect();
        authority.mint_jwt_svid(&id.parse().unwrap(), &audience, None, Timestamp::now())
    };
    for stranger in ["spiffe://b.example/web", "spiffe://a.example"] {
        let refused = mint(stranger, &[API]);
        assert!(
            matches!(refused, Err(SignError::NotAMember { .. })),
            "{refused:?}"
        );
    }
    for nobody in [&[][..], &[""], &[API, ""]] {
        let refused = mint("spiffe://a.example/web", nobody);
        assert!(matches!(refused, Err(SignError::NoAudience)), "{refused:?}");
    }
}

#[test]
fn a_token_may_live_shorter_but_not_longer_than_an_hour() {
    let (authority, _dir) = new();
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let mint = |life: SignedDuration| {
        authority.mint_jwt_svid(&id("/web"), &[API.to_owned()], Some(life), now)
    };
    let second = SignedDuration::from_secs(1);
    for life in [second, HOUR] {
        assert_eq!(mint(life).unwrap().expires_at, now + life);
    }
    for life in [SignedDuration::ZERO, -HOUR, HOUR + second] {
        let refused = mint(life);
        assert!(
            matches!(refused, Err(SignError::Life { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn a_token_survives_a_restart_but_not_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Timestamp::now();
    let authority = open_at(dir.path(), begin).unwrap();
    let issued = mint(&authority, begin);
    drop(authority);
    let again = open(dir.path()).unwrap();
    assert!(validate(&issued, &again.jwt_bundles(), begin).is_ok());
    drop(again);

    // Keys that live for ten seconds cannot sign for longer.
    let dir = tempfile::tempdir().unwrap();
    let lifetimes = Lifetimes {
        root: SignedDuration::from_secs(10),
        backdate: SignedDuration::ZERO,
        ..Default::default()
    };
    let short = Authority::open_with(dir.path(), domain(), lifetimes, begin).unwrap();
    let issued = mint(&short, begin);
    assert!(issued.expires_at <= begin + SignedDuration::from_secs(10));
}

#[test]
fn a_new_key_is_published_before_it_signs_and_the_old_one_stays() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Timestamp::now();
    let authority = open_at(dir.path(), begin).unwrap();
    let first = mint(&authority, begin);
    assert_eq!(
        (keys(&authority.jwt_bundles()), sequence(&authority)),
        (1, 1)
    );
    mint(&authority, begin + DAY * 16);
    let early = authority.jwt_bundles();
    assert_eq!(
        (keys(&early), sequence(&authority)),
        (2, 3),
        "a root came too"
    );
    assert!(validate(&first, &early, begin).is_ok());

    // In its predecessor's last days the new key signs; whoever fetched the bundle early knows it.
    let late = begin + DAY * 26;
    let second = mint(&authority, late);
    assert!(validate(&second, &early, late).is_ok());
    let kid = |issued: &IssuedJwtSvid| {
        let token = issued.token.expose_secret();
        token.split_once('.').unwrap().0.to_owned()
    };
    assert_ne!(kid(&first), kid(&second));
    assert_eq!(
        keys(&authority.jwt_bundles()),
        2,
        "what was signed is still about"
    );
    mint(&authority, begin + DAY * 30);
    let after = authority.jwt_bundles();
    let rule = validate(&first, &after, begin).unwrap_err();
    assert!(matches!(rule, JwtSvidRule::UnknownKey { .. }), "{rule}");
}

#[test]
fn every_generation_of_keys_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let begin = Timestamp::now();
    for day in [0, 16, 26] {
        let authority = open_at(dir.path(), begin + DAY * day).unwrap();
        let (bundles, sequence_then) = (authority.jwt_bundles(), sequence(&authority));
        drop(authority);
        let again = open_at(dir.path(), begin + DAY * day).unwrap();
        assert_eq!(again.jwt_bundles(), bundles);
        assert_eq!(sequence(&again), sequence_then);
    }
}

#[test]
fn an_authority_from_before_jwt_svids_gets_its_first_key() {
    let (authority, dir) = new();
    let roots = authority.bundle_pem();
    drop(authority);
    let path = dir.path().join("authority.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    state.as_object_mut().unwrap().remove("jwt");
    fs::write(&path, state.to_string()).unwrap();

    let authority = open(dir.path()).unwrap();
    assert_eq!(authority.bundle_pem(), roots);
    assert_eq!(sequence(&authority), 2, "the published set has changed");
    let issued = mint(&authority, Timestamp::now());
    drop(authority);
    let again = open(dir.path()).unwrap();
    assert!(validate(&issued, &again.jwt_bundles(), Timestamp::now()).is_ok());
}
