//! JWT-SVIDs on the command line: fetched to be presented, verified as whoever is asked to believe
//! one would.

use std::path::Path;

use hostler_identity::{BundleDocument, JwtBundles, JwtSvid, WorkloadJwt};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::From;
use super::inspect::{By, not_valid, read};
use crate::commands::show_fields;
use crate::failure::{Doing, Failure};
use crate::output::Printing;

pub(super) async fn fetch(
    from: &From,
    audience: &[String],
    printing: Printing,
) -> Result<(), Failure> {
    let given = WorkloadJwt::fetch(from.endpoint()?, audience, &from.choice()?).await?;
    let mut answer = json!({
        "id": given.name.id.to_string(),
        "audience": given.audience,
        "expires_at": given.expires_at.to_string(),
        "token": given.token.expose_secret(),
    });
    if let Some(hint) = given.name.hint {
        answer["hint"] = hint.into();
    }
    show_fields(printing, &answer);
    Ok(())
}

/// Whether a text is meant as a token: three parts of base64url. PEM has dashes and lines.
pub(super) fn looks_like_one(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let text = text.trim();
    text.bytes().all(letter) && text.split('.').count() == 3
}

pub(super) fn verify(token: &str, file: &Path, by: &By<'_>) -> Result<Value, Failure> {
    let audience = by.audience.ok_or_else(|| {
        Failure::new(format!(
            "{} is a JWT-SVID: give --audience, whom it must be for",
            file.display()
        ))
    })?;
    let not_valid = || not_valid(file);
    let claimed = JwtSvid::claimed_id(token).doing(not_valid)?;
    let mut bundles = JwtBundles::new();
    bundles.insert(claimed.trust_domain().clone(), keys(by.bundle)?);
    let svid = JwtSvid::validate(token, audience, &bundles, Timestamp::now()).doing(not_valid)?;
    by.must_be_of(svid.id(), file)?;
    Ok(json!({
        "valid": true,
        "id": svid.id().to_string(),
        "audience": svid.audience(),
        "expires_at": svid.expires_at().to_string(),
    }))
}

/// The keys of one trust domain. A file does not say whose they are; whoever gives it does.
fn keys(file: &Path) -> Result<hostler_identity::JwtBundle, Failure> {
    let unusable = || format!("the bundle {} cannot be used", file.display());
    let text = read(file)?;
    if !text.trim_start().starts_with('{') {
        return Err(Failure::new(format!(
            "{}: a JWT-SVID is checked by the keys of a SPIFFE bundle (a JWK set, which \
             `curl https://SERVER/bundle` answers with), and this is none",
            unusable()
        )));
    }
    Ok(BundleDocument::parse(text.as_bytes()).doing(unusable)?.jwt)
}
