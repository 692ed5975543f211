//! `hostler svid show` and `verify`: files, without a network.

use std::path::Path;

use hostler_identity::{BundleDocument, SpiffeId, SvidChain, TrustBundles, TrustDomain};
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::certificate::describe;
use super::token;
use crate::commands::{Column, show_fields};
use crate::failure::{Doing, Failure};
use crate::output::{self, Format, Printing, cell, moment};

const COLUMNS: &[Column] = &[
    ("URI", |c| cell(c, "uris")),
    ("CA", |c| {
        if c["ca"] == true { "yes" } else { "no" }.to_owned()
    }),
    ("VALID FROM", |c| moment(c, "not_before")),
    ("VALID UNTIL", |c| moment(c, "not_after")),
    ("KEY", |c| cell(c, "key")),
    ("SERIAL", |c| cell(c, "serial")),
];

pub(super) fn show(file: &Path, printing: Printing) -> Result<(), Failure> {
    let text = read(file)?;
    let certificates = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .doing(|| format!("{} is no readable PEM", file.display()))?;
    if certificates.is_empty() {
        let reason = format!("{} holds no certificate in PEM", file.display());
        return Err(Failure::new(reason));
    }
    let described = certificates
        .iter()
        .map(describe)
        .collect::<Result<Vec<_>, _>>()?;
    let problem = SvidChain::from_der(certificates)
        .err()
        .map(|problem| problem.to_string());
    if printing.output == Format::Json {
        output::json(
            &json!({ "certificates": described, "svid": problem.is_none(), "problem": problem }),
        );
        return Ok(());
    }
    crate::commands::show(printing, &described.into(), COLUMNS);
    output::progress(match problem {
        None => "an X.509-SVID; `hostler svid verify` says who vouches for it".to_owned(),
        Some(problem) => format!("no X.509-SVID: {problem}"),
    });
    Ok(())
}

/// What an SVID is verified by.
pub(super) struct By<'a> {
    pub(super) bundle: &'a Path,
    /// Whom a token must be for.
    pub(super) audience: Option<&'a str>,
    /// Whose it must be.
    pub(super) id: Option<SpiffeId>,
}

pub(super) fn verify(file: &Path, by: &By<'_>, printing: Printing) -> Result<(), Failure> {
    let text = read(file)?;
    let verdict = match token::looks_like_one(&text) {
        true => token::verify(text.trim(), file, by)?,
        false if by.audience.is_some() => {
            let reason = format!(
                "{} is no JWT-SVID, and nothing else has an audience",
                file.display()
            );
            return Err(Failure::new(reason));
        }
        false => verify_chain(&text, file, by)?,
    };
    show_fields(printing, &verdict);
    Ok(())
}

fn verify_chain(text: &str, file: &Path, by: &By<'_>) -> Result<Value, Failure> {
    let not_valid = || not_valid(file);
    let chain = SvidChain::from_pem(text).doing(not_valid)?;
    by.must_be_of(chain.id(), file)?;
    let bundles = roots(by.bundle, chain.id().trust_domain())?;
    chain.verify(&bundles, Timestamp::now()).doing(not_valid)?;
    Ok(json!({
        "valid": true,
        "id": chain.id().to_string(),
        "not_before": chain.not_before().to_string(),
        "not_after": chain.not_after().to_string(),
    }))
}

impl By<'_> {
    pub(super) fn must_be_of(&self, id: &SpiffeId, file: &Path) -> Result<(), Failure> {
        match &self.id {
            Some(expected) if id != expected => Err(Failure::new(format!(
                "{}: it is of {id}, not {expected}",
                not_valid(file)
            ))),
            _ => Ok(()),
        }
    }
}

pub(super) fn not_valid(file: &Path) -> String {
    format!("{} is not valid", file.display())
}

/// The roots of one trust domain. A file does not say whose they are; whoever gives it does.
fn roots(file: &Path, trust_domain: &TrustDomain) -> Result<TrustBundles, Failure> {
    let text = read(file)?;
    let unusable = || format!("the bundle {} cannot be used", file.display());
    let bundles = if text.trim_start().starts_with('{') {
        let document = BundleDocument::parse(text.as_bytes()).doing(unusable)?;
        let mut bundles = TrustBundles::new();
        bundles
            .insert(trust_domain.clone(), document.roots)
            .doing(unusable)?;
        bundles
    } else {
        TrustBundles::from_pem(trust_domain.clone(), &text).doing(unusable)?
    };
    match bundles.get(trust_domain) {
        Some(roots) if !roots.is_empty() => Ok(bundles),
        _ => Err(Failure::new(format!(
            "{}: it holds no root certificate",
            unusable()
        ))),
    }
}

/// A file's text, or that of the standard input for `-`.
pub(super) fn read(file: &Path) -> Result<String, Failure> {
    let text = match file.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    text.doing(|| format!("cannot read {}", file.display()))
}
