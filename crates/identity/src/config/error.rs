//! Why a configuration is not taken: which key, and where it stands.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no YAML, has a key that is not known, or a value of the wrong type. The reason
    /// names the key and its line.
    #[error("{name}: {reason}")]
    Yaml {
        /// The file.
        name: String,
        /// What the reader says: `http: unknown field "prot", ... at line 3 column 3`.
        reason: String,
    },
    /// A value cannot be used, or contradicts another one.
    #[error("{place}: {key}: {reason}")]
    Value {
        /// The line or the variable that says so.
        place: Place,
        /// The key, with dots: `http.authentication.policy`.
        key: &'static str,
        /// What is wrong, and what to write instead.
        reason: String,
    },
}

/// Where a value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// In a file, at a line from 1.
    Line {
        /// The file.
        name: String,
        /// The line.
        line: usize,
    },
    /// In a variable of the environment.
    Variable(String),
    /// Nowhere, where it should stand in this file.
    Missing {
        /// The file.
        name: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line { name, line } => write!(f, "{name} line {line}"),
            Self::Variable(name) => write!(f, "the variable {name}"),
            Self::Missing { name } => f.write_str(name),
        }
    }
}
