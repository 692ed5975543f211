//! What can be done: operations, each defined once, for every way in which it can be reached.
//!
//! An operation is an async function with a typed input, a typed output and a typed error. Its
//! definition, one readable block beside the function, says its name, its kind, who may call it and
//! which REST route it has. From that block come the REST route, the path `/{service}/{operation}`,
//! the OpenAPI document, discovery, and the checks of access and input. There is no second table to
//! keep in step. No socket is opened in this crate: `hostler-gateway` brings the requests in.
//!
//! ```
//! use std::sync::{Arc, Mutex};
//! use hostler_operations::*;
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! struct Library { lent: Mutex<Vec<String>> }
//!
//! const LEND: Scope = Scope::new("books:lend");
//!
//! fn operations() -> Service<Library> {
//!     service("books")
//!         .with(mutation("lend", lend)
//!             .requires(LEND)
//!             .rest(Method::POST, "/v1/books/{title}/lend", StatusCode::CREATED))
//! }
//!
//! /// Lends a book to the caller.
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Lend {
//!     /// The title, as it stands on the spine.
//!     title: String,
//! }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Lent { title: String, to: String }
//!
//! errors! {
//!     /// Why a book could not be lent.
//!     enum LendError {
//!         /// Somebody else has it.
//!         Taken { title: String } = ErrorCode::declared("TAKEN", 409), "{title:?} is lent already";
//!     }
//! }
//!
//! async fn lend(library: &Library, call: Call, input: Lend) -> Result<Lent, LendError> {
//!     let mut lent = library.lent.lock().map_err(|_| internal("the shelf fell over"))?;
//!     if lent.contains(&input.title) {
//!         return Err(LendError::Taken { title: input.title });
//!     }
//!     lent.push(input.title.clone());
//!     let to = call.identity().map_or("nobody", Identity::subject).to_owned();
//!     Ok(Lent { title: input.title, to })
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let library = Arc::new(Library { lent: Mutex::default() });
//! let registry = Registry::builder().service(operations(), &library).build()?;
//!
//! let ada = Identity::new("ada", Grants::from_iter([LEND]));
//! let request = |identity| Request {
//!     input: serde_json::json!({"title": "Dune"}),
//!     identity,
//!     ..Request::default()
//! };
//! let reply = registry.invoke("books/lend", request(Some(ada.clone()))).await?;
//! assert_eq!(reply.output["to"], "ada");
//! let taken = registry.invoke("books/lend", request(Some(ada))).await.unwrap_err();
//! assert_eq!(taken.code().as_str(), "TAKEN");
//! let refused = registry.invoke("books/lend", request(None)).await.unwrap_err();
//! assert_eq!(refused.message(), "authentication required");
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs)]

mod access;
mod call;
mod declare;
mod define;
mod discovery;
mod error;
mod events;
mod foreign;
mod id;
mod name;
mod peer;
mod progress;
pub mod protocol;
pub mod rate;
mod registry;
mod schema;
mod weight;

pub use access::{Access, Denied, Grants, Identity, Scope};
pub use call::{Call, Reply, RequestId};
pub use declare::{ErrorSpec, Internal, OperationError, internal};
pub use define::{
    DEFAULT_TIMEOUT, Handler, Kind, Operation, Outputs, RestBinding, Service, Undecided, mutation,
    query, service, subscription,
};
pub use error::{
    CallError, ErrorCode, ErrorObject, FORBIDDEN, INTERNAL, INVALID_INPUT, NOT_FOUND, TIMEOUT,
    rest_code,
};
pub use events::{
    AnyEvent, AnyEventReader, EventError, EventReader, StreamItem, TooLarge, write_event,
};
pub use foreign::{Foreign, foreign, foreign_subscription};
pub use http::{Method, StatusCode};
pub use name::{NameError, OperationName};
pub use peer::Peer;
pub use progress::{Progress, ProgressSink, ProgressSource, progress};
pub use registry::{DefinitionError, Registered, Registry, RegistryBuilder, Request};
pub use weight::weight;

/// What [`errors!`] needs where it is used.
#[doc(hidden)]
pub mod __private {
    pub use crate::schema::{details_schema, field_schema};
    pub use serde_json::json;

    /// Joins the lines of a doc comment.
    pub fn join_doc(lines: &[&str]) -> String {
        lines
            .iter()
            .map(|line| line.trim())
            .collect::<Vec<_>>()
            .join(" ")
    }
}
