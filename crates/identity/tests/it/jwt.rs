//! Each rule of the JWT-SVID standard: a token that keeps it and one that breaks only it, signed
//! in the test by keys that the test owns.

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hostler_identity::{
    JwtBundle, JwtBundles, JwtKey, JwtKeyError, JwtSvid, JwtSvidRule, TrustDomain,
};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};

const US: &str = "spiffe://a.example/api";
const CALLER: &str = "spiffe://a.example/web";
const NOW: i64 = 1_800_000_000;

/// A key pair of each kind that the standard knows; made once, because RSA takes its time.
enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

struct Issuer {
    keys: [(&'static str, Pair); 4],
}

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    let ec = |algorithm| Pair::Ec(EcdsaKeyPair::generate(algorithm).unwrap());
    let keys = [
        ("p256", ec(&ECDSA_P256_SHA256_FIXED_SIGNING)),
        ("p384", ec(&ECDSA_P384_SHA384_FIXED_SIGNING)),
        ("p521", ec(&ECDSA_P521_SHA512_FIXED_SIGNING)),
        (
            "rsa",
            Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        ),
    ];
    Issuer { keys }
});

impl Pair {
    fn public(&self) -> JwtKey {
        let spki: PublicKeyX509Der<'_> = match self {
            Self::Ec(pair) => pair.public_key().as_der().unwrap(),
            Self::Rsa(pair) => pair.public_key().as_der().unwrap(),
        };
        JwtKey::from_spki_der(spki.as_ref()).unwrap()
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let rng = SystemRandom::new();
        match self {
            Self::Ec(pair) => pair.sign(&rng, message).unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    other => panic!("{other} is not RSA"),
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &rng, message, &mut signature).unwrap();
                signature
            }
        }
    }
}

/// The right key for an algorithm.
fn key_for(algorithm: &str) -> &'static str {
    match algorithm {
        "ES256" => "p256",
        "ES384" => "p384",
        "ES512" => "p521",
        _ => "rsa",
    }
}

fn token(header: &Value, claims: &Value) -> String {
    token_of(&header.to_string(), &claims.to_string())
}

/// Signs exactly these texts, with the key that the header names or else with `p256`.
fn token_of(header: &str, claims: &str) -> String {
    let parsed: Value = serde_json::from_str(header).unwrap_or_default();
    let kid = parsed["kid"].as_str().unwrap_or("p256");
    let algorithm = parsed["alg"].as_str().unwrap_or_default();
    let named = ISSUER.keys.iter().find(|(name, _)| *name == kid);
    let (_, pair) = named.unwrap_or(&ISSUER.keys[0]);
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = pair.sign(algorithm, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn header() -> Value {
    json!({ "alg": "ES256", "kid": "p256", "typ": "JWT" })
}

fn claims() -> Value {
    json!({ "sub": CALLER, "aud": [US], "exp": NOW + 300, "iat": NOW })
}

fn with(mut value: Value, member: &str, to: Value) -> Value {
    value[member] = to;
    value
}

fn without(mut value: Value, member: &str) -> Value {
    value.as_object_mut().unwrap().remove(member);
    value
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn bundles() -> JwtBundles {
    let mut bundle = JwtBundle::new();
    for (kid, pair) in &ISSUER.keys {
        assert!(bundle.insert(*kid, pair.public()).is_none());
    }
    let mut bundles = JwtBundles::new();
    bundles.insert(domain("a.example"), bundle);
    bundles
}

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn validate(token: &str) -> Result<JwtSvid, JwtSvidRule> {
    JwtSvid::validate(token, US, &bundles(), now())
}

fn refused(header: &Value, claims: &Value) -> JwtSvidRule {
    validate(&token(header, claims)).unwrap_err()
}

#[test]
fn a_good_token_yields_who_presents_it_and_all_of_its_claims() {
    let claims = with(claims(), "role", json!({ "deep": [1, null] }));
    let svid = validate(&token(&header(), &claims)).unwrap();
    assert_eq!(svid.id().to_string(), CALLER);
    assert_eq!(svid.audience(), [US]);
    assert_eq!(svid.expires_at(), now() + SignedDuration::from_secs(300));
    assert_eq!(Value::Object(svid.claims().clone()), claims);
}

#[test]
fn each_of_the_nine_algorithms_is_accepted_with_its_key() {
    for algorithm in [
        "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
    ] {
        let header = json!({ "alg": algorithm, "kid": key_for(algorithm) });
        let accepted = validate(&token(&header, &claims()));
        assert!(accepted.is_ok(), "{algorithm}: {accepted:?}");
    }
}

#[test]
fn another_algorithm_is_refused_even_with_a_right_signature() {
    for algorithm in ["none", "HS256", "EdDSA", "es256", "ES256K", ""] {
        let rule = refused(&with(header(), "alg", algorithm.into()), &claims());
        assert_eq!(rule, JwtSvidRule::Algorithm(algorithm.to_owned()));
    }
    assert_eq!(
        refused(&without(header(), "alg"), &claims()),
        JwtSvidRule::Header
    );
}

#[test]
fn an_algorithm_of_another_key_is_refused() {
    // Signed as the header says, but the key of that ID is of another kind.
    for (algorithm, kid) in [("ES384", "p256"), ("ES256", "p521"), ("ES256", "rsa")] {
        let signed = token(&json!({ "alg": "RS256", "kid": "rsa" }), &claims());
        let header = json!({ "alg": algorithm, "kid": kid }).to_string();
        let rest = signed.split_once('.').unwrap().1;
        let rule = validate(&format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header)));
        let rule = rule.unwrap_err();
        assert!(
            matches!(rule, JwtSvidRule::AlgorithmOfAnotherKey(_)),
            "{rule}"
        );
    }
}

#[test]
fn the_type_may_be_absent_jwt_or_jose_and_nothing_else() {
    assert!(validate(&token(&without(header(), "typ"), &claims())).is_ok());
    assert!(validate(&token(&with(header(), "typ", "JOSE".into()), &claims())).is_ok());
    for typ in ["jwt", "at+jwt", ""] {
        let rule = refused(&with(header(), "typ", typ.into()), &claims());
        assert_eq!(rule, JwtSvidRule::Type(typ.to_owned()));
    }
}

#[test]
fn a_header_with_more_in_it_than_the_standard_knows_is_refused() {
    for member in ["crit", "jku", "jwk", "x5c", "x5u", "cty", "b64", "private"] {
        let rule = refused(&with(header(), member, json!([])), &claims());
        assert_eq!(rule, JwtSvidRule::Header, "{member}");
    }
    let twice = r#"{"alg":"ES256","kid":"p256","kid":"p384"}"#;
    let rule = validate(&token_of(twice, &claims().to_string())).unwrap_err();
    assert_eq!(rule, JwtSvidRule::Header);
}

#[test]
fn the_key_is_named_and_is_one_of_the_subjects_trust_domain() {
    assert_eq!(
        refused(&without(header(), "kid"), &claims()),
        JwtSvidRule::NoKeyId
    );
    assert_eq!(
        refused(&with(header(), "kid", "".into()), &claims()),
        JwtSvidRule::NoKeyId
    );
    let rule = refused(&with(header(), "kid", "other".into()), &claims());
    assert!(matches!(rule, JwtSvidRule::UnknownKey { .. }), "{rule}");
}

#[test]
fn a_trust_domain_speaks_for_nobody_elses_members() {
    let foreign = with(claims(), "sub", "spiffe://b.example/web".into());
    assert_eq!(
        refused(&header(), &foreign),
        JwtSvidRule::NoBundle(domain("b.example"))
    );
    // With a bundle for b.example in which another key goes by the same ID.
    let mut bundles = bundles();
    let mut theirs = JwtBundle::new();
    let pair = Pair::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap());
    theirs.insert("p256", pair.public());
    bundles.insert(domain("b.example"), theirs);
    let token = token(&header(), &foreign);
    let rule = JwtSvid::validate(&token, US, &bundles, now()).unwrap_err();
    assert_eq!(rule, JwtSvidRule::Signature);
}

#[test]
fn the_subject_is_a_spiffe_id() {
    assert_eq!(
        refused(&header(), &without(claims(), "sub")),
        JwtSvidRule::NoSubject
    );
    for sub in [
        "web",
        "https://a.example/web",
        "spiffe://a.example/web/",
        "spiffe://A.example/web",
        "",
    ] {
        let rule = refused(&header(), &with(claims(), "sub", sub.into()));
        assert!(matches!(rule, JwtSvidRule::InvalidSubject(_)), "{rule}");
    }
    let rule = refused(&header(), &with(claims(), "sub", json!(1)));
    assert_eq!(rule, JwtSvidRule::Claims);
}

#[test]
fn the_audience_is_a_name_or_a_list_with_ours_among_them() {
    for aud in [json!(US), json!([US]), json!(["other", US])] {
        assert!(validate(&token(&header(), &with(claims(), "aud", aud))).is_ok());
    }
    assert_eq!(
        refused(&header(), &without(claims(), "aud")),
        JwtSvidRule::NoAudience
    );
    let rule = refused(&header(), &with(claims(), "aud", json!([])));
    assert_eq!(rule, JwtSvidRule::NoAudience);
    for aud in [
        json!("other"),
        json!([format!("{US}/")]),
        json!(US.to_uppercase()),
    ] {
        let rule = refused(&header(), &with(claims(), "aud", aud));
        assert!(matches!(rule, JwtSvidRule::OtherAudience { .. }), "{rule}");
    }
    for aud in [json!(7), json!([US, 7]), json!({ "name": US })] {
        let rule = refused(&header(), &with(claims(), "aud", aud));
        assert_eq!(rule, JwtSvidRule::Claims);
    }
}

#[test]
fn a_token_expires_on_the_second_and_must_say_when() {
    let expiring = |at: Value| with(claims(), "exp", at);
    assert!(validate(&token(&header(), &expiring(json!(NOW + 1)))).is_ok());
    for exp in [
        json!(NOW),
        json!(NOW - 1),
        json!(0),
        json!(NOW as f64 + 0.9),
    ] {
        let rule = refused(&header(), &expiring(exp));
        assert!(matches!(rule, JwtSvidRule::Expired(_)), "{rule}");
    }
    assert_eq!(
        refused(&header(), &without(claims(), "exp")),
        JwtSvidRule::NoExpiry
    );
    for exp in [
        json!("2030"),
        json!(1e300),
        json!(i64::MAX),
        json!(u64::MAX),
    ] {
        assert_eq!(refused(&header(), &expiring(exp)), JwtSvidRule::Claims);
    }
}

#[test]
fn a_token_before_its_time_is_refused_beyond_half_a_minute_of_skew() {
    let from = |at: i64| with(claims(), "nbf", at.into());
    assert!(validate(&token(&header(), &from(NOW - 1))).is_ok());
    assert!(validate(&token(&header(), &from(NOW + 30))).is_ok());
    let rule = refused(&header(), &from(NOW + 31));
    assert!(matches!(rule, JwtSvidRule::NotYetValid(_)), "{rule}");
}

#[test]
fn a_claim_that_stands_twice_is_refused() {
    let claims = claims().to_string();
    for twice in [
        "\"sub\":\"spiffe://a.example/admin\"",
        "\"exp\":9999999999",
        "\"aud\":\"x\"",
    ] {
        let claims = claims.replacen('{', &format!("{{{twice},"), 1);
        let rule = validate(&token_of(&header().to_string(), &claims)).unwrap_err();
        assert_eq!(rule, JwtSvidRule::Claims, "{twice}");
    }
}

#[test]
fn what_is_no_compact_jws_is_refused() {
    let good = token(&header(), &claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    for broken in [
        "",
        "..",
        "a.b",
        signed,
        &format!("{good}.x"),
        &format!("{good}="),
        &format!(" {good}"),
        &format!("{signed}.{signature}+"),
    ] {
        let rule = validate(broken).unwrap_err();
        let form = matches!(rule, JwtSvidRule::NotCompact | JwtSvidRule::Header);
        assert!(form, "{broken}: {rule}");
    }
    let long = format!("{signed}.{}", "A".repeat(16 * 1024));
    assert!(matches!(validate(&long), Err(JwtSvidRule::TooLong { .. })));
    let rule = validate(&format!("{signed}.")).unwrap_err();
    assert_eq!(rule, JwtSvidRule::Signature, "and one without a signature");
}

#[test]
fn keys_that_cannot_check_jwt_svids_are_refused() {
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let spki = rcgen::PublicKeyData::subject_public_key_info(&ed25519);
    assert_eq!(JwtKey::from_spki_der(&spki), Err(JwtKeyError::Kind));
    assert_eq!(
        JwtKey::from_spki_der(b"nonsense"),
        Err(JwtKeyError::Malformed)
    );
}

proptest! {
    #[test]
    fn any_text_is_judged_without_a_panic(text in "\\PC*\\.?\\PC*\\.?\\PC*") {
        prop_assert!(validate(&text).is_err());
    }

    #[test]
    fn any_header_and_claims_are_judged_without_a_panic(
        header in "\\{(\"alg\":\"ES256\",)?(\"kid\":\"p256\")?\\}?",
        claims in "\\{(\"sub\":\"spiffe://[a-z./]{1,20}\",)?(\"exp\":[0-9eE.+-]{1,12},)?\"aud\":\\[?\"x\"\\]?\\}",
    ) {
        prop_assert!(validate(&token_of(&header, &claims)).is_err());
    }

    #[test]
    fn one_changed_character_ruins_a_token(position in 0_usize..10_000, replacement in "[A-Za-z0-9_-]") {
        let good = token(&header(), &claims());
        let position = position % good.len();
        let mut broken = good.clone();
        broken.replace_range(position..=position, &replacement);
        prop_assume!(broken != good);
        prop_assert!(validate(&broken).is_err());
    }

    #[test]
    fn a_token_is_good_exactly_for_its_audience_until_its_expiry(
        path in "(/[a-zA-Z0-9._-]{0,8}[a-zA-Z0-9]){1,4}",
        audience in proptest::collection::vec("[ -~]{0,20}", 1..4),
        life in 1_i64..1_000_000,
        age in 0_i64..2_000_000,
        presented_to in any::<proptest::sample::Index>(),
    ) {
        let id = format!("spiffe://a.example{path}");
        let claims = json!({ "sub": id, "aud": audience, "exp": NOW + life });
        let token = token(&header(), &claims);
        let at = Timestamp::from_second(NOW + age).unwrap();
        let (us, bundles) = (presented_to.get(&audience), bundles());
        match JwtSvid::validate(&token, us, &bundles, at) {
            Ok(svid) => {
                prop_assert!(age < life);
                prop_assert_eq!(svid.id().to_string(), id);
            }
            Err(rule) => {
                prop_assert!(age >= life && matches!(rule, JwtSvidRule::Expired(_)), "{}", rule);
            }
        }
        let other = JwtSvid::validate(&token, "somebody else altogether", &bundles, at);
        prop_assert!(other.is_err());
    }
}
