//! What a registry wants to see: nothing, a password, or a token that somebody else gives for it
//! (the "Bearer" scheme of the distribution project's token specification).

use std::fmt;
use std::net::SocketAddr;

use ::http::header::{HeaderValue, WWW_AUTHENTICATE};
use ::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::http::{self, Patience};
use super::reach::Reach;
use super::{RegistryError, Repository};

/// The most bytes of a token's answer.
const MAX_ANSWER: u64 = 256 << 10;

/// Who asks a registry.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password, or a token that is used as one.
    #[schemars(extend("writeOnly" = true))]
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    fn basic(&self) -> Result<HeaderValue, RegistryError> {
        let pair = STANDARD.encode(format!("{}:{}", self.username, self.password));
        secret(format!("Basic {pair}"))
    }
}

fn secret(text: String) -> Result<HeaderValue, RegistryError> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| RegistryError::Protocol("its token is none".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// What a 401 asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

impl Challenge {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, RegistryError> {
        headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Self::parse(value.to_str().ok()?))
            .next()
            .ok_or(RegistryError::Unauthorized)
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        for (name, value) in parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
        }
        realm.map(|realm| Self::Bearer { realm, service })
    }
}

/// `name="value", name=value` (RFC 9110, section 11.2).
fn parameters(mut text: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    while let Some((name, rest)) = text.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']);
        let value;
        if let Some(quoted) = rest.trim_start().strip_prefix('"') {
            let mut unquoted = String::new();
            let mut chars = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    '\\' => unquoted.extend(chars.next().map(|(_, c)| c)),
                    c => unquoted.push(c),
                }
            }
            (value, text) = (unquoted, &quoted[end..]);
        } else {
            let (word, rest) = rest.split_once(',').unwrap_or((rest, ""));
            (value, text) = (word.trim().to_owned(), rest);
        }
        found.push((name, value));
    }
    found
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Repository {
    /// What satisfies a challenge of whoever is at this address, or would if the credentials are
    /// good.
    pub(super) async fn answer(
        &self,
        challenge: Challenge,
        sender: Option<SocketAddr>,
    ) -> Result<HeaderValue, RegistryError> {
        let own = self.credentials.as_ref();
        let (realm, service) = match challenge {
            Challenge::Basic => return own.ok_or(RegistryError::Unauthorized)?.basic(),
            Challenge::Bearer { realm, service } => (realm, service),
        };
        let no_url = |error: url::ParseError| RegistryError::Protocol(error.to_string());
        let mut url = Url::parse(&realm).map_err(no_url)?;
        self.allow(&url)?;
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &service {
                query.append_pair("service", service);
            }
            // Not what it asks for: what we need and no more.
            let scope = format!("repository:{}:pull", self.reference.repository);
            query.append_pair("scope", &scope);
        }
        let shown = own.map(Credentials::basic).transpose()?;
        if shown.is_some() {
            self.allow_password(&url)?;
        }
        let reach = Reach::led_by(sender, &url);
        let mut patience = Patience::default();
        loop {
            match self.token(&url, reach, shown.as_ref()).await {
                Ok(token) => return secret(format!("Bearer {token}")),
                Err(error) => patience.after(error).await?,
            }
        }
    }

    /// A password goes in the clear to the registry itself, where whoever names it says so, and to
    /// nobody else; what proves its name may be elsewhere, as docker.io's auth.docker.io is.
    fn allow_password(&self, realm: &Url) -> Result<(), RegistryError> {
        if realm.scheme() == "https" || realm.origin() == self.base.origin() {
            return Ok(());
        }
        Err(RegistryError::PasswordInTheClear {
            host: realm.host_str().unwrap_or_default().to_owned(),
        })
    }

    async fn token(
        &self,
        url: &Url,
        reach: Reach,
        shown: Option<&HeaderValue>,
    ) -> Result<String, RegistryError> {
        let headers = HeaderMap::new();
        let response = self.http.get(url, reach, &headers, shown).await?;
        if response.status() != StatusCode::OK {
            return Err(RegistryError::of_status("a token", response.status()));
        }
        let bytes = http::whole(response.into_body(), MAX_ANSWER).await?;
        let token: Token = serde_json::from_slice(&bytes)
            .map_err(|error| RegistryError::Protocol(error.to_string()))?;
        token
            .token
            .or(token.access_token)
            .ok_or_else(|| RegistryError::Protocol("it gives no token".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_challenge_says_where_the_token_is() {
        let text = r#"Bearer realm="https://auth.example/token?a=b",service="reg,istry", scope=x"#;
        let challenge = Challenge::parse(text).unwrap();
        let wanted = Challenge::Bearer {
            realm: "https://auth.example/token?a=b".to_owned(),
            service: Some("reg,istry".to_owned()),
        };
        assert_eq!(challenge, wanted);
        assert_eq!(Challenge::parse("basic realm=x"), Some(Challenge::Basic));
        assert_eq!(Challenge::parse("Negotiate"), None);
        assert_eq!(Challenge::parse("Bearer"), None);
    }

    #[test]
    fn a_password_is_not_in_what_is_logged() {
        let credentials = Credentials {
            username: "u".to_owned(),
            password: "hush".to_owned(),
        };
        assert!(!format!("{credentials:?}").contains("hush"));
        assert!(!format!("{:?}", credentials.basic().unwrap()).contains("Basic"));
    }

    proptest! {
        #[test]
        fn no_challenge_is_too_strange(text in "\\PC{0,60}") {
            let _ = Challenge::parse(&format!("Bearer {text}"));
        }
    }
}
