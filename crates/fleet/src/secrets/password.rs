//! A password, on its way in.

use schemars::JsonSchema;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};

/// How short a new one may be. NIST SP 800-63B (4.1.1.2 of revision 4) asks for length, and for no
/// mixture of characters.
const SHORTEST: u32 = 12;
const LONGEST: u32 = 1024;

/// A password as somebody typed it. It comes in with a call and never goes out.
#[derive(Debug, Clone)]
pub(crate) struct Password(SecretString);

impl Password {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

impl JsonSchema for Password {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Password".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "minLength": 1, "maxLength": LONGEST, "writeOnly": true,
        })
    }
}

/// One that is to be set: long enough to be guessed by nobody within a login's limits.
#[derive(Debug, Clone)]
pub(crate) struct NewPassword(pub(crate) Password);

impl<'de> Deserialize<'de> for NewPassword {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Password::deserialize(deserializer).map(Self)
    }
}

impl JsonSchema for NewPassword {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NewPassword".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string", "minLength": SHORTEST, "maxLength": LONGEST, "writeOnly": true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_never_prints() {
        let typed: NewPassword = serde_json::from_str("\"correct horse\"").expect("a text");
        assert!(!format!("{typed:?}").contains("horse"));
        assert_eq!(typed.0.bytes(), b"correct horse");
    }
}
