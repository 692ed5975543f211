//! Who is on the other end: SPIFFE mutual TLS for axum and hyper.
//!
//! Every process has a **[`Source`]**: a live identity that renews itself, together with the
//! roots by which it recognises others. From a source and an **[`Authorizer`]** (who may be on the
//! other end) come a [`server_config`] and a [`client_config`] for rustls, and on top of them a
//! [`Server`] that serves an axum router and a [`Client`] that speaks HTTP/1.1 and HTTP/2. A
//! handler that wants to know its caller takes a **[`PeerIdentity`]**, which can only come out of
//! a verified handshake.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use hostler_identity::{Authorizer, PeerIdentity, Server, Source, TrustDomain};
//!
//! async fn hello(peer: PeerIdentity) -> String {
//!     format!("hello, {}", peer.id())
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let source = Source::workload_api("unix:///run/spire/agent/api.sock").await?;
//! let members = Authorizer::member_of(TrustDomain::new("example.org")?);
//! let server = Server::bind("0.0.0.0:8443", &source, members).await?;
//! server.serve(Router::new().route("/", get(hello)), std::future::pending()).await;
//! # Ok(()) }
//! ```
//!
//! What holds, and is kept by a test each:
//!
//! - An unauthorized peer fails **in the handshake**, before a byte of a request is sent or read.
//! - A renewed identity is used from the next handshake on; connections that live, live on.
//! - A withdrawn or expired identity is not presented, and nobody is recognised with it.
//! - TLS 1.3 only, client certificates always, no session resumption that could skip the
//!   authorizer.
//!
//! Where mutual TLS does not reach, a **[`JwtSvid`]** is the identity of whoever presents a token;
//! it too can only come out of its verification.
//!
//! This crate authenticates. What an identity may *do* is the application's affair.

#![warn(missing_docs)]

/// The examples of README.md, which must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod authorizer;
mod bundle;
mod cause;
mod certificates;
mod chain;
mod client;
pub mod config;
mod document;
mod endpoint;
mod enroll;
mod files;
mod id;
mod jwt;
mod peer;
mod pem;
#[cfg(feature = "quinn")]
mod quic;
mod renewal;
mod rules;
mod server;
mod source;
mod svid;
mod tls;
pub mod tunnel;
mod workload;

pub use authorizer::Authorizer;
pub use bundle::{BundleError, TrustBundles};
pub use certificates::{Certificates, Holder};
pub use chain::SvidChain;
pub use client::{Client, ClientError, Streaming};
pub use document::{BundleDocument, BundleDocumentError};
pub use endpoint::{EndpointError, WorkloadEndpoint};
pub use enroll::{EnrollError, KeyAndCsr};
pub use files::{FilesError, SvidFiles};
pub use id::{IdError, parse_spiffe_id, parse_trust_domain};
pub use jwt::{JwtBundle, JwtBundles, JwtKey, JwtKeyError, JwtSvid, JwtSvidRule};
pub use peer::{NoPeerIdentity, PeerIdentity, PeerIdentityRequired};
pub use peer::{PeerAdded, PeerRequired, RequirePeer, WithPeer};
pub use pem::certificates_pem;
#[cfg(feature = "quinn")]
pub use quic::{quic_client_config, quic_server_config};
pub use renewal::{renewal_due, wait_until};
pub use rules::SvidRule;
pub use server::{AcceptError, Acceptor, HealthListener, RunningServer, Server};
pub use source::{Source, SourceClosed, SourceWriter, Unavailable};
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain};
pub use svid::{Svid, SvidError};
pub use tls::{PeerRefused, client_config, crypto_provider, server_config};
pub use workload::{MaterialError, WorkloadApiFailure, WorkloadStream, WorkloadSvid};
pub use workload::{SvidChoice, SvidName, WorkloadJwt};
