//! Registration tokens: `hsr_` and 64 hex digits.

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A one-time token that turns a machine into one certain pending host: 256 random bits.
///
/// It comes in with a registration and goes out once, in the answer that issued it. The fleet keeps
/// only its hash, so whatever text a caller sends can be held here; a wrong one is not found.
#[derive(Debug, Clone)]
pub struct RegistrationToken(SecretString);

impl RegistrationToken {
    pub(crate) fn generate() -> Self {
        Self(format!("hsr_{}", super::random_hex::<32>()).into())
    }

    /// The token itself, for the one who is to have it.
    pub fn reveal(&self) -> &str {
        self.0.expose_secret()
    }

    pub(crate) fn hash(&self) -> String {
        super::hash(self.reveal())
    }
}

impl Serialize for RegistrationToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.reveal())
    }
}

impl<'de> Deserialize<'de> for RegistrationToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

impl JsonSchema for RegistrationToken {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RegistrationToken".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "minLength": 1, "maxLength": 256 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_256_bits_and_never_prints() {
        let token = RegistrationToken::generate();
        assert_eq!(token.reveal().len(), "hsr_".len() + 64);
        assert!(!format!("{token:?}").contains(&token.reveal()[4..]));
        assert_ne!(token.hash(), RegistrationToken::generate().hash());
    }
}
