//! SPIFFE IDs as text, read as strictly as the standard writes them
//! ([SPIFFE-ID](https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md) §2).
//!
//! The `spiffe` crate reads `SPIFFE://Example.ORG/web` too, and turns it into lower case, and sets no
//! limit to the length of what it reads. Two texts for one identity are one too many where an ID is
//! compared, logged, or written into a policy, so whatever comes from outside (certificates, tokens,
//! configuration) is read by these functions.

use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};

/// §2.3: no SPIFFE ID is longer.
const MAX_BYTES: usize = 2048;

/// Why a text is no SPIFFE ID, or no trust domain.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// The text breaks a rule of the standard.
    #[error(transparent)]
    Rule(#[from] SpiffeIdError),
    /// §2.1: a trust domain is `[a-z0-9._-]`, and the scheme is `spiffe`.
    #[error("scheme and trust domain are written in lower case: {canonical}")]
    UpperCase {
        /// How it should have been written.
        canonical: String,
    },
    /// A trust domain was expected, and this is something longer.
    #[error("a trust domain is a name like example.org, without scheme and path")]
    NotATrustDomain,
}

/// Reads a SPIFFE ID, with or without a path.
///
/// ```
/// use hostler_identity::parse_spiffe_id;
///
/// let id = parse_spiffe_id("spiffe://example.org/team/web")?;
/// assert_eq!((id.trust_domain().as_str(), id.path()), ("example.org", "/team/web"));
/// assert!(parse_spiffe_id("spiffe://example.org//web").is_err());
/// assert!(parse_spiffe_id("spiffe://Example.org/web").is_err());
/// # Ok::<(), hostler_identity::IdError>(())
/// ```
pub fn parse_spiffe_id(text: &str) -> Result<SpiffeId, IdError> {
    if text.len() > MAX_BYTES {
        return Err(SpiffeIdError::SpiffeIdTooLong { max: MAX_BYTES }.into());
    }
    let id = SpiffeId::new(text)?;
    let canonical = id.to_string();
    match canonical == text {
        true => Ok(id),
        false => Err(IdError::UpperCase { canonical }),
    }
}

/// Reads the bare name of a trust domain: `example.org`.
pub fn parse_trust_domain(text: &str) -> Result<TrustDomain, IdError> {
    if text.contains("://") || text.contains('/') {
        return Err(IdError::NotATrustDomain);
    }
    let domain = TrustDomain::new(text)?;
    match domain.as_str() == text {
        true => Ok(domain),
        false => Err(IdError::UpperCase {
            canonical: domain.to_string(),
        }),
    }
}
