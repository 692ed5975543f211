//! How operations are reached: doors, and the HTTP adapter behind them.
//!
//! A **[`Door`]** listens on TCP, speaks TLS, HTTP/1.1 and HTTP/2, and keeps peers within limits of
//! size, number and time. Behind it an **[`HttpAdapter`]** turns a registry of operations into an
//! axum router: each operation under its own path `/{service}/{operation}` and under its REST
//! routes, `GET /openapi.json` that describes both to the caller who asks, `GET /healthz` in one
//! word, `POST /mcp` for AI agents if it is wanted, and a [`Decoy`] on every other path. Who calls is said by an **[`IdentityProvider`]**,
//! which the application writes.
//!
//! Nothing here knows what the operations do, and no operation knows that it was called over HTTP.
//!
//! ```
//! use std::sync::Arc;
//! use axum::body::Body;
//! use futures::future::BoxFuture;
//! use hostler_gateway::{AuthError, Credentials, HttpAdapter, IdentityProvider};
//! use hostler_operations::*;
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//! use tower::ServiceExt as _;
//!
//! /// Greets somebody.
//! #[derive(Deserialize, JsonSchema)]
//! struct Greet { name: String }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Greeting { text: String }
//!
//! errors! {
//!     /// Greeting does not fail.
//!     enum NoError {}
//! }
//!
//! async fn greet(_: &(), _: Call, input: Greet) -> Result<Greeting, NoError> {
//!     Ok(Greeting { text: format!("Hello, {}!", input.name) })
//! }
//!
//! /// Knows nobody.
//! struct Strangers;
//!
//! impl IdentityProvider for Strangers {
//!     fn resolve<'a>(
//!         &'a self,
//!         _: &'a Credentials,
//!     ) -> BoxFuture<'a, Result<Option<Identity>, AuthError>> {
//!         Box::pin(async { Ok(None) })
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let greetings = service("greetings").with(
//!     query("greet", greet).open().rest(Method::GET, "/v1/greetings/{name}", StatusCode::OK),
//! );
//! let registry = Registry::builder().service(greetings, &Arc::new(())).build()?;
//! let adapter = HttpAdapter::builder(registry, Arc::new(Strangers)).build()?;
//!
//! // A door would bring the requests in: `Door::bind(address, &tls, &adapter, limits)`.
//! let request = http::Request::get("/v1/greetings/Ada").body(Body::empty())?;
//! let response = adapter.router().oneshot(request).await?;
//! assert_eq!(response.status(), 200);
//! assert!(response.headers().contains_key("x-request-id"));
//! # Ok(()) }
//! ```
//!
//! The order of a request's walk is a promise, kept in one place (`dispatch`): path, caller,
//! access, body, input, call, answer. A request without a valid credential is refused before its
//! body is read.
//!
//! What a peer may take is written down in [`DoorLimits`] and [`RequestLimits`].

#![warn(missing_docs)]

mod adapter;
mod answer;
mod body;
mod budget;
mod calls;
mod connection;
mod credentials;
mod decoy;
mod dispatch;
mod docs;
mod door;
mod envelope;
mod from_openapi;
mod health;
mod input;
mod limits;
mod mcp;
mod openapi;
mod paging;
mod rates;
mod recheck;
mod route;
mod sse;
mod target;
mod within;

pub use adapter::{AdapterError, HttpAdapter, HttpAdapterBuilder};
pub use calls::{
    CallAdapter, CallClient, CallClientBuilder, CallClientError, Caller, Subscription,
};
pub use connection::ConnectionInfo;
pub use credentials::{AuthError, Credentials, IdentityProvider};
pub use decoy::{Decoy, SiteError};
pub use door::{Admission, Behind, Door, DoorError, Doorway, Handed};
pub use from_openapi::{Credential, Exposed, ForeignApi, ImportError, Imported, LeftOut, Upstream};
pub use health::Health;
pub use limits::{DoorLimits, RequestLimits};
pub use mcp::Mcp;
pub use route::RouteError;
