//! Keys that several processes share: where they lie, as an authority sees it.
//!
//! A directory belongs to one process. Replicas of a control plane keep what an authority remembers
//! in a place that all of them reach. Whoever changes it says on which revision the change
//! builds; of two who build on the same, one is told to look again. So two replicas never make two
//! successors of one root.

use std::error::Error;

use secrecy::SecretString;

/// A place for the memories of authorities, by name. Calls may block for as long as a disk does:
/// they are made when keys change, some times a month, and at start.
pub trait SharedState: Send + Sync {
    /// What was last stored under this name.
    fn load(&self, name: &str) -> Result<Option<Revision>, SharedStateError>;

    /// Stores `text` if what is stored is still of the revision `over` (0: nothing), and answers
    /// whether it was. The stored text then has the revision `over + 1`.
    fn replace(&self, name: &str, over: u64, text: &SecretString)
    -> Result<bool, SharedStateError>;
}

/// A stored text and how often it was replaced; 1 at first.
#[derive(Debug, Clone)]
pub struct Revision {
    /// Grows by one with each replacement.
    pub number: u64,
    /// Holds private keys.
    pub text: SecretString,
}

/// The place cannot be reached, or cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the shared keys cannot be read or stored: {0}")]
pub struct SharedStateError(#[source] pub Box<dyn Error + Send + Sync>);
