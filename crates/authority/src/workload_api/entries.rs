//! Registration entries: which process is who.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use hostler_identity::SpiffeId;

use super::attest::Caller;

/// The standard's limit for a hint.
const MAX_HINT_BYTES: usize = 1024;

/// The entries of a host, replaced whole by whoever owns them. Cheap to clone.
///
/// A process has the identities of every entry that it matches, in their order here; the first is
/// its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entries(Option<Arc<[Entry]>>);

/// One entry: a process that matches **all** of the selectors is `id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    id: SpiffeId,
    selectors: Vec<Selector>,
    hint: Option<String>,
}

/// Something that can be known of a local process.
///
/// A program is not a user: whoever may run a program can also put code of their own into it
/// (`LD_PRELOAD`, a debugger). An entry by path or digest should name the user as well.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Selector {
    /// `unix:uid:1000`: its effective user.
    Uid(u32),
    /// `unix:gid:1000`: its effective group. Supplementary groups do not count.
    Gid(u32),
    /// `unix:pid:1234`: exactly this process.
    Pid(i32),
    /// `unix:path:/usr/bin/nginx`: the program that it runs, by the path of its file on this
    /// host. A file of the same path in a container is another one.
    Path(PathBuf),
    /// `unix:sha256:HEX`: the program that it runs, by the SHA-256 of its file.
    Sha256([u8; 32]),
}

/// An entry that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// It would match every process.
    #[error("an entry without selectors would make every process {id}; give at least one")]
    NoSelectors {
        /// Whose entry it is.
        id: SpiffeId,
    },
    /// The ID is that of a trust domain.
    #[error("{id} names a trust domain, not a workload; give it a path")]
    NoPath {
        /// The ID.
        id: SpiffeId,
    },
    /// The hint is too long.
    #[error("a hint has at most {MAX_HINT_BYTES} bytes")]
    LongHint,
}

/// A text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no selector; write unix:uid:N, unix:gid:N, unix:pid:N, unix:path:/ABSOLUTE or \
     unix:sha256:64-HEX-DIGITS"
)]
pub struct SelectorError(String);

impl Entry {
    /// An entry of at least one selector.
    pub fn new(
        id: SpiffeId,
        selectors: impl IntoIterator<Item = Selector>,
    ) -> Result<Self, EntryError> {
        let selectors: Vec<_> = selectors.into_iter().collect();
        if selectors.is_empty() {
            return Err(EntryError::NoSelectors { id });
        }
        if id.path().is_empty() {
            return Err(EntryError::NoPath { id });
        }
        Ok(Self {
            id,
            selectors,
            hint: None,
        })
    }

    /// The same entry with a hint, by which a process that has several identities tells them
    /// apart (`internal`, `external`).
    pub fn with_hint(mut self, hint: impl Into<String>) -> Result<Self, EntryError> {
        let hint = hint.into();
        if hint.len() > MAX_HINT_BYTES {
            return Err(EntryError::LongHint);
        }
        self.hint = (!hint.is_empty()).then_some(hint);
        Ok(self)
    }

    /// Who a matching process is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// What a process must match, all of it.
    #[must_use]
    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    /// The hint, if there is one.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    pub(super) fn matches(&self, caller: &Caller) -> bool {
        self.selectors.iter().all(|selector| caller.has(selector))
    }

    /// Whether only the digest of the caller's program is missing to decide.
    pub(super) fn turns_on_digest(&self, caller: &Caller) -> bool {
        let digest = |selector: &&Selector| matches!(selector, Selector::Sha256(_));
        self.selectors.iter().any(|selector| digest(&selector))
            && self
                .selectors
                .iter()
                .all(|selector| digest(&selector) || caller.has(selector))
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        Self(Some(entries.into_iter().collect()))
    }
}

impl Default for Entries {
    /// No entries: nobody is anybody.
    fn default() -> Self {
        Self::from_iter([])
    }
}

impl Entries {
    /// What is to be said before anybody knows the entries: callers are told to come back, instead
    /// of that they have none.
    #[must_use]
    pub fn not_known_yet() -> Self {
        Self(None)
    }

    /// The entries, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.0.iter().flat_map(|entries| entries.iter())
    }

    pub(super) fn are_known(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "unix:uid:{uid}"),
            Self::Gid(gid) => write!(f, "unix:gid:{gid}"),
            Self::Pid(pid) => write!(f, "unix:pid:{pid}"),
            Self::Path(path) => write!(f, "unix:path:{}", path.display()),
            Self::Sha256(digest) => write!(f, "unix:sha256:{}", hex::encode(digest)),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        parse(text).ok_or_else(|| SelectorError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Selector> {
    let (kind, value) = text.strip_prefix("unix:")?.split_once(':')?;
    match kind {
        "uid" => number(value).map(Selector::Uid),
        "gid" => number(value).map(Selector::Gid),
        "pid" => number(value).filter(|pid| *pid > 0).map(Selector::Pid),
        "path" => {
            let path = PathBuf::from(value);
            path.is_absolute().then_some(Selector::Path(path))
        }
        "sha256" => {
            let mut digest = [0; 32];
            hex::decode_to_slice(value, &mut digest).ok()?;
            Some(Selector::Sha256(digest))
        }
        _ => None,
    }
}

/// Digits alone, because `parse` takes a plus sign too.
fn number<N: FromStr>(text: &str) -> Option<N> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_written_as_it_is_read() {
        let digest = format!("unix:sha256:{}", "0f".repeat(32));
        for text in [
            "unix:uid:0",
            "unix:gid:4294967295",
            "unix:pid:1",
            "unix:path:/usr/bin/a b",
            digest.as_str(),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_with_the_forms_that_are() {
        for text in [
            "",
            "uid:0",
            "unix:uid:",
            "unix:uid:-1",
            "unix:uid:+1",
            "unix:uid:4294967296",
            "unix:pid:0",
            "unix:path:nginx",
            "unix:sha256:00",
            "k8s:ns:default",
        ] {
            let refused = text.parse::<Selector>().unwrap_err();
            assert!(refused.to_string().contains("unix:path:"), "{refused}");
        }
    }

    #[test]
    fn an_entry_that_would_match_everybody_cannot_be_made() {
        let id: SpiffeId = "spiffe://a.example/web".parse().unwrap();
        let refused = Entry::new(id.clone(), []).unwrap_err();
        assert_eq!(refused, EntryError::NoSelectors { id });
        let id: SpiffeId = "spiffe://a.example".parse().unwrap();
        let refused = Entry::new(id.clone(), [Selector::Uid(0)]).unwrap_err();
        assert_eq!(refused, EntryError::NoPath { id });
    }

    #[test]
    fn a_hint_has_a_limit_and_an_empty_one_is_none() {
        let id: SpiffeId = "spiffe://a.example/web".parse().unwrap();
        let entry = Entry::new(id, [Selector::Uid(0)]).unwrap();
        let hinted = |bytes| entry.clone().with_hint("x".repeat(bytes));
        assert_eq!(hinted(0).unwrap().hint(), None);
        assert!(hinted(1024).unwrap().hint().is_some());
        assert_eq!(hinted(1025), Err(EntryError::LongHint));
    }
}
