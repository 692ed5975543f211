//! Enums whose values are words: the same word in JSON, in a schema and in the database.

/// A word from the database that the enum does not know.
#[derive(Debug, thiserror::Error)]
#[error("{word:?} is not a {what}")]
pub(crate) struct UnknownWord {
    pub(crate) what: &'static str,
    pub(crate) word: String,
}

/// Declares such an enum, with `as_str`, `parse`, `Display`, serde and a schema.
macro_rules! words {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize, schemars::JsonSchema,
        )]
        #[non_exhaustive]
        $vis enum $name {
            $($(#[$variant_meta])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// All of them.
            #[allow(dead_code, reason = "some are only shown")]
            $vis const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word.
            $vis fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl $name {
            /// Reads the word as the database has it.
            #[allow(dead_code, reason = "some are only shown")]
            pub(crate) fn parse(word: &str) -> Result<Self, $crate::words::UnknownWord> {
                match word {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::words::UnknownWord {
                        what: stringify!($name),
                        word: word.to_owned(),
                    }),
                }
            }
        }
    };
}

pub(crate) use words;
