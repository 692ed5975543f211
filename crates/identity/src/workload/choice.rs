//! Which identity is meant, where a process is given several.

use std::fmt;
use std::sync::Arc;

use spiffe::x509_source::SvidPicker;
use spiffe::{SpiffeId, X509Svid};

/// Which of its identities a process means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SvidChoice {
    /// The one that the Workload API names first, as the standard has it.
    #[default]
    Default,
    /// The one with this SPIFFE ID.
    Id(SpiffeId),
    /// The one with this hint: a word that operators give an identity to say what it is for.
    Hint(String),
}

/// How an identity of a process is told from its others.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SvidName {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Its hint, if it has one.
    pub hint: Option<String>,
}

impl SvidChoice {
    /// The position of the chosen one.
    pub(super) fn among(&self, names: &[SvidName]) -> Option<usize> {
        names.iter().position(|name| match self {
            Self::Default => true,
            Self::Id(id) => &name.id == id,
            Self::Hint(hint) => name.hint.as_ref() == Some(hint),
        })
    }
}

impl SvidPicker for SvidChoice {
    fn pick_svid(&self, svids: &[Arc<X509Svid>]) -> Option<usize> {
        self.among(&names(svids))
    }
}

pub(super) fn names(svids: &[Arc<X509Svid>]) -> Vec<SvidName> {
    let name = |svid: &Arc<X509Svid>| SvidName::new(svid.spiffe_id(), svid.hint());
    svids.iter().map(name).collect()
}

impl SvidName {
    pub(super) fn new(id: &SpiffeId, hint: Option<&str>) -> Self {
        Self {
            id: id.clone(),
            hint: hint.filter(|hint| !hint.is_empty()).map(str::to_owned),
        }
    }
}

impl fmt::Display for SvidChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("at all"),
            Self::Id(id) => write!(f, "{id}"),
            Self::Hint(hint) => write!(f, "with the hint {hint:?}"),
        }
    }
}

impl fmt::Display for SvidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hint {
            None => write!(f, "{}", self.id),
            Some(hint) => write!(f, "{} (hint {hint:?})", self.id),
        }
    }
}
