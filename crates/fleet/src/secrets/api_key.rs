//! API keys: `hst_` and 32 hex digits.

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};

const PREFIX: &str = "hst_";

/// An API key: 128 random bits behind a prefix by which scanners of leaked secrets know it.
///
/// It is shown once, when it is made: [`reveal`](Self::reveal), or as the field of an answer.
#[derive(Debug, Clone)]
pub struct ApiKey(SecretString);

impl ApiKey {
    pub(crate) fn generate() -> Self {
        Self(format!("{PREFIX}{}", super::random_hex::<16>()).into())
    }

    /// The key itself, for the one who is to have it.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    pub(crate) fn hash(&self) -> String {
        super::hash(self.reveal())
    }

    /// Whether a bearer token may be an API key; what may not be one is never looked up.
    pub(crate) fn may_be_one(bearer: &SecretString) -> bool {
        let text = bearer.expose_secret();
        text.strip_prefix(PREFIX)
            .is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
    }
}

impl Serialize for ApiKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.reveal())
    }
}

impl JsonSchema for ApiKey {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ApiKey".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^hst_[0-9a-f]{32}$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_its_prefix_and_32_hex_digits_and_never_prints() {
        let key = ApiKey::generate();
        assert!(ApiKey::may_be_one(&key.reveal().into()), "{}", key.reveal());
        assert!(!format!("{key:?}").contains(&key.reveal()[4..]));
        assert_ne!(key.hash(), ApiKey::generate().hash());
        for other in ["", "hst_", "hst_xyz", "eyJhbGciOiJFUzI1NiJ9.e30.x"] {
            assert!(!ApiKey::may_be_one(&other.into()), "{other}");
        }
    }
}
