//! What a caller shows, and who says whom it belongs to.
//!
//! The gateway collects credentials from headers and from the connection and understands none of
//! them. An [`IdentityProvider`], which the application writes, turns them into an [`Identity`]; it
//! is asked anew for each request, so that a revoked token stops working on a connection that
//! lives.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use hostler_identity::PeerIdentity;
use hostler_operations::Identity;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName};
use rustls::pki_types::CertificateDer;
use secrecy::SecretString;

use crate::connection::ConnectionInfo;

/// Everything that one request brings as proof of who sends it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The token of `Authorization: Bearer …` (RFC 6750 section 2.1).
    pub bearer: Option<SecretString>,
    /// The values of the headers that were configured as credentials, such as `x-host-token`.
    pub named: Vec<(HeaderName, SecretString)>,
    /// The SPIFFE ID that the peer proved in the TLS handshake.
    pub peer: Option<PeerIdentity>,
    /// The leaf certificate that the handshake verified, SVID or not. A door that trusts a private
    /// CA without SPIFFE IDs recognises its callers by it.
    pub certificate: Option<Arc<CertificateDer<'static>>>,
    /// Where the connection comes from.
    pub remote: Option<SocketAddr>,
}

/// Says who a caller is.
pub trait IdentityProvider: Send + Sync + 'static {
    /// Whose credentials these are. `None` when nothing that it knows was presented.
    ///
    /// # Errors
    /// [`AuthError::Invalid`] when something was presented and does not hold, and
    /// [`AuthError::Unavailable`] when that cannot be found out now.
    fn resolve<'a>(
        &'a self,
        credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<Option<Identity>, AuthError>>;
}

/// Why credentials do not make an identity.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// They are unknown, expired or revoked: 401. The caller reads the message.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// Their holder asks too often: 429, to come back after this time.
    #[error("too many requests; wait a moment")]
    TooOften(Duration),
    /// They cannot be checked now: 503. Only the log reads the cause.
    #[error("credentials cannot be checked: {0}")]
    Unavailable(String),
}

impl AuthError {
    /// An [`AuthError::Invalid`]: what is wrong with the credential and how to get a better one.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Invalid(message.into())
    }
}

impl Credentials {
    /// What a connection alone proves.
    pub(crate) fn of_connection(connection: &ConnectionInfo) -> Self {
        Self {
            bearer: None,
            named: Vec::new(),
            peer: connection.peer().cloned(),
            certificate: connection.certificate().cloned(),
            remote: Some(connection.remote()),
        }
    }

    /// Whether somebody was proved by the handshake already.
    pub(crate) fn connection_is_known(&self) -> bool {
        self.peer.is_some() || self.certificate.is_some()
    }

    /// Collects them from the request's headers and its connection.
    pub(crate) fn gather(
        headers: &HeaderMap,
        names: &[HeaderName],
        connection: Option<&ConnectionInfo>,
    ) -> Result<Self, AuthError> {
        let mut named = Vec::new();
        for name in names {
            if let Some(value) = only_value(headers, name)? {
                named.push((name.clone(), SecretString::from(value)));
            }
        }
        Ok(Self {
            bearer: only_value(headers, &AUTHORIZATION)?.and_then(bearer),
            named,
            ..connection.map(Self::of_connection).unwrap_or_default()
        })
    }
}

/// A credential that comes twice, or in letters that no token has, is refused: what one program
/// on the way takes the first of, another takes the last of.
fn only_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, AuthError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        let message = format!("the header {name} came more than once; send it once");
        return Err(AuthError::invalid(message));
    }
    let value = value.to_str().map_err(|_| {
        AuthError::invalid(format!(
            "the header {name} holds characters that are not ASCII"
        ))
    })?;
    Ok(Some(value))
}

/// The token, when the scheme is `Bearer` (in any case, RFC 9110 section 11.1). Other schemes are
/// not offered, so they prove nothing.
fn bearer(value: &str) -> Option<SecretString> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| SecretString::from(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use secrecy::ExposeSecret;

    fn gathered(values: &[&'static str]) -> Result<Option<String>, AuthError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_static(value));
        }
        let credentials = Credentials::gather(&headers, &[], None)?;
        Ok(credentials
            .bearer
            .map(|token| token.expose_secret().to_owned()))
    }

    #[test]
    fn a_bearer_token_is_taken_whatever_the_case_of_its_scheme() {
        assert_eq!(
            gathered(&["bearer abc"]).expect("one").as_deref(),
            Some("abc")
        );
        assert_eq!(
            gathered(&["Bearer  abc "]).expect("one").as_deref(),
            Some("abc")
        );
        for nothing in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(gathered(&[nothing]).expect("none"), None, "{nothing:?}");
        }
    }

    #[test]
    fn two_tokens_are_refused() {
        assert!(matches!(
            gathered(&["Bearer a", "Bearer b"]),
            Err(AuthError::Invalid(_))
        ));
    }

    #[test]
    fn credentials_do_not_print_themselves() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer tops3cret"));
        headers.insert("x-host-token", HeaderValue::from_static("tops3cret"));
        let names = [HeaderName::from_static("x-host-token")];
        let credentials = Credentials::gather(&headers, &names, None).expect("both");
        assert_eq!(credentials.named.len(), 1);
        assert!(!format!("{credentials:?}").contains("tops3cret"));
    }
}
