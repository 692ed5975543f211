//! Who may call: identities, the scopes they hold, and what an operation asks for.
//!
//! An identity comes from whoever carried the call in (a bearer token, a machine's certificate);
//! this room only compares what it holds with what the operation requires. What is not granted is
//! refused.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// A permission, by convention `things:verb` (`hosts:write`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(Cow<'static, str>);

impl Scope {
    /// A scope known when the program is written.
    pub const fn new(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// A scope read from a database or a token.
    pub fn from_string(name: String) -> Self {
        Self(Cow::Owned(name))
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The scopes that an identity holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grants {
    /// Every scope there is, and every one there will be: the platform's administrator.
    All,
    /// These and no others.
    Only(BTreeSet<Scope>),
}

impl Grants {
    /// Whether the scope is among them.
    pub fn holds(&self, scope: &Scope) -> bool {
        match self {
            Self::All => true,
            Self::Only(scopes) => scopes.contains(scope),
        }
    }
}

impl FromIterator<Scope> for Grants {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        Self::Only(scopes.into_iter().collect())
    }
}

/// A caller who has proved who they are. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    subject: Arc<str>,
    grants: Arc<Grants>,
    principal: Option<Arc<dyn Any + Send + Sync>>,
}

impl Identity {
    /// An identity whose `subject` (a user's id, an API key's id, a SPIFFE ID) appears in logs
    /// and audit lines, so it must not be a secret.
    pub fn new(subject: impl Into<Arc<str>>, grants: Grants) -> Self {
        Self {
            subject: subject.into(),
            grants: Arc::new(grants),
            principal: None,
        }
    }

    /// Attaches what the application knows of the caller (its team, its host), for its handlers.
    #[must_use]
    pub fn with_principal<P: Any + Send + Sync>(mut self, principal: P) -> Self {
        self.principal = Some(Arc::new(principal));
        self
    }

    /// Who it is.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What it may do.
    pub fn grants(&self) -> &Grants {
        &self.grants
    }

    /// What [`Identity::with_principal`] attached, when it is a `P`.
    pub fn principal<P: Any>(&self) -> Option<&P> {
        self.principal.as_deref()?.downcast_ref()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

/// What an operation asks of its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: anyone may call, with or without an identity.
    Open,
    /// Every one of these scopes.
    AllOf(Vec<Scope>),
    /// At least one of these scopes.
    AnyOf(Vec<Scope>),
}

/// Why a call was refused before its handler saw it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denied {
    /// The operation is restricted and nobody said who calls.
    #[error("authentication required")]
    Unauthenticated,
    /// The caller is known and lacks a scope.
    #[error("this needs {0}, which your credentials do not grant")]
    MissingScope(String),
}

impl Access {
    /// Compares what is asked with what is held.
    ///
    /// # Errors
    /// [`Denied`], which says whether a credential would help or a better one is needed.
    pub fn check(&self, identity: Option<&Identity>) -> Result<(), Denied> {
        let scopes = match self {
            Self::Open => return Ok(()),
            Self::AllOf(scopes) | Self::AnyOf(scopes) => scopes,
        };
        let grants = identity.ok_or(Denied::Unauthenticated)?.grants();
        match self {
            Self::AnyOf(_) if scopes.iter().any(|scope| grants.holds(scope)) => Ok(()),
            Self::AnyOf(_) => Err(Denied::MissingScope(format!(
                "one of the scopes {}",
                scopes
                    .iter()
                    .map(Scope::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            ))),
            _ => match scopes.iter().find(|scope| !grants.holds(scope)) {
                None => Ok(()),
                Some(missing) => Err(Denied::MissingScope(format!("the scope {missing}"))),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: Scope = Scope::new("things:read");
    const WRITE: Scope = Scope::new("things:write");

    fn holder(scopes: &[Scope]) -> Identity {
        Identity::new("someone", scopes.iter().cloned().collect())
    }

    #[test]
    fn what_is_not_granted_is_refused() {
        let both = Access::AllOf(vec![READ, WRITE]);
        let either = Access::AnyOf(vec![READ, WRITE]);
        assert_eq!(both.check(None), Err(Denied::Unauthenticated));
        assert_eq!(either.check(None), Err(Denied::Unauthenticated));
        assert!(matches!(
            both.check(Some(&holder(&[READ]))),
            Err(Denied::MissingScope(_))
        ));
        assert!(matches!(
            either.check(Some(&holder(&[]))),
            Err(Denied::MissingScope(_))
        ));
        assert_eq!(both.check(Some(&holder(&[READ, WRITE]))), Ok(()));
        assert_eq!(either.check(Some(&holder(&[WRITE]))), Ok(()));
        assert_eq!(
            both.check(Some(&Identity::new("root", Grants::All))),
            Ok(())
        );
        assert_eq!(Access::Open.check(None), Ok(()));
    }

    #[test]
    fn an_identity_does_not_print_what_is_attached_to_it() {
        let identity = holder(&[]).with_principal("a secret".to_owned());
        assert!(!format!("{identity:?}").contains("a secret"));
        assert_eq!(
            identity.principal::<String>().map(String::as_str),
            Some("a secret")
        );
        assert!(identity.principal::<u8>().is_none());
    }
}
