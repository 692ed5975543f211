//! Who says so: the certificate authorities that come with Hostler.
//!
//! - [`Authority`] is the embedded SPIFFE authority of one trust domain. It turns the certificate
//!   request of an enrolled host into an X.509-SVID, mints JWT-SVIDs, gives its own process a
//!   [`Source`] that renews itself, and hands out the trust bundle by which members recognise
//!   each other. Its keys succeed one another with an overlap (`succession.rs`, a core without a
//!   clock).
//! - [`WebAuthority`] is the private authority of the people's door: an ordinary web CA whose
//!   certificate people trust once, and a server certificate that renews itself.
//! - [`workload_api`] is the SPIFFE Workload API on a Unix socket: local processes learn who they
//!   are by asking, whether an [`Authority`] of their own answers or one far away.
//! - [`federation`] fetches the bundles of foreign trust domains and keeps them fresh.
//!
//! The authorities keep what they must remember in one directory each, in files that are replaced
//! atomically; private keys have mode 0600 and never leave the process otherwise.
//!
//! ```no_run
//! use hostler_authority::Authority;
//! use hostler_identity::{Authorizer, Client, KeyAndCsr, TrustDomain};
//! use jiff::Timestamp;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let trust_domain = TrustDomain::new("example.org")?;
//! let authority = Authority::open("/var/lib/hostler/authority".as_ref(), trust_domain)?;
//!
//! // A host sends a request; its key stays with it.
//! let host = KeyAndCsr::generate(None)?;
//! let id = "spiffe://example.org/host/a".parse()?;
//! let issued = authority.sign_csr(&host.csr_pem, &id, Timestamp::now())?;
//!
//! // This process is someone too, and calls exactly that host.
//! let me = authority.source(&"spiffe://example.org/control-plane".parse()?)?;
//! let client = Client::new(&me, Authorizer::id(issued.id));
//! # Ok(()) }
//! ```
//!
//! [`Source`]: hostler_identity::Source

#![warn(missing_docs)]

mod authority;
mod csr;
mod error;
pub mod federation;
mod files;
mod jwt_signer;
mod keys;
mod mint;
mod random;
mod renewer;
mod shared;
mod signer;
mod store;
mod succession;
mod web;
pub mod workload_api;

pub use authority::{Authority, IssuedSvid, Lifetimes, Rotation};
pub use csr::CsrRefused;
pub use error::{OpenError, SignError};
pub use files::FileError;
pub use keys::Bundles;
pub use mint::IssuedJwtSvid;
pub use shared::{Revision, SharedState, SharedStateError};
pub use web::{WebAuthority, WebAuthorityError};
