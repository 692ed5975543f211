//! Names of operations: `service/operation`, the same word in the registry, on the wire and in a path.

use std::fmt;
use std::str::FromStr;

/// The name of an operation, `service/operation`: two words of lower-case letters, digits and
/// single hyphens, at most 64 bytes each.
///
/// On the wire and as an HTTP path it carries a leading slash ([`OperationName::path`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationName {
    whole: Box<str>,
    slash: usize,
}

/// Why a string is not the name of an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// There is no slash, or more than one.
    #[error("{0:?} is not of the form service/operation")]
    Shape(String),
    /// One of the two words holds something else than `[a-z0-9]` and single inner hyphens.
    #[error(
        "{word:?} in {name:?} is not a word: 1 to 64 lower-case letters, digits, inner hyphens, \
         beginning with a letter"
    )]
    Word {
        /// The offending half.
        word: String,
        /// The whole name.
        name: String,
    },
}

impl OperationName {
    /// Joins a service and an operation.
    ///
    /// # Errors
    /// [`NameError::Word`] when one of the two is not a word.
    pub fn new(service: &str, operation: &str) -> Result<Self, NameError> {
        let whole = format!("{service}/{operation}");
        for word in [service, operation] {
            if !is_word(word) {
                return Err(NameError::Word {
                    word: word.to_owned(),
                    name: whole,
                });
            }
        }
        Ok(Self {
            slash: service.len(),
            whole: whole.into_boxed_str(),
        })
    }

    /// The registry form, `hosts/create`.
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// The wire and path form, `/hosts/create`.
    pub fn path(&self) -> String {
        format!("/{}", self.whole)
    }

    /// The part before the slash.
    pub fn service(&self) -> &str {
        &self.whole[..self.slash]
    }

    /// The part after the slash.
    pub fn operation(&self) -> &str {
        &self.whole[self.slash + 1..]
    }
}

fn is_word(word: &str) -> bool {
    (1..=64).contains(&word.len())
        && word.starts_with(|c: char| c.is_ascii_lowercase())
        && !word.ends_with('-')
        && !word.contains("--")
        && word
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl FromStr for OperationName {
    type Err = NameError;

    fn from_str(name: &str) -> Result<Self, NameError> {
        match name.split_once('/') {
            Some((service, operation)) if !operation.contains('/') => Self::new(service, operation),
            _ => Err(NameError::Shape(name.to_owned())),
        }
    }
}

impl fmt::Display for OperationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

impl std::borrow::Borrow<str> for OperationName {
    fn borrow(&self) -> &str {
        &self.whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_two_words_around_one_slash() {
        let name: OperationName = "vms/port-forward".parse().expect("a name");
        assert_eq!((name.service(), name.operation()), ("vms", "port-forward"));
        assert_eq!(name.path(), "/vms/port-forward");
        for bad in [
            "",
            "vms",
            "/vms/get",
            "vms/get/",
            "a/b/c",
            "vms/",
            "Vms/get",
            "vms/port--x",
            "vms/-get",
            "vms/get-",
            "vms/ge t",
            "vms/gét",
            "1vms/get",
        ] {
            assert!(
                bad.parse::<OperationName>().is_err(),
                "{bad:?} was taken for a name"
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_parses_prints_as_it_was(text in "[a-z0-9/-]{0,20}") {
            if let Ok(name) = text.parse::<OperationName>() {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert_eq!(format!("{}/{}", name.service(), name.operation()), text);
            }
        }
    }
}
