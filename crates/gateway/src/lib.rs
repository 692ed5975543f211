//! How operations are reached: doors, and the HTTP adapter behind them.
#![warn(missing_docs)]

mod adapter;
mod answer;
mod body;
mod connection;
mod credentials;
mod decoy;
mod dispatch;
mod door;
mod envelope;
mod health;
mod input;
mod limits;
mod openapi;
mod paging;
mod route;
mod sse;
mod target;

pub use adapter::{AdapterError, HttpAdapter, HttpAdapterBuilder};
pub use connection::ConnectionInfo;
pub use credentials::{AuthError, Credentials, IdentityProvider};
pub use decoy::{Decoy, SiteError};
pub use door::{Door, DoorError, Doorway};
pub use health::Health;
pub use limits::{DoorLimits, RequestLimits};
pub use route::RouteError;
